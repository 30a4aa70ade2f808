"""A placement under costs and sizes, as flat tables: what searches and bounds work on.

An operation is a line of work (`pipec.order.lines`) and a number of it; microbatches of one line
are alike, so each line does them in order.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm

from pipec.order.lines import Clock, Line, Lines, clock
from pipec.program.costs import PAIR, Costs, per_stage
from pipec.program.effects import Kind
from pipec.program.memory import Memory
from pipec.program.placement import Placement

UNLIMITED = 1 << 60
"""More than any rank holds, in ticks of memory."""


@dataclass(frozen=True)
class Shop:
    """Lines with their times in ticks, and what they hold in `1 / scale` of a unit of memory.

    `keep[line]` is what is held more after an operation than before it; what is more is needed from
    its begin on. `base[rank]` is held always. `pair[line]` is the stated time of an OVERLAP of an
    F, or 0; `fused[line]` the time of a BW.
    """

    lines: Lines
    times: Clock
    ticks: int
    keep: list[int]
    base: list[int]
    scale: int
    fused: list[int]
    pair: list[int]

    @property
    def placement(self) -> Placement:
        """Who holds what."""
        return self.lines.placement

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.placement.ranks

    @cached_property
    def on(self) -> list[list[int]]:
        """The lines of each rank."""
        return [self.lines.on(rank) for rank in range(self.ranks)]

    @cached_property
    def before(self) -> list[list[tuple[int, int]]]:
        """For each line what it waits for, number by number: lines, each with a delay."""
        before: list[list[tuple[int, int]]] = [[] for _ in self.lines.lines]
        for number, after in enumerate(self.lines.after):
            for later, delay in zip(after, self.times.delay[number], strict=True):
                before[later].append((number, delay))
        return before

    @cached_property
    def weights(self) -> list[int]:
        """For each B the W of its stage; -1 for other lines."""
        kinds = [line.kind for line in self.lines.lines]
        return [number + 1 if kind == Kind.B else -1 for number, kind in enumerate(kinds)]

    @cached_property
    def size(self) -> int:
        """How many operations there are."""
        return self.lines.size

    def fitting(self, count: int) -> int:
        """How many of so many candidates are run at once: tables over all of them must fit."""
        return max(1, min(count, _AT_ONCE // max(self.size, 1)))

    def number(self, kind: Kind, flow: int, stage: int) -> int:
        """The number of a line."""
        return (flow * self.placement.flows[0].stages + stage) * len(_KINDS) + _KINDS.index(kind)


_AT_ONCE = 2_000_000
"""Operations of all candidates that are run at once."""

_KINDS = (Kind.F, Kind.B, Kind.W)


def shop_of(placement: Placement, costs: Costs, memory: Memory) -> Shop:
    """The tables of a placement; its B and W are apart."""
    lines = Lines(placement, tuple(_lines(placement)))
    stages = int(placement.stages.max())
    times, ticks = per_stage(costs, stages)
    scale, keep, base = _memory(lines, memory)
    fused, pair = [0] * len(lines.lines), [0] * len(lines.lines)
    for number, line in enumerate(lines.lines):
        fused[number] = int(times[Kind.BW, line.stage]) if line.kind == Kind.B else 0
        if line.kind == Kind.F and PAIR in costs.times and not costs.serial:
            pair[number] = round(costs.time(PAIR, line.stage) * ticks)
    return Shop(lines, clock(lines, costs), ticks, keep, base, scale, fused, pair)


def _lines(placement: Placement) -> list[Line]:
    return [
        Line(kind, flow, stage, rank, chain.microbatches, -1)
        for flow, chain in enumerate(placement.flows)
        for stage, rank in enumerate(chain.ranks)
        for kind in _KINDS
    ]


def _memory(lines: Lines, memory: Memory) -> tuple[int, list[int], list[int]]:
    """The scale; what each line keeps; what each rank holds always."""
    placement = lines.placement
    state = [
        sum((memory.constant(stage) for stage in placement.held(rank)), Fraction(0))
        for rank in range(placement.ranks)
    ]
    keep = [memory.change(line.kind, line.stage) for line in lines.lines]
    scale = lcm(1, *(amount.denominator for amount in (*keep, *state)))
    return scale, [int(amount * scale) for amount in keep], [int(one * scale) for one in state]
