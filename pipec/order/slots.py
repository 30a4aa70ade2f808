"""An `every` block -> per rank the lines in the order of the repetition, and its peak."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.language.evaluate import Lanes, evaluate, spread
from pipec.order.count import chunk_name
from pipec.order.follow import HELD, Plan, held_at_most
from pipec.order.lines import Line, Lines
from pipec.order.schedule import Schedule
from pipec.order.select import Selection
from pipec.program.effects import STEP, Kind, Step
from pipec.source import Span

Array = NDArray[Any]

LONGEST = 10_000
"""The most slots that a period may have, and microbatches that a block may span."""


@dataclass(frozen=True)
class _Placed:
    """The line that a slot is about, on one rank."""

    line: Line
    slot: int
    span: Span


def stated_blocks(schedule: Schedule, most: int = 1) -> tuple[list[Plan], tuple[Span, ...]]:
    """The blocks of a schedule as plans, and the spans that their lines point to. Raises `Stop`.

    First as they are stated, then, `most` in all, with the slots of later lines moved further back:
    where that collides nowhere and no rank holds more. A microbatch then has more time for its
    way, and the repetition need not stretch where operations or messages take longer than a slot.
    """
    block = schedule.program
    assert isinstance(block, s.Every)
    if schedule.placement.sliced:
        message = "a building block repeats with every microbatch, and the backward of slices turns"
        expected, hint = "a flow without `slices`", "say the order in an `on rank` or by a policy"
        raise Stop(Finding("slot", message, block.span, expected, "slices", hint))
    period = _period(block, schedule)
    placed = _placed(block, schedule, period)
    for rank, own in enumerate(placed):
        _check_order(rank, own)
        _check_whole(rank, own, schedule, block)
    spans = tuple(item.span for item in block.body if isinstance(item, s.Slot))
    lines, numbers = _lines(placed, schedule)

    def made(of: list[list[_Placed]]) -> tuple[int, list[list[int]]]:
        ranks = enumerate(of)
        order = [_repetition(rank, own, numbers, lines, period, block) for rank, own in ranks]
        change = [HELD.get(line.kind, 0) for line in lines.lines]
        peaks = [max(accumulate(change[number] for number in own), default=0) for own in order]
        return max(peaks, default=0), order

    peak, order = made(placed)
    found = [order]
    for moved in _moved(placed, period) if most > 1 else ():
        other, order = made(moved)
        if other <= peak:
            found.append(order)
        if len(found) >= most:
            break
    bounds = held_at_most(lines, peak)
    return [Plan(lines, order, bounds) for order in found], spans


LATER = 3
"""The most slots that a line is moved back against the line before it."""

_FEW_SLOTS = 4


def _moved(placed: list[list[_Placed]], period: int) -> Iterator[list[list[_Placed]]]:
    """The same with later slots, by little first, without two operations on one slot of a rank."""
    count = max((one.line.origin for own in placed for one in own), default=0) + 1
    if count > _FEW_SLOTS:
        return
    steps = sorted(product(range(LATER + 1), repeat=count - 1), key=lambda one: (sum(one), one))
    for step in steps[1:]:
        later = [0, *accumulate(step)]
        moved = [
            [replace(one, slot=one.slot + later[one.line.origin]) for one in own] for own in placed
        ]
        slots = [[one.slot % period for one in own] for own in moved]
        if all(len(set(own)) == len(own) for own in slots) and all(map(_in_order, moved)):
            yield moved


def _in_order(own: list[_Placed]) -> bool:
    """Whether no operation of a rank stands before what it needs."""
    return not any(_early(own))


def _period(block: s.Every, schedule: Schedule) -> int:
    period: Any = evaluate(block.period, Lanes(dict(schedule.names)))
    if not 1 <= period <= LONGEST:
        message, expected = "this is no period", f"from 1 to {LONGEST:,} slots"
        raise Stop(Finding("value", message, block.period.span, expected, f"{period}"))
    return int(period)


def _placed(block: s.Every, schedule: Schedule, period: int) -> list[list[_Placed]]:
    """Per rank what has a slot, in the order of the text; no two on one slot of the period."""
    placement = schedule.placement
    ranks = placement.ranks
    lanes = Lanes(dict(schedule.names), ranks)
    lanes = lanes.bind(block.name.name, np.arange(ranks), counter=True)
    selection = Selection(placement, schedule.source, block.name.name)
    placed: list[list[_Placed]] = [[] for _ in range(ranks)]
    number = 0
    for item in block.body:
        if isinstance(item, s.Let):
            lanes = lanes.bind(item.name.name, evaluate(item.value, lanes))
        if not isinstance(item, s.Slot):
            continue
        kind = Kind[item.operation.kind]
        flow, stage = selection.stage_of(item.operation, lanes)
        slots = spread(evaluate(item.value, lanes), ranks)
        flows, stages = spread(flow, ranks), spread(stage, ranks)
        for rank, own in enumerate(placed):
            at, slot = int(flows[rank]), int(slots[rank])
            total = placement.flows[at].microbatches
            line = Line(kind, at, int(stages[rank]), rank, total, number)
            _check_slot(slot, period, item, rank)
            found = _Placed(line, slot, item.span)
            _check_free(found, own, period, schedule)
            own.append(found)
        number += 1
    return placed


def _check_slot(slot: int, period: int, item: s.Slot, rank: int) -> None:
    if not 0 <= slot < LONGEST * period:
        message = f"rank {rank} has no slot {slot}"
        expected = f"a slot from 0 to {LONGEST * period - 1:,}"
        raise Stop(Finding("slot", message, item.value.span, expected, str(slot)))


def _check_free(found: _Placed, own: list[_Placed], period: int, schedule: Schedule) -> None:
    rank, kind = found.line.rank, found.line.kind.name
    for other in own:
        same = other.line.stage == found.line.stage and other.line.flow == found.line.flow
        if same and STEP[other.line.kind] == STEP[found.line.kind]:
            message = f"{_name(found, schedule)} has two slots on rank {rank}"
            said = f"slot {other.slot} and slot {found.slot}"
            raise Stop(Finding("slot", message, found.span, "one slot", said))
        if (other.slot - found.slot) % period == 0:
            message = f"two operations on one slot of rank {rank}"
            expected = f"a slot of its own for {kind}, counted modulo {period}"
            said = (
                f"{_name(found, schedule)} at {found.slot} and {_name(other, schedule)} at "
                f"{other.slot}: both are slot {found.slot % period}"
            )
            raise Stop(Finding("slot", message, found.span, expected, said))


def _name(found: _Placed, schedule: Schedule) -> str:
    line = found.line
    flow = schedule.placement.flows[line.flow].name
    return f"{line.kind.name} of {chunk_name(schedule.placement, flow, line.rank, line.stage)}"


def _check_order(rank: int, own: list[_Placed]) -> None:
    """A B comes after its F, and a W after its B."""
    for placed, before in _early(own):
        kind, needed = placed.line.kind.name, before.line.kind.name
        message = f"rank {rank} runs {kind} before {needed}, which it needs"
        found = f"{kind} at {placed.slot}, and {needed} at {before.slot}"
        raise Stop(Finding("slot", message, placed.span, f"{kind} after {needed}", found))


def _early(own: list[_Placed]) -> Iterator[tuple[_Placed, _Placed]]:
    """What has a slot before that of the step before it in the same stage."""
    by_step = {
        (placed.line.flow, placed.line.stage, int(STEP[placed.line.kind])): placed for placed in own
    }
    for (flow, stage, step), placed in by_step.items():
        before = by_step.get((flow, stage, step - 1))
        if before and placed.slot < before.slot:
            yield placed, before


def _check_whole(rank: int, own: list[_Placed], schedule: Schedule, block: s.Every) -> None:
    """Every stage of a rank has a slot for its F and for its backward."""
    have = {(placed.line.flow, placed.line.stage, int(STEP[placed.line.kind])) for placed in own}
    for number, flow in enumerate(schedule.placement.flows):
        needed = (Step.FORWARD, Step.BACKWARD) if flow.backward else (Step.FORWARD,)
        for stage, holder in enumerate(flow.ranks):
            for step in needed if holder == rank else ():
                if (number, stage, step) not in have:
                    kind = "F" if step is Step.FORWARD else "B"
                    where = chunk_name(schedule.placement, flow.name, rank, stage)
                    message = f"rank {rank} has no slot for {kind} of {where}"
                    expected, found = f"`{kind}[...] at ...`", "none"
                    raise Stop(Finding("slot", message, block.span, expected, found))


Numbers = dict[tuple[Kind, int, int], int]


def _lines(placed: list[list[_Placed]], schedule: Schedule) -> tuple[Lines, Numbers]:
    """All lines: those with slots, and a W for every B without one."""
    found = [item.line for own in placed for item in own]
    have = {(line.kind, line.flow, line.stage) for line in found}
    for line in list(found):
        if line.kind == Kind.B and (Kind.W, line.flow, line.stage) not in have:
            found.append(Line(Kind.W, line.flow, line.stage, line.rank, line.total, line.origin))
    found.sort(key=lambda line: (line.flow, line.stage, STEP[line.kind]))
    numbers = {(line.kind, line.flow, line.stage): n for n, line in enumerate(found)}
    return Lines(schedule.placement, tuple(found)), numbers


def _repetition(
    rank: int, own: list[_Placed], numbers: Numbers, lines: Lines, period: int, block: s.Every
) -> list[int]:
    """The lines of a rank, slot after slot; each W without a slot takes the next free one."""
    taken = {placed.slot % period for placed in own}
    slotted = {numbers[placed.line.kind, placed.line.flow, placed.line.stage] for placed in own}
    events = []
    pending = []
    for placed in own:
        line = placed.line
        number = numbers[line.kind, line.flow, line.stage]
        events += [(placed.slot + i * period, number) for i in range(line.total)]
        weights = numbers.get((Kind.W, line.flow, line.stage), -1)
        if line.kind == Kind.B and weights not in slotted:
            pending += [(placed.slot + i * period, weights) for i in range(line.total)]
    free = period - len(taken)
    if pending and free < len({number for _, number in pending}):
        message = f"there is no slot for W on rank {rank}"
        expected = f"{len({number for _, number in pending})} free slots in a period"
        raise Stop(Finding("slot", message, block.period.span, expected, f"{free} of {period}"))
    following = 0
    for slot, number in sorted(pending):
        following = max(following, slot + 1)
        while following % period in taken:
            following += 1
        events.append((following, number))
        following += 1
    return [number for _, number in sorted(events)]
