"""A rank's program -> operations in sequence, for all ranks and loop turns at once.

A *run* is what a body issues in a set of lanes: the rows of lane 0, then those of lane 1, and so
on. `repeat` copies rows, `for` evaluates its body in more lanes, `if` in fewer; nothing walks a
loop.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.language.evaluate import Lanes, evaluate, failing, spread
from pipec.order.schedule import Schedule
from pipec.order.select import Selection
from pipec.program.effects import Kind
from pipec.source import Span

Array = NDArray[Any]

KIND, FLOW, STAGE, MICROBATCH, TIE, ORIGIN = range(6)
"""The columns of a run. FLOW and STAGE are -1 for a W that leaves them out, MICROBATCH where none
is said.
"""

BUDGET = 20_000_000
"""Rows that a program may issue, and loop turns that it may take, before it counts as runaway."""

STEPS = 10
"""Evaluated values that the budget allows for each row: they take memory too."""

AT_MOST = "at most {:,} on all ranks together"
BUDGET_HINT = "a larger budget can be given: `--budget N`"


@dataclass(frozen=True)
class Run:
    """`rows[column, row]`, and how many rows each lane issues."""

    rows: Array
    counts: Array


def expand(schedule: Schedule, budget: int = BUDGET) -> tuple[Run, tuple[Span, ...]]:
    """Run the program of every rank. Raises `Stop` at the first mistake. Lane `r` is rank `r`."""
    assert isinstance(schedule.program, s.OnRank)
    ranks = schedule.placement.ranks
    expansion = _Expansion(schedule, budget)
    lanes = Lanes(dict(schedule.names), ranks)
    lanes = lanes.bind(schedule.program.name.name, np.arange(ranks), counter=True)
    run = expansion.body(schedule.program.body, lanes)
    return run, tuple(expansion.spans)


class _Expansion:
    def __init__(self, schedule: Schedule, budget: int):
        name = schedule.program.name.name
        self._selection = Selection(schedule.placement, schedule.source, name)
        self._budget = budget
        self._rows = 0.0
        self._steps = 0.0
        self.spans: list[Span] = []

    def body(self, body: tuple[s.Statement, ...], lanes: Lanes) -> Run:
        runs = []
        for statement in body:
            match statement:
                case s.Let():
                    self._step(lanes.count, statement.span)
                    value = evaluate(statement.value, lanes)
                    lanes = lanes.bind(statement.name.name, value)
                case s.Units():
                    runs.append(self._units(statement, lanes))
                case s.Repeat():
                    runs.append(self._repeat(statement, lanes))
                case s.For():
                    runs.append(self._for(statement, lanes))
                case s.If():
                    runs.append(self._if(statement, lanes))
        return _one_after_the_other(runs, lanes.count)

    def _repeat(self, statement: s.Repeat, lanes: Lanes) -> Run:
        times = spread(evaluate(statement.times, lanes), lanes.count)
        self._not_negative(times, 0, "a `repeat`", statement.times.span, lanes)
        once = self._where(times > 0, statement.body, lanes)
        more = np.maximum(times - 1, 0).astype(float) @ once.counts
        self._afford(float(more), statement.times.span)
        counts = once.counts * np.where(once.counts > 0, times, 0)
        begins = np.cumsum(once.counts) - once.counts
        within = _within(counts) % np.repeat(np.maximum(once.counts, 1), counts)
        return Run(once.rows[:, np.repeat(begins, counts) + within], counts)

    def _for(self, statement: s.For, lanes: Lanes) -> Run:
        start = spread(evaluate(statement.start, lanes), lanes.count)
        stop = spread(evaluate(statement.stop, lanes), lanes.count)
        span = statement.start.span.to(statement.stop.span)
        self._not_negative(stop, start, "a range", span, lanes)
        self._afford(float((stop.astype(float) - start).sum()), span)
        turns = stop - start
        if not turns.any():
            return _nothing(lanes.count)
        self._step(int(turns.sum()) * len(lanes.names), span)
        turn = np.repeat(np.arange(lanes.count), turns)
        counter = np.repeat(start, turns) + _within(turns)
        inner = lanes.select(turn).bind(statement.name.name, counter, counter=True)
        run = self.body(statement.body, inner)
        total = np.concatenate([[0], np.cumsum(run.counts)])
        ends = np.cumsum(turns)
        return Run(run.rows, total[ends] - total[ends - turns])

    def _if(self, statement: s.If, lanes: Lanes) -> Run:
        is_open = np.ones(lanes.count, bool)
        runs = []
        for branch in statement.branches:
            chosen = is_open.copy()
            if branch.test is not None:
                here = self._select(is_open, lanes, branch.test.span)
                chosen[is_open] = evaluate(branch.test, here)
            runs.append(self._where(chosen, branch.body, lanes))
            is_open &= ~chosen
            if not is_open.any():
                break
        return _one_after_the_other(runs, lanes.count)

    def _where(self, chosen: Array, body: tuple[s.Statement, ...], lanes: Lanes) -> Run:
        """Run a body in the chosen lanes only: elsewhere it is not even evaluated."""
        if not chosen.any():
            return _nothing(lanes.count)
        run = self.body(body, self._select(chosen, lanes, body[0].span))
        counts = np.zeros(lanes.count, np.int64)
        counts[chosen] = run.counts
        return Run(run.rows, counts)

    def _select(self, chosen: Array, lanes: Lanes, span: Span) -> Lanes:
        if chosen.all():
            return lanes
        at = np.flatnonzero(chosen)
        self._step(len(at) * len(lanes.names), span)
        return lanes.select(at)

    # --- operations -------------------------------------------------------------------------------

    def _units(self, statement: s.Units, lanes: Lanes) -> Run:
        operations = sum(len(unit.operations) for unit in statement.units)
        self._afford(float(lanes.count) * operations, statement.span)
        columns = [
            self._operation(operation, place > 0, lanes)
            for unit in statement.units
            for place, operation in enumerate(unit.operations)
        ]
        rows = np.empty((6, lanes.count, len(columns)), np.int32)
        for number, column in enumerate(columns):
            for part, value in enumerate(column):
                rows[part, :, number] = value
        return Run(rows.reshape(6, -1), np.full(lanes.count, len(columns)))

    def _operation(self, operation: s.Operation, tied: bool, lanes: Lanes) -> tuple[Any, ...]:
        """The six columns of an operation, each a number or an array over lanes."""
        flow, stage = self._selection.one(operation, lanes)
        microbatch = self._selection.microbatch(operation, flow, lanes)
        self.spans.append(operation.span)
        return Kind[operation.kind], flow, stage, microbatch, tied, len(self.spans) - 1

    # --- bounds -----------------------------------------------------------------------------------

    def _not_negative(self, stop: Array, start: Any, what: str, span: Span, lanes: Lanes) -> None:
        bad = stop < start
        if np.any(bad):
            lane = int(np.argmax(bad))
            found = str(int(stop[lane]) - int(spread(start, lanes.count)[lane]))
            message = f"{what} cannot go {found} times"
            failing(Finding("value", message, span, "0 or more", found), bad, lanes)

    def _afford(self, rows: float, span: Span) -> None:
        """Refuse before it is made what would exceed the budget, all of the program counted."""
        self._rows += rows
        if self._rows > self._budget:
            found = f"{self._rows:,.0f}"
            message = "this makes too many operations or loop turns"
            expected = AT_MOST.format(self._budget)
            raise Stop(Finding("budget", message, span, expected, found, BUDGET_HINT))

    def _step(self, values: int, span: Span) -> None:
        self._steps += values
        if self._steps > STEPS * self._budget:
            expected, found = AT_MOST.format(STEPS * self._budget), f"{self._steps:,.0f}"
            message = "this evaluates too many values"
            raise Stop(Finding("budget", message, span, expected, found, BUDGET_HINT))


def _nothing(lanes: int) -> Run:
    return Run(np.empty((6, 0), np.int32), np.zeros(lanes, np.int64))


def _within(counts: Array) -> Array:
    """0, 1, ... for each of the given counts, one after the other."""
    total = np.arange(int(counts.sum()))
    return total - np.repeat(np.cumsum(counts) - counts, counts)


def _one_after_the_other(runs: list[Run], lanes: int) -> Run:
    """In every lane, the rows of the first run, then those of the second, and so on."""
    if len(runs) == 1:
        return runs[0]
    counts = np.zeros(lanes, np.int64)
    for run in runs:
        counts += run.counts
    rows = np.empty((6, int(counts.sum())), np.int32)
    place = np.cumsum(counts) - counts
    for run in runs:
        rows[:, np.repeat(place, run.counts) + _within(run.counts)] = run.rows
        place = place + run.counts
    return Run(rows, counts)
