"""Policies and building blocks -> orders: several are made in simulated time, the shortest is kept.

Among the candidates always stands the one made at unit costs: at measured costs list scheduling is
short-sighted, and a regular order, merely executed, is often the better one. From all of them
shorter ones are made (`shorten.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.order.count import chunk_name
from pipec.order.dispatch import Patience
from pipec.order.follow import ALWAYS_LAST, Manner, Plan, bounds_of, follow
from pipec.order.greedy import Limit, Policy, Refusal, decide
from pipec.order.lines import Clock, Lines, clock, makespan, mirrored, order_of
from pipec.order.policy import refused, stated_policy
from pipec.order.schedule import Schedule
from pipec.order.shorten import shortened, shortest_possible
from pipec.order.slots import stated_blocks
from pipec.order.waves import waves
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.program import Order, Origins
from pipec.source import Span

AFFORDED = 400_000
"""Operations that all candidates have together; beyond that there are fewer of them."""

SHORTENED = 100_000
"""Operations that are run to make shorter orders from the candidates."""


def _patience(weights: Fraction | int, others: Fraction | int = 0) -> Patience:
    rest = dict.fromkeys((Kind.F, Kind.B, Kind.BW), Fraction(others))
    return {Kind.W: Fraction(weights), **rest}


_NONE, _HALF, _WHOLE = _patience(0), _patience(Fraction(1, 2)), _patience(1)
_BOTH = _patience(Fraction(1, 2), Fraction(3, 10))
_MOST = _patience(1, Fraction(3, 10))
_FROM_THE_END = _patience(Fraction(3, 4), Fraction(3, 10))

POLICIES = ((True, _NONE), (False, _HALF), (False, _NONE), (False, _WHOLE), (False, _BOTH))
"""For a policy: whether at unit costs, and how patient."""

BLOCKS = (
    (True, Manner(0, _NONE)),
    (False, Manner(1, _MOST)),
    (True, Manner(ALWAYS_LAST, _NONE)),
    (False, Manner(ALWAYS_LAST, _BOTH)),
    (False, Manner(1, _BOTH)),
    (False, Manner(ALWAYS_LAST, _HALF)),
    (False, Manner(0, _HALF)),
    (False, Manner(ALWAYS_LAST, _NONE)),
    (False, Manner(0, _BOTH)),
    (True, Manner(1, _NONE)),
    (False, Manner(ALWAYS_LAST, _MOST)),
)
"""For blocks: whether at unit costs, and in which manner."""

FEW = (BLOCKS[0], BLOCKS[1], BLOCKS[3])
"""What is tried first of blocks with later slots; the best of them is followed in every manner."""

MOST_BLOCKS = 24


Candidate = tuple[bool, Callable[[Clock], Sequence[int]]]
"""Whether it is made at unit costs, and what makes it from times: nothing where it gets stuck."""


def policy_order(schedule: Schedule) -> Order:
    """The shortest order that the schedule's policy makes. Raises `Stop` if it makes none."""
    stated = stated_policy(schedule)
    policy, lines = stated.policy, stated.policy.lines
    refusals: list[Refusal] = []

    def make(patience: Patience, times: Clock) -> Sequence[int]:
        made = decide(policy, times, patience)
        if not isinstance(made, Refusal):
            return made
        refusals.append(made)
        return ()

    best = _Best(lines, schedule.costs)
    best.add([(at_unit, partial(make, patience)) for at_unit, patience in POLICIES], AFFORDED)
    if not best.found:
        raise Stop(refused(stated, refusals[0]))
    sequence = best.found[best.place]
    if any(line.kind == Kind.W for line in lines.lines):
        sequence = _shorter(policy, best)
    return order_of(lines, sequence, Origins(schedule.source, stated.spans))


