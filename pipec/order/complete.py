"""What an order must hold: every operation once, and on each rank in a possible sequence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding
from pipec.order.count import chunk_name
from pipec.program.effects import Kind, Step
from pipec.program.needs import inputs
from pipec.program.program import Order
from pipec.source import Span

Array = NDArray[Any]

MOST = 10
"""Findings of one sort; more would be the same slip again."""


def complete(order: Order, program: Span) -> list[Finding]:
    """Everything that is missing, done twice, or done on its rank before what it needs.

    `program` is the span to point at where something is missing.
    """
    counts = np.bincount(order.operation, minlength=order.placement.size)
    findings = _too_often(order, counts) + _missing(order, counts, program)
    return findings or _too_early(order)


def _too_often(order: Order, counts: Array) -> list[Finding]:
    findings = []
    for operation in np.flatnonzero(counts > 1)[:MOST].tolist():
        first, second = np.flatnonzero(order.operation == operation)[:2].tolist()
        name = _name(order, second)
        message = f"{name} happens {counts[operation]} times"
        before = _name(order, first)
        findings.append(
            Finding("order", message, _span(order, second), "once", f"{before} before it")
        )
    return findings


def _missing(order: Order, counts: Array, program: Span) -> list[Finding]:
    """Per rank, flow, stage and step, how many operations were never issued."""
    findings: list[Finding] = []
    placement = order.placement
    fused = np.zeros(placement.size, bool)
    fused[order.operation[order.kind == Kind.BW]] = True
    for number, flow in enumerate(placement.flows):
        shape = (len(Step), flow.stages, flow.microbatches)
        span = slice(*placement.base[number : number + 2])
        done = counts[span].reshape(shape) > 0
        needed = np.ones(shape, bool)
        needed[Step.WEIGHTS] = done[Step.BACKWARD] & ~fused[span].reshape(shape)[Step.BACKWARD]
        if not flow.backward:
            needed[1:] = False
        lacking = (needed & ~done).sum(axis=2)
        for step, stage in np.argwhere(lacking).tolist()[: MOST - len(findings)]:
            rank = flow.ranks[stage]
            kind = _said(order, Step(step), number, stage)
            missing, total = int(lacking[step, stage]), int(needed[step, stage].sum())
            where = chunk_name(placement, flow.name, rank, stage)
            message = f"rank {rank} leaves {missing} {kind} undone: {where}"
            findings.append(Finding("order", message, program, f"{total}", f"{total - missing}"))
        findings += _unwanted(order, number, flow.backward)
    return findings


def _said(order: Order, step: Step, flow: int, stage: int) -> str:
    """The kind as the author wrote it: BW where that stage has one, else B."""
    if step is not Step.BACKWARD:
        return {Step.FORWARD: "F", Step.WEIGHTS: "W"}[step]
    parts = order.placement.split(order.operation)
    here = (parts.flow == flow) & (parts.stage == stage) & (parts.step == Step.BACKWARD)
    kinds = order.kind[here] if here.any() else order.kind[parts.step == Step.BACKWARD]
    return "B" if (kinds == Kind.B).any() and not (kinds == Kind.BW).any() else "BW"


def _unwanted(order: Order, flow: int, backward: bool) -> list[Finding]:
    if backward:
        return []
    parts = order.placement.split(order.operation)
    rows = np.flatnonzero((parts.flow == flow) & (parts.step != Step.FORWARD))[:1]
    name = order.placement.flows[flow].name
    message = f"flow `{name}` has no backward"
    hint = "leave out `backward=false` in the flow, or this operation"
    return [
        Finding("order", message, _span(order, row), "F only", _name(order, row), hint)
        for row in rows.tolist()
    ]


def _too_early(order: Order) -> list[Finding]:
    """Operations that stand on their own rank before one that they need."""
    placement = order.placement
    row_of = np.full(placement.size, -1, np.int64)
    row_of[order.operation] = np.arange(len(order))
    findings = []
    for _, here, needed in inputs(placement, order.operation):
        producer = row_of[needed]
        local = order.rank[producer] == order.rank[here]
        early = local & ((producer > here) | _same_pair(order, producer, here))
        for row, late in zip(here[early].tolist(), producer[early].tolist(), strict=True):
            findings.append(_early(order, row, late))
            if len(findings) == MOST:
                return findings
    return findings


def _same_pair(order: Order, first: Array, second: Array) -> Array:
    """Whether two rows are the two halves of one OVERLAP."""
    return (first + 1 == second) & order.tie[second]


def _early(order: Order, row: int, late: int) -> Finding:
    name, needed = _name(order, row), _name(order, late)
    if late < row:
        message = f"{name} cannot overlap with {needed}, which it needs"
        return Finding("order", message, _span(order, row), "two different microbatches")
    rank, index = order.place(late)
    message = f"{name} comes before {needed}, which it needs"
    found = f"{needed} at place {index} of rank {rank}"
    return Finding("order", message, _span(order, row), f"{needed} before it", found)


def _name(order: Order, row: int) -> str:
    instruction = order.instruction(row)
    rank, _ = order.place(row)
    where = chunk_name(order.placement, instruction.flow or "", rank, instruction.stage)
    return f"{instruction.kind.name}({instruction.microbatch}) of {where}"


def _span(order: Order, row: int) -> Span | None:
    return order.origins.span(int(order.origin[row]))
