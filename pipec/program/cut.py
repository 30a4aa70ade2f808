"""One model, cut into other stages than its costs and sizes are stated for.

They are stated for the model in so many equal pieces. A stage has its share of the pieces that it
covers: half of one, or several. So schedules with one and with several chunks on a rank are
compared on one model, in one unit.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import groupby
from math import ceil, floor

from pipec.program.costs import PAIR, Costs, PerStage
from pipec.program.memory import Memory
from pipec.program.parts import OUT, Layout, layout
from pipec.program.sizes import CONSTANT

TIMES = ("F", "B", "W", "BW", PAIR, "sum")
"""Times that belong to a stage: half a stage takes half of them. A message is always whole."""

SIZES = (*CONSTANT, "activation", "stash")
"""Sizes that belong to a stage; a message has the size of a boundary."""

_NO_COSTS, _NO_SIZES = Costs(), Memory()


def cut_costs(costs: Costs, pieces: int, stages: int, own: Costs = _NO_COSTS) -> Costs:
    """The times of a model that is cut into so many stages.

    F, B and W of a piece take 1 unless they are stated; not where the schedule has its `own`.
    """
    known = costs.times
    stated = {key: _firsts(time, pieces, stages) for key, time in known.items() if key not in TIMES}
    for key in TIMES:
        if key in known or (key in TIMES[:3] and key not in own.times):
            stated[key] = _shares(partial(costs.time, key), pieces, stages)
    return replace(costs, times=stated)


def cut_memory(memory: Memory, pieces: int, stages: int, own: Memory = _NO_SIZES) -> Memory:
    """The sizes of a model that is cut into so many stages; unstated ones as in `cut_costs`."""
    known = memory.sizes
    units = not (memory.in_bytes or own.in_bytes or "activation" in own.sizes)
    stated = {key: _firsts(size, pieces, stages) for key, size in known.items() if key not in SIZES}
    for key in SIZES:
        if key in known or (key == "activation" and units):
            shares = _shares(partial(memory.size, key), pieces, stages)
            stated[key] = _whole(shares) if memory.in_bytes else shares
    return Memory(stated, memory.in_bytes, memory.limit)


def cut_layers(parts: Layout, pieces: int, stages: int) -> Layout:
    """The parts of a stage of a model that is cut into so many, of the parts of a piece.

    Raises `ValueError` where stages would not be alike.
    """
    if stages == pieces:
        return parts
    own = [part for part in parts if part.name != OUT]
    layers = [
        tuple(part.name for part in layer) for _, layer in groupby(own, key=lambda part: part.layer)
    ]
    share, rest = divmod(len(layers) * pieces, stages)
    if pieces % stages == 0:
        return layout(layers * (pieces // stages))
    if rest or not share or len(set(layers)) > 1:
        count = len(layers) * pieces
        raise ValueError(f"{count} layers do not make {stages} stages that are alike")
    return layout(layers[:1] * share)


def longest(costs: Costs, memory: Memory) -> tuple[str, int]:
    """The key with the longest list, and how many amounts that has; 0 where there is none."""
    lists = [
        (key, len(amounts))
        for key, amounts in (*costs.times.items(), *memory.sizes.items())
        if isinstance(amounts, tuple)
    ]
    return max(lists, key=lambda one: one[1], default=("", 0))


def _firsts(amounts: PerStage, pieces: int, stages: int) -> PerStage:
    """Per stage the amount of its first piece: what belongs to a boundary is not shared."""
    if not isinstance(amounts, tuple):
        return amounts
    firsts = (stage * pieces // stages for stage in range(stages))
    return tuple(amounts[min(piece, len(amounts) - 1)] for piece in firsts)


def _shares(of: Callable[[int], Fraction], pieces: int, stages: int) -> PerStage:
    """Per stage the sum over its share of every piece; one number where all are equal."""
    width = Fraction(pieces, stages)
    amounts = tuple(_sum(of, stage * width, (stage + 1) * width) for stage in range(stages))
    return amounts[0] if len(set(amounts)) == 1 else amounts


def _sum(of: Callable[[int], Fraction], begin: Fraction, end: Fraction) -> Fraction:
    """What pieces from `begin` to `end` come to; of the first and the last piece only a share."""
    whole = Fraction(0)
    for piece in range(floor(begin), ceil(end)):
        low, high = max(begin, Fraction(piece)), min(end, Fraction(piece + 1))
        whole += of(piece) * (high - low)
    return whole


def _whole(size: PerStage) -> PerStage:
    """Fractions of a byte are rounded up."""
    if isinstance(size, tuple):
        return tuple(Fraction(ceil(one)) for one in size)
    return Fraction(ceil(size))
