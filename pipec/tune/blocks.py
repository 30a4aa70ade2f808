"""Building blocks: in which slots of a period the operations of a microbatch stand, by strides.

On a V the forward walks down the ranks in steps of `a` slots, turns and walks up in steps of `b`;
the backward does the same with `c` and `d`. The strides decide how long a microbatch lives, and so
how much is held; V-ZB, V-Half and V-Min are of this form (arXiv:2405.15362).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.source import Source
from pipec.tune.recipe import Recipe

Array = NDArray[Any]

PERIOD, _LARGEST, _TURNS = 6, 6, 4
"""F, B and W of two chunks; the largest stride; the most slots that a turn takes."""

TEXT = '''"""A building block found by `pipec tune`: strides a to d, turns x to z."""
schedule tuned(P, M, a={a}, b={b}, c={c}, d={d}, x={x}, y={y}, z={z}):
    flow main(stages=2 * P, microbatches=M): rank = min(stage, 2 * P - 1 - stage)

    every 6 on rank r:
        let down = a * (P - 1) + x           # where the forward has turned
        let turn = down + b * (P - 1) + y    # where the backward starts
        let back = turn + c * (P - 1) + z
        F[0] at a * r
        F[1] at down + b * (P - 1 - r)
        B[1] at turn + c * r
        B[0] at back + d * (P - 1 - r)
'''


@dataclass(frozen=True)
class Block:
    """Strides and turns, about how many chunks a rank holds, and how long a microbatch lives."""

    numbers: tuple[int, ...]
    held: float
    span: int


def block_recipe(block: Block, ranks: int, microbatches: int) -> Recipe:
    """The text of a block. Its numbers are parameters, so that people can change them."""
    text = TEXT.format(**dict(zip("abcdxyz", block.numbers, strict=True)))
    return Recipe("block", "block v", {"P": ranks, "M": microbatches}, Source("tuned.pipe", text))


def blocks(ranks: int, each: int = 3) -> list[Block]:
    """Blocks without collisions: for every amount held, `each` of those that live shortest."""
    found: dict[int, list[Block]] = {}
    for block in _all(ranks):
        known = found.setdefault(round(2 * block.held), [])
        known.append(block)
        known.sort(key=lambda one: (one.span, one.numbers))
        del known[each:]
    return [block for held in sorted(found) for block in found[held]]


def _all(ranks: int) -> Iterator[Block]:
    """All blocks in which no rank has two operations on one slot."""
    turns = np.array(list(product(range(1, _TURNS + 1), repeat=3)))
    rank = np.arange(ranks)
    for a, b, c, d in product(range(1, _LARGEST + 1), repeat=4):
        down = a * (ranks - 1) + turns[:, :1]
        turn = down + b * (ranks - 1) + turns[:, 1:2]
        back = turn + c * (ranks - 1) + turns[:, 2:]
        slots = np.stack(
            [
                np.broadcast_to(a * rank, (len(turns), ranks)),
                down + b * (ranks - 1 - rank),
                turn + c * rank,
                back + d * (ranks - 1 - rank),
            ]
        )
        places = np.sort(slots % PERIOD, axis=0)
        fine = (np.diff(places, axis=0) > 0).all(axis=(0, 2))
        held = (slots[2] - slots[1] + slots[3] - slots[0] + PERIOD // 2).max(axis=1) / PERIOD
        for at in np.flatnonzero(fine).tolist():
            numbers = (a, b, c, d, *turns[at].tolist())
            yield Block(numbers, float(held[at]), int(slots[3][at].max()))
