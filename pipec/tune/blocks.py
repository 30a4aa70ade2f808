"""Building blocks: in which slots of a period the operations of a microbatch stand, by strides.

On a V the forward walks down the ranks in steps of `a` slots, turns and walks up in steps of `b`;
the backward does the same with `c` and `d`. The strides decide how long a microbatch lives, and so
how much is held; V-ZB, V-Half and V-Min are of this form (arXiv:2405.15362).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.source import Source
from pipec.tune.cycle import Cycle, repeated
from pipec.tune.model import Operation
from pipec.tune.recipe import Recipe
from pipec.tune.replay import Replay

Array = NDArray[Any]

PERIODS, _LARGEST, _TURNS = range(6, 13), 6, 4
"""F, B and W of two chunks, and slots that stay free, which is where memory is short; the largest
stride; the most slots that a turn takes.
"""

TEXT = '''"""A building block found by `pipec tune`: strides a to d, turns x to z."""
schedule tuned(P, M, a={a}, b={b}, c={c}, d={d}, x={x}, y={y}, z={z}):
    flow main(stages=2 * P, microbatches=M): rank = min(stage, 2 * P - 1 - stage)

    every {period} on rank r:
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
    """The period, strides and turns, about how many chunks a rank holds, and how long a microbatch
    lives.
    """

    period: int
    numbers: tuple[int, ...]
    held: float
    span: int


def block_recipe(block: Block, ranks: int, microbatches: int) -> Recipe:
    """The text of a block. Its numbers are parameters, so that people can change them."""
    numbers = dict(zip("abcdxyz", block.numbers, strict=True))
    text = TEXT.format(period=block.period, **numbers)
    return Recipe("block", "block v", {"P": ranks, "M": microbatches}, Source("tuned.pipe", text))


def blocks(ranks: int, most: float) -> list[Block]:
    """Blocks without collisions that hold at most `most` chunks, of those that live shortest."""
    return living([block for block in _all(ranks) if block.held <= most], _RUN)


_RUN = 24
"""So many are taken for every period and amount held."""


def living(blocks: Sequence[Block], each: int) -> list[Block]:
    """For every period and amount held `each` of those that live shortest."""
    found: dict[tuple[int, int], list[Block]] = {}
    for block in blocks:
        found.setdefault((block.period, round(2 * block.held)), []).append(block)
    return [
        block
        for held in sorted(found)
        for block in sorted(found[held], key=lambda one: (one.span, one.numbers))[:each]
    ]


def shortest(
    blocks: Sequence[Block], replay: Replay, most: Fraction | float, each: int = 5
) -> list[Block]:
    """Those that are shortest if each rank just does what stands on its slots: for every amount
    held, up to the most, `each` of them, of those that hold no more.
    """
    ranks, at_once = replay.shop.ranks, replay.shop.fitting(len(blocks))
    run: list[tuple[int, int, int]] = []
    for begin in range(0, len(blocks), at_once):
        some = blocks[begin : begin + at_once]
        orders = np.stack([repeated(replay, _cycle(block, ranks)) for block in some])
        ends = replay.ends(orders)[0].tolist()
        held = [_peak(order, replay) for order in orders]
        run += zip(ends, held, range(begin, begin + len(some)), strict=True)
    kept: list[tuple[int, int, int]] = []
    for end, amount, number in sorted(run):
        if amount <= most and sum(amount >= other for _, other, _ in kept) < each:
            kept.append((end, amount, number))
    return [blocks[number] for _, _, number in kept]


def peak(block: Block, replay: Replay) -> int:
    """The most that a rank holds if each just does what stands on its slots."""
    return _peak(repeated(replay, _cycle(block, replay.shop.ranks)), replay)


def _peak(order: Array, replay: Replay) -> int:
    return int((replay.held(order) + np.array(replay.shop.base)).max())


def _cycle(block: Block, ranks: int) -> Cycle:
    """A block as a cycle: each W on the first slot behind its B that is free."""
    begin: dict[Operation, int] = {}
    slots = _slots(ranks, block.numbers[:4], np.array([block.numbers[4:]]))[:, 0].tolist()
    last = 2 * ranks - 1
    for rank in range(ranks):
        first, up, turned, back = (row[rank] for row in slots)
        begin[3 * rank, 0], begin[3 * (last - rank), 0] = first, up
        begin[3 * (last - rank) + 1, 0], begin[3 * rank + 1, 0] = turned, back
        taken = {slot % block.period for slot in (first, up, turned, back)}
        for line in (3 * (last - rank) + 1, 3 * rank + 1):
            at = begin[line, 0] + 1
            while at % block.period in taken:
                at += 1
            taken.add(at % block.period)
            begin[line + 1, 0] = at
    return Cycle(block.period, 1, begin)


def _all(ranks: int) -> Iterator[Block]:
    """All blocks in which no rank has two operations on one slot."""
    turns = np.array(list(product(range(1, _TURNS + 1), repeat=3)))
    for strides in product(range(1, _LARGEST + 1), repeat=4):
        slots = _slots(ranks, strides, turns)
        lives = (slots[2] - slots[1] + slots[3] - slots[0]).max(axis=1)
        for period in PERIODS:
            places = np.sort(slots % period, axis=0)
            fine = (np.diff(places, axis=0) > 0).all(axis=(0, 2))
            for at in np.flatnonzero(fine).tolist():
                numbers = (*strides, *turns[at].tolist())
                held = float(lives[at] + period // 2) / period
                yield Block(period, numbers, held, int(slots[3][at].max()))


def _slots(ranks: int, strides: Sequence[int], turns: Array) -> Array:
    """`[operation, turns, rank]`: the slots of F down, F up, B down and B up the ranks."""
    a, b, c, d = strides
    rank = np.arange(ranks)
    down = a * (ranks - 1) + turns[:, :1]
    turn = down + b * (ranks - 1) + turns[:, 1:2]
    back = turn + c * (ranks - 1) + turns[:, 2:]
    return np.stack(
        [
            np.broadcast_to(a * rank, (len(turns), ranks)),
            down + b * (ranks - 1 - rank),
            turn + c * rank,
            back + d * (ranks - 1 - rank),
        ]
    )