def _shorter(policy: Policy, best: "_Best") -> Sequence[int]:
    """The shortest within a policy's limits, from what it makes itself, from what list scheduling
    makes from the end, and from regular orders.

    Only where W is apart: a policy that fuses B and W is what it says, for its own sake.
    """
    lines = policy.lines
    bounds = bounds_of(lines, [(limit.weights, limit.bound) for limit in policy.limits])
    plans = [Plan(lines, order, bounds) for order in waves(lines)]
    regular = [
        (at_unit, partial(_whole, plan, Manner())) for plan in plans for at_unit in (True, False)
    ]
    best.add([(False, partial(_from_the_end, policy))], AFFORDED)
    spent = best.add(regular, SHORTENED // 2)
    return shortened(lines, best.times, bounds, best.found, SHORTENED - spent)


def _from_the_end(policy: Policy, times: Clock) -> Sequence[int]:
    """What list scheduling makes from the end to the begin, within the limits; nothing where it
    gets stuck.

    From there W opens what F closes, so it fills the end, and a rank that still has time there puts
    no W between its F and B.
    """
    back, again = mirrored(policy.lines, times)
    kinds = ((Kind.B, Kind.BW), (Kind.W,), (Kind.F,))
    groups = [
        [[line for line in back.on(rank) if back.lines[line].kind in own] for own in kinds]
        for rank in range(back.placement.ranks)
    ]
    limits = [_limit_from_the_end(back, limit) for limit in policy.limits]
    made = decide(Policy(back, groups, limits), again, _FROM_THE_END)
    return () if isinstance(made, Refusal) else made[::-1]


def _limit_from_the_end(lines: Lines, limit: Limit) -> Limit:
    """The same limit of a sequence from the end, whose sums begin at zero there."""
    left = sum(weight * lines.lines[number].total for number, weight in limit.weights.items())
    weights = {number: -weight for number, weight in limit.weights.items()}
    return replace(limit, weights=weights, bound=limit.bound - left)


def _whole(plan: Plan, manner: Manner, times: Clock) -> Sequence[int]:
    """What a plan makes, or nothing where it is not whole."""
    made = follow(plan, times, manner).sequence
    return made if len(made) == plan.lines.size else ()


def block_order(schedule: Schedule) -> Order:
    """The shortest order that the schedule's building block makes. Raises `Stop` if there is
    none.
    """
    assert isinstance(schedule.program, s.Every)
    blocks, spans = stated_blocks(schedule, _variants(schedule))
    lines = blocks[0].lines
    tried = [(blocks[0], at_unit, manner) for at_unit, manner in BLOCKS]
    tried += [(block, at_unit, manner) for block in blocks[1:] for at_unit, manner in FEW]
    best = _Best(lines, schedule.costs)
    best.add(
        [(at_unit, partial(_whole, block, manner)) for block, at_unit, manner in tried], AFFORDED
    )
    if not best.found:
        made = follow(blocks[0], best.unit, BLOCKS[0][1]).sequence
        raise Stop(_stuck(blocks[0], made, schedule.program.span))
    chosen = tried[best.first][0]
    if chosen is not blocks[0]:
        best.add(
            [(at_unit, partial(_whole, chosen, manner)) for at_unit, manner in BLOCKS], AFFORDED
        )
    sequence = shortened(lines, best.times, blocks[0].bounds, best.found, SHORTENED)
    return order_of(lines, sequence, Origins(schedule.source, spans))


def _variants(schedule: Schedule) -> int:
    """How many blocks are tried: fewer where there are many operations."""
    candidates = AFFORDED // max(schedule.placement.size, 1)
    return max(1, min(MOST_BLOCKS, 1 + (candidates - len(BLOCKS)) // len(FEW)))


class _Best:
    """The sequences that candidates make. The first of the shortest is made by candidate `first`,
    and stands at `place` in what was found.
    """

    def __init__(self, lines: Lines, costs: Costs):
        self.lines = lines
        self.times, self.unit = clock(lines, costs), clock(lines, Costs())
        self.found: list[Sequence[int]] = []
        self.first = self.place = self._tried = self._least = 0
        self._possible = shortest_possible(lines, self.times)

    def add(self, candidates: Sequence[Candidate], afford: int) -> int:
        """Try candidates, until none can be shorter; how many operations were run, if `afford`
        allows more than one candidate.
        """
        size = self.lines.size
        spent = 0
        for at_unit, make in candidates[: max(1, afford // size)]:
            if self.found and self._least <= self._possible:
                break
            made = make(self.unit if at_unit else self.times)
            spent += size
            if made:
                self._note(made)
            self._tried += 1
        return spent

    def _note(self, made: Sequence[int]) -> None:
        length = makespan(self.lines, self.times, made)
        if not self.found or length < self._least:
            self._least, self.first, self.place = length, self._tried, len(self.found)
        self.found.append(made)


def _stuck(blocks: Plan, made: Sequence[int], span: Span) -> Finding:
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
                most = blocks.bounds.most[line.rank][0]
                expected = f"slots in which no rank holds more than {most} at once"
                found = f"{len(made):,} of {blocks.lines.size:,} operations run"
                return Finding("policy", message, span, expected, found)
            passed[number] += 1
    raise AssertionError("everything runs: a bug of pipec")
