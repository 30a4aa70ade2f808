"""What an order must hold: every operation once, and on each rank in a possible sequence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding
from pipec.order.count import chunk_name
from pipec.program.columns import look_up, rows_where
from pipec.program.effects import Kind, Step
from pipec.program.needs import ALL
from pipec.program.program import Order
from pipec.source import Span

Array = NDArray[Any]

MOST = 10
"""Findings of one sort."""

SHOWN = 3
"""Places that a note lists before it only counts the rest."""


def complete(order: Order, program: Span) -> list[Finding]:
    """Everything that is missing, done twice, or done on its rank before what it needs.

    A slip of an author shows on many ranks and microbatches; it is one finding for each place in
    the text. `program` is the span to point at where something is missing.
    """
    counts = _counts(order)
    findings = _too_often(order, counts) + _missing(order, counts, program) + _unwanted(order)
    return findings or _too_early(order)


def _counts(order: Order) -> Array:
    """How often each operation happens: rows tell whether any does twice, without counting."""
    once = order.entry >= 0
    if np.count_nonzero(once) == len(order):
        return once.view(np.int8)
    return np.bincount(order.operation, minlength=order.placement.size)


def _too_often(order: Order, counts: Array) -> list[Finding]:
    if counts.max(initial=0) <= 1:
        return []
    rows = np.flatnonzero(counts[order.operation] > 1)
    rows = rows[np.argsort(order.operation[rows], kind="stable")]
    again = order.operation[rows[1:]] == order.operation[rows[:-1]]

    def finding(second: int, first: int, note: tuple[str, ...]) -> Finding:
        name, times = _name(order, second), counts[order.operation[second]]
        message = f"{name} happens {times} times on rank {order.place(second)[0]}"
        found = f"it at place {order.place(first)[1]} and again at place {order.place(second)[1]}"
        return Finding("order", message, _span(order, second), "once", found, notes=note)

    return _one_a_place(order, rows[1:][again], rows[:-1][again], finding)


def _one_a_place(
    order: Order,
    rows: Array,
    others: Array,
    finding: Callable[[int, int, tuple[str, ...]], Finding],
) -> list[Finding]:
    """`finding(row, other, notes)` for the first row that each place in the text made."""
    if not len(rows):
        return []
    by_row = np.argsort(rows, kind="stable")
    rows, others = rows[by_row], others[by_row]
    _, first, count = np.unique(order.origin[rows], return_index=True, return_counts=True)
    findings = []
    for index in np.argsort(first)[:MOST].tolist():
        more, at = int(count[index]) - 1, int(first[index])
        so = "so does" if more == 1 else "so do"
        notes = (f"{so} {more} more made by the same text",) if more else ()
        findings.append(finding(int(rows[at]), int(others[at]), notes))
    return findings


# --- what is missing ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lack:
    """What one stage of a rank lacks: `1 F and 1 BW` of `8 F and 8 BW`."""

    rank: int
    where: str
    lacking: str
    needed: str
    done: str


def _missing(order: Order, counts: Array, program: Span) -> list[Finding]:
    """All that was never issued, as one finding: a loop too short lacks its operations together."""
    lacks = sorted(_lacks(order, counts), key=lambda lack: lack.rank)
    if not lacks:
        return []
    first, notes = lacks[0], []
    alike: dict[str, list[_Lack]] = {}
    for lack in lacks:
        alike.setdefault(lack.lacking, []).append(lack)
    for lacking, group in alike.items():
        rest = [lack for lack in group if lack is not first]
        shown = [f"rank {lack.rank} ({lack.where})" for lack in rest[:SHOWN]]
        shown += [f"{len(rest) - SHOWN} more stages"] if len(rest) > SHOWN else []
        notes += [
            f"so does {name}" if group[0] is first else f"{name} leaves {lacking}" for name in shown
        ]
    notes[MOST:] = ["and so on"] if len(notes) > MOST else []
    message = f"rank {first.rank} leaves {first.lacking} undone: {first.where}"
    return [Finding("order", message, program, first.needed, first.done, notes=tuple(notes))]


def _lacks(order: Order, counts: Array) -> Iterator[_Lack]:
    placement = order.placement
    fused = np.zeros(placement.size, bool)
    fused[look_up(order.operation, rows_where(order.kind == Kind.BW))] = True
    for number, flow in enumerate(placement.flows):
        shape = (len(Step), flow.stages, flow.microbatches)
        span = slice(*placement.base[number : number + 2])
        done, joined = counts[span].reshape(shape) > 0, fused[span].reshape(shape)[Step.BACKWARD]
        needed = np.full(shape, flow.backward)
        needed[Step.FORWARD] = True
        needed[Step.WEIGHTS] &= done[Step.BACKWARD] & ~joined
        if not (needed > done).any():
            continue
        total = needed.sum(axis=2)
        lacking = total - (needed & done).sum(axis=2)
        fuses = joined.any(axis=1) | ~(done[Step.BACKWARD].any(axis=1) | _splits(order))
        for stage in np.flatnonzero(lacking.any(axis=0)).tolist():
            steps = [step for step in Step if lacking[step, stage]]
            kinds = {step: _kind(step, bool(fuses[stage])) for step in steps}
            rank = flow.ranks[stage]
            yield _Lack(
                rank,
                chunk_name(placement, flow.name, rank, stage),
                _counted({kinds[step]: int(lacking[step, stage]) for step in steps}),
                _counted({kinds[step]: int(total[step, stage]) for step in steps}),
                _counted({kinds[step]: int((total - lacking)[step, stage]) for step in steps}),
            )


def _splits(order: Order) -> bool:
    """Whether the author writes B and W, never BW."""
    return bool(np.any(order.kind == Kind.B)) and not np.any(order.kind == Kind.BW)


def _kind(step: Step, fuses: bool) -> str:
    """The kind as the author wrote it."""
    if step is Step.BACKWARD:
        return "BW" if fuses else "B"
    return "F" if step is Step.FORWARD else "W"


def _counted(counts: dict[str, int]) -> str:
    """`1 F, 1 B and 1 W`."""
    parts = [f"{count:,} {kind}" for kind, count in counts.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _unwanted(order: Order) -> list[Finding]:
    inference = np.array([not flow.backward for flow in order.placement.flows])
    if not inference.any():
        return []
    parts = order.placement.split(order.operation)
    rows = np.flatnonzero(inference[parts.flow] & (parts.step != Step.FORWARD))

    def finding(row: int, _: int, note: tuple[str, ...]) -> Finding:
        name = order.placement.flows[int(parts.flow[row])].name
        message, found = f"flow `{name}` has no backward", f"{_name(order, row)}"
        hint = "leave out `backward=false` in the flow, or this operation"
        return Finding("order", message, _span(order, row), "F only", found, hint)

    return _one_a_place(order, rows, rows, finding)


# --- what comes too early -------------------------------------------------------------------------


def _too_early(order: Order) -> list[Finding]:
    """Operations that stand on their own rank before one that they need."""
    rows, others = [], []
    for joint in order.placement.joints(ALL):
        here, producer = joint.takes(order.entry), joint.makes(order.entry)
        early = (here >= 0) & ((producer > here) | _same_pair(order, producer, here))
        early[joint.takers != joint.makers] = False
        if early.any():
            rows.append(here[early])
            others.append(producer[early])
    if not rows:
        return []
    return _one_a_place(
        order,
        np.concatenate(rows),
        np.concatenate(others),
        lambda row, late, notes: _early(order, row, late, notes),
    )


def _same_pair(order: Order, first: Array, second: Array) -> Array:
    """Whether two rows are the two halves of one OVERLAP."""
    if not order.tie.any():
        return np.zeros(first.shape, bool)
    return (first + 1 == second) & order.tie.take(second)


def _early(order: Order, row: int, late: int, notes: tuple[str, ...]) -> Finding:
    (rank, index), (_, later) = order.place(row), order.place(late)
    name, needed = _name(order, row), _name(order, late)
    span = _span(order, row)
    if abs(late - row) == 1 and order.tie[max(late, row)]:
        message = f"rank {rank} overlaps {name} with {needed}, which it needs"
        number = order.instruction(row).microbatch
        expected, found = "two different microbatches", f"microbatch {number} in both"
        return Finding("order", message, span, expected, found, notes=notes)
    message = f"rank {rank} runs {name} before {needed}, which it needs"
    found = f"it at place {index}, and what it needs at place {later}"
    return Finding("order", message, span, f"{needed} before it", found, notes=notes)


def _name(order: Order, row: int) -> str:
    instruction = order.instruction(row)
    rank, _ = order.place(row)
    where = chunk_name(order.placement, instruction.flow or "", rank, instruction.stage)
    return f"{instruction.kind.name}({instruction.microbatch}) of {where}"


def _span(order: Order, row: int) -> Span | None:
    return order.origins.span(int(order.origin[row]))
