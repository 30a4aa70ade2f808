"""Policies and building blocks -> orders: several are made in simulated time, the shortest is kept.

Among the candidates always stands the one made at unit costs: at measured costs list scheduling is
short-sighted, and a regular order, merely executed, is often the better one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.order.count import chunk_name
from pipec.order.dispatch import Patience
from pipec.order.greedy import Refusal, decide
from pipec.order.lines import Clock, Lines, clock, makespan, order_of
from pipec.order.periodic import ALWAYS, Blocks, Manner, follow
from pipec.order.policy import refused, stated_policy
from pipec.order.schedule import Schedule
from pipec.order.slots import stated_blocks
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.program import Order, Origins
from pipec.source import Span

T = TypeVar("T")

AFFORDED = 400_000
"""Operations that all candidates have together; beyond that there are fewer of them."""


def _patience(weights: Fraction | int, others: Fraction | int = 0) -> Patience:
    rest = dict.fromkeys((Kind.F, Kind.B, Kind.BW), Fraction(others))
    return {Kind.W: Fraction(weights), **rest}


_NONE, _HALF, _WHOLE = _patience(0), _patience(Fraction(1, 2)), _patience(1)
_BOTH = _patience(Fraction(1, 2), Fraction(3, 10))
_MOST = _patience(1, Fraction(3, 10))

POLICIES = ((True, _NONE), (False, _HALF), (False, _NONE), (False, _WHOLE), (False, _BOTH))
"""For a policy: whether at unit costs, and how patient."""

BLOCKS = (
    (True, Manner(0, _NONE)),
    (False, Manner(1, _MOST)),
    (True, Manner(ALWAYS, _NONE)),
    (False, Manner(ALWAYS, _BOTH)),
    (False, Manner(1, _BOTH)),
    (False, Manner(ALWAYS, _HALF)),
    (False, Manner(0, _HALF)),
    (False, Manner(ALWAYS, _NONE)),
    (False, Manner(0, _BOTH)),
    (True, Manner(1, _NONE)),
    (False, Manner(ALWAYS, _MOST)),
)
"""For blocks: whether at unit costs, and in which manner."""

FEW = (BLOCKS[0], BLOCKS[1], BLOCKS[3])
"""What is tried first of blocks with later slots; the best of them is followed in every manner."""

MOST_BLOCKS = 24


def policy_order(schedule: Schedule) -> Order:
    """The shortest order that the schedule's policy makes. Raises `Stop` if it makes none."""
    stated = stated_policy(schedule)
    lines = stated.policy.lines
    refusals: list[Refusal] = []

    def make(times: Clock, patience: Patience) -> Sequence[int]:
        made = decide(stated.policy, times, patience)
        if not isinstance(made, Refusal):
            return made
        refusals.append(made)
        return ()

    sequence = _shortest(lines, schedule.costs, POLICIES, make)[0]
    if not sequence:
        raise Stop(refused(stated, refusals[0]))
    return order_of(lines, sequence, Origins(schedule.source, stated.spans))


def block_order(schedule: Schedule) -> Order:
    """The shortest order that the schedule's building block makes. Raises `Stop` if there is
    none.
    """
    assert isinstance(schedule.program, s.Every)
    blocks, spans = stated_blocks(schedule, _variants(schedule))
    lines = blocks[0].lines
    cut: list[Sequence[int]] = []

    def make(times: Clock, chosen: tuple[Blocks, Manner]) -> Sequence[int]:
        made = follow(chosen[0], times, chosen[1])
        if len(made) == lines.size:
            return made
        cut.append(made)
        return ()

    def each(block: Blocks) -> list[tuple[bool, tuple[Blocks, Manner]]]:
        return [(at_unit, (block, manner)) for at_unit, manner in BLOCKS]

    tried = each(blocks[0])
    tried += [(at_unit, (one, manner)) for one in blocks[1:] for at_unit, manner in FEW]
    found = _shortest(lines, schedule.costs, tried, make)
    sequence, chosen = found
    if chosen and chosen[0] is not blocks[0]:
        sequence = _shortest(lines, schedule.costs, each(chosen[0]), make)[0]
    if not sequence:
        raise Stop(_stuck(blocks[0], cut[0], schedule.program.span))
    return order_of(lines, sequence, Origins(schedule.source, spans))


def _variants(schedule: Schedule) -> int:
    """How many blocks are tried: fewer where there are many operations."""
    candidates = AFFORDED // max(schedule.placement.size, 1)
    return max(1, min(MOST_BLOCKS, 1 + (candidates - len(BLOCKS)) // len(FEW)))


def _shortest(
    lines: Lines,
    costs: Costs,
    candidates: Sequence[tuple[bool, T]],
    make: Callable[[Clock, T], Sequence[int]],
) -> tuple[Sequence[int], T | None]:
    """The first of the shortest candidates and what made it; nothing where all are empty."""
    times, unit = clock(lines, costs), clock(lines, Costs())
    best: Sequence[int] = ()
    chosen, least = None, 0
    for at_unit, manner in candidates[: max(1, AFFORDED // lines.size)]:
        made = make(unit if at_unit else times, manner)
        length = makespan(lines, times, made) if made else 0
        if made and (not best or length < least):
            best, chosen, least = made, manner, length
    return best, chosen


def _stuck(blocks: Blocks, made: Sequence[int], span: Span) -> Finding:
    """The finding for blocks that contradict each other: the first operation that never runs."""
    done = Counter(made)
    lines, placement = blocks.lines.lines, blocks.lines.placement
    for order in blocks.order:
        passed: Counter[int] = Counter()
        for number in order:
            if passed[number] == done[number]:
                line = lines[number]
                name = placement.flows[line.flow].name
                where = chunk_name(placement, name, line.rank, line.stage)
                operation = f"{line.kind.name}({passed[number]}) of {where}"
                message = f"the blocks get stuck: rank {line.rank} never runs {operation}"
                expected = f"slots in which no rank holds more than {blocks.peak} at once"
                found = f"{len(made):,} of {blocks.lines.size:,} operations run"
                return Finding("policy", message, span, expected, found)
            passed[number] += 1
    raise AssertionError("everything runs: a bug of pipec")
