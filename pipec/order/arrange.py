"""A schedule's text -> its order, checked to be whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, PipecError, Stop
from pipec.language import syntax as s
from pipec.order.best import block_order, policy_order
from pipec.order.complete import complete
from pipec.order.count import count_microbatches
from pipec.order.expand import (
    AT_MOST,
    BUDGET,
    BUDGET_HINT,
    FLOW,
    KIND,
    MICROBATCH,
    ORIGIN,
    STAGE,
    TIE,
    expand,
)
from pipec.order.schedule import Schedule
from pipec.order.weights import match_weights
from pipec.program.effects import STEP
from pipec.program.program import Order, Origins

Array = NDArray[Any]

DECIDED = 10
"""How much dearer an operation is that the compiler has to place itself."""


def arrange(schedule: Schedule, budget: int = BUDGET) -> Order:
    """The order that a schedule states: by a program, a policy or a building block.

    Raises `PipecError` if it is not a whole one.
    """
    try:
        _afford(schedule, budget)
        match schedule.program:
            case s.OnRank():
                order = _program_order(schedule, budget)
            case s.Greedy():
                order = policy_order(schedule)
            case s.Every():
                order = block_order(schedule)
    except Stop as stop:
        raise PipecError([stop.finding], schedule.source) from None
    findings = complete(order, schedule.program.span)
    if findings:
        raise PipecError(findings, schedule.source)
    return order


def _program_order(schedule: Schedule, budget: int) -> Order:
    run, spans = expand(schedule, budget)
    start = np.append(0, run.counts.cumsum())
    origins = Origins(schedule.source, spans)
    count_microbatches(run.rows, start, schedule.placement, origins)
    match_weights(run.rows, start, origins)
    return _order(run.rows, start, schedule, origins)


def _afford(schedule: Schedule, budget: int) -> None:
    """Refuse sizes at which even the shortest whole order would be beyond the budget."""
    needed = 0
    if not isinstance(schedule.program, s.OnRank):
        budget //= DECIDED
    for flow, span in zip(schedule.placement.flows, schedule.flow_spans, strict=True):
        needed += flow.stages * flow.microbatches * (2 if flow.backward else 1)
        if needed > budget:
            message = f"flow `{flow.name}` makes too many operations"
            sizes = f"stages = {flow.stages:,}, microbatches = {flow.microbatches:,}"
            found = f"{needed:,} or more: {sizes}"
            raise Stop(Finding("budget", message, span, AT_MOST.format(budget), found, BUDGET_HINT))


def _order(rows: Array, start: Array, schedule: Schedule, origins: Origins) -> Order:
    steps, count = STEP.take(rows[KIND]).astype(np.int32), rows.shape[1]
    operation = schedule.placement.operation(rows[FLOW], steps, rows[STAGE], rows[MICROBATCH])
    return Order(
        schedule.placement,
        start,
        rows[KIND].astype(np.int8),
        operation.astype(np.int32),
        np.full(count, -1, np.int32),
        rows[TIE].astype(bool),
        np.zeros(count, bool),
        np.zeros(count, np.int16),
        rows[ORIGIN].copy(),
        origins,
    )
