"""How the parts of an operation, or of a pair, are issued: under the costs of each part, or as the
author of the schedule writes it.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import lcm

from pipec.lower.pattern import written
from pipec.lower.units import Issued, Operation
from pipec.program.costs import Costs
from pipec.program.effects import EFFECTS, Kind
from pipec.program.parts import OUT, Layout, Pattern

Half = tuple[Kind, int]
"""One operation of a unit: its kind and its stage."""
Row = tuple[int, int, int]
"""Which half, the kind of the row, and the number of the part."""
Weave = Callable[[Sequence[Half]], list[Row]]


def weaving(
    issue: Callable[[Sequence[Operation]], list[Issued]],
    costs: Costs,
    layouts: Sequence[Layout],
    patterns: Sequence[Pattern] = (),
) -> Weave:
    """Rows of a unit in the order that `issue` (`units.natural`, `units.overlapped`) gives them; of
    a pair that has a pattern, in the pattern's.
    """

    known: dict[tuple[Operation, ...], list[Issued]] = {}
    by_pair = {frozenset((Kind.F, pattern.backward)): pattern for pattern in patterns}

    def weave(halves: Sequence[Half]) -> list[Row]:
        operations = tuple(_operations(halves, costs, layouts))
        pattern = by_pair.get(frozenset(kind for kind, _ in halves))
        if pattern is not None:
            issued = written(pattern, operations, [layouts[stage] for _, stage in halves])
        else:
            if operations not in known:
                known[operations] = issue(operations)
            issued = known[operations]
        rows = []
        for half, kind, part in issued:
            wire = layouts[halves[half][1]][part].wire
            rows.append((half, int(kind if wire is None else wire), part))
        return rows

    return weave


def assumed(costs: Costs, layouts: Sequence[Layout]) -> Costs:
    """Costs to order parts by. Where nothing is said of all-to-alls, each is taken to be half as
    long again as a part that computes: a pair then communicates as long as it computes, as in the
    report of DeepSeek-V3 (arXiv:2412.19437, section 3.2.1).
    """
    if "dispatch" in costs.times or "combine" in costs.times:
        return costs
    times = tuple(_usual(costs, stage, parts) for stage, parts in enumerate(layouts))
    time = times[0] if len(set(times)) == 1 else times
    return costs.override(Costs({"dispatch": time, "combine": time}))


def _usual(costs: Costs, stage: int, parts: Layout) -> Fraction:
    computing = [part for part in parts if part.wire is None and part.name != OUT]
    whole = sum((costs.part("F", part, stage, parts) for part in computing), Fraction(0))
    return whole / max(len(computing), 1) * Fraction(3, 2)


def _operations(halves: Sequence[Half], costs: Costs, layouts: Sequence[Layout]) -> list[Operation]:
    ticks = [_times(kind, costs, stage, layouts[stage]) for kind, stage in halves]
    weights = [_times(Kind.W, costs, stage, layouts[stage]) for _, stage in halves]
    scale = lcm(1, *(time.denominator for times in [*ticks, *weights] for time in times))
    return [
        Operation(
            kind,
            tuple(part.wire is not None for part in layouts[stage]),
            tuple(int(time * scale) for time in times),
            tuple(int(time * scale) for time in later) if kind is Kind.BW else (),
        )
        for (kind, stage), times, later in zip(halves, ticks, weights, strict=True)
    ]


def _times(kind: Kind, costs: Costs, stage: int, parts: Layout) -> list[Fraction]:
    """What each part takes. Of a BW what its B takes, since its W may come later."""
    key = EFFECTS[Kind.B if kind is Kind.BW else kind].cost
    return [
        costs.part(key, part, stage, parts)
        if part.wire is None
        else costs.time(EFFECTS[part.wire].cost, stage)
        for part in parts
    ]
