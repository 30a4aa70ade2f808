"""A rank's program -> operations in sequence, for all ranks and loop turns at once.

A *run* is what a body issues in a set of lanes: the rows of lane 0, then those of lane 1, and so
on. `repeat` copies rows, `for` evaluates its body in more lanes, `if` in fewer; nothing walks a
loop. What is copied is only a number per row: that of an operation in a lane, whose columns are
looked up at the end.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.language.evaluate import Lanes, evaluate, failing, spread
from pipec.order.schedule import MOST_OPERATIONS, Schedule
from pipec.order.select import Selection
from pipec.program.columns import ranges
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
    expansion = _Expansion(schedule, min(budget, MOST_OPERATIONS))
    lanes = Lanes(dict(schedule.names), ranks)
    lanes = lanes.bind(schedule.program.name.name, np.arange(ranks), counter=True)
    issued = expansion.body(schedule.program.body, lanes)
    return Run(expansion.columns().take(issued.numbers, axis=1), issued.counts), tuple(
        expansion.spans
    )


class _Issued(NamedTuple):
    """The numbers of what is issued, lane after lane, and how many each lane issues."""

    numbers: Array
    counts: Array


class _Expansion:
    def __init__(self, schedule: Schedule, budget: int):
        name = schedule.program.name.name
        self._selection = Selection(schedule.placement, schedule.source, name)
        self._budget = budget
        self._rows = 0.0
        self._steps = 0.0
        self._columns: list[tuple[Any, ...]] = []
        self._lanes: list[int] = []
        self._count = 0
        self.spans: list[Span] = []

    def columns(self) -> Array:
        """`[column, number]`: the six columns of every operation in every lane."""
        columns, lanes = np.empty((6, self._count), np.int32), np.array(self._lanes, np.int64)
        for column, values in zip(columns, zip(*self._columns, strict=True), strict=False):
            if any(isinstance(value, np.ndarray) for value in values):
                spreads = [
                    spread(one, count) for one, count in zip(values, self._lanes, strict=True)
                ]
                np.concatenate(spreads, out=column, casting="same_kind")
            else:
                column[:] = np.array(values, np.int32).repeat(lanes)
        return columns

    def body(self, body: tuple[s.Statement, ...], lanes: Lanes) -> _Issued:
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

    def _repeat(self, statement: s.Repeat, lanes: Lanes) -> _Issued:
        times = spread(evaluate(statement.times, lanes), lanes.count)
        self._not_negative(times, 0, "a `repeat`", statement.times.span, lanes)
        chosen = times > 0
        if not chosen.any():
            return _nothing(lanes.count)
        once = self.body(statement.body, self._select(chosen, lanes, statement.body[0].span))
        times = times[chosen]
        self._afford(float((times - 1).astype(float) @ once.counts), statement.times.span)
        return _where(chosen, _repeated(once, np.where(once.counts > 0, times, 0)))

    def _for(self, statement: s.For, lanes: Lanes) -> _Issued:
        start = spread(evaluate(statement.start, lanes), lanes.count)
        stop = spread(evaluate(statement.stop, lanes), lanes.count)
        span = statement.start.span.to(statement.stop.span)
        self._not_negative(stop, start, "a range", span, lanes)
        self._afford(float((stop.astype(float) - start).sum()), span)
        turns = stop - start
        if not turns.any():
            return _nothing(lanes.count)
        self._step(int(turns.sum()) * len(lanes.names), span)
        inner = lanes.select(np.arange(lanes.count).repeat(turns))
        counter = ranges(start, turns)
        run = self.body(statement.body, inner.bind(statement.name.name, counter, counter=True))
        total = np.zeros(len(counter) + 1, np.int64)
        run.counts.cumsum(out=total[1:])
        ends = turns.cumsum()
        return _Issued(run.numbers, total[ends] - total[ends - turns])

    def _if(self, statement: s.If, lanes: Lanes) -> _Issued:
        is_open = np.ones(lanes.count, bool)
        runs = []
        for branch in statement.branches:
            chosen = is_open
            if branch.test is not None:
                chosen = is_open.copy()
                here = self._select(is_open, lanes, branch.test.span)
                chosen[is_open] = evaluate(branch.test, here)
            if chosen.any():
                inside = self._select(chosen, lanes, branch.body[0].span)
                runs.append(_where(chosen, self.body(branch.body, inside)))
            is_open = is_open & ~chosen
            if not is_open.any():
                break
        return _one_after_the_other(runs, lanes.count)

    def _select(self, chosen: Array, lanes: Lanes, span: Span) -> Lanes:
        """The chosen lanes: in others a body is not even evaluated."""
        if chosen.all():
            return lanes
        (at,) = chosen.nonzero()
        self._step(len(at) * len(lanes.names), span)
        return lanes.select(at)

    # --- operations -------------------------------------------------------------------------------

    def _units(self, statement: s.Units, lanes: Lanes) -> _Issued:
        operations = sum(len(unit.operations) for unit in statement.units)
        self._afford(float(lanes.count) * operations, statement.span)
        first = self._count
        for unit in statement.units:
            for place, operation in enumerate(unit.operations):
                self._operation(operation, place > 0, lanes)
        numbers = np.arange(first, self._count, dtype=np.int32)
        if operations > 1:
            numbers = numbers.reshape(operations, -1).T.ravel()
        return _Issued(numbers, np.full(lanes.count, operations))

    def _operation(self, operation: s.Operation, tied: bool, lanes: Lanes) -> None:
        """Keep the six columns of an operation, each a number or an array over lanes."""
        flow, stage = self._selection.one(operation, lanes)
        microbatch = self._selection.microbatch(operation, flow, lanes)
        kind = int(Kind[operation.kind])
        self._columns.append((kind, flow, stage, microbatch, tied, len(self.spans)))
        self._lanes.append(lanes.count)
        self._count += lanes.count
        self.spans.append(operation.span)

    # --- bounds -----------------------------------------------------------------------------------

    def _not_negative(self, stop: Array, start: Any, what: str, span: Span, lanes: Lanes) -> None:
        bad = stop < start
        if bad.any():
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


def _nothing(lanes: int) -> _Issued:
    return _Issued(np.empty(0, np.int32), np.zeros(lanes, np.int64))


def _where(chosen: Array, run: _Issued) -> _Issued:
    """A run of the chosen lanes as one of all lanes."""
    if len(run.counts) == len(chosen):
        return run
    counts = np.zeros(len(chosen), np.int64)
    counts[chosen] = run.counts
    return _Issued(run.numbers, counts)


def _repeated(run: _Issued, times: Array) -> _Issued:
    """A run whose lanes repeat what they issue so many times each."""
    counts = run.counts * times
    if (run.counts == run.counts[0]).all():
        by_lane = run.numbers.reshape(len(times), -1)
        return _Issued(by_lane.repeat(times, axis=0).ravel(), counts)
    begins = (run.counts.cumsum() - run.counts).repeat(times)
    return _Issued(run.numbers.take(ranges(begins, run.counts.repeat(times))), counts)


def _one_after_the_other(runs: list[_Issued], lanes: int) -> _Issued:
    """In every lane, the rows of the first run, then those of the second, and so on."""
    if len(runs) == 1:
        return runs[0]
    if not runs:
        return _nothing(lanes)
    counts = np.array([run.counts for run in runs])
    begins = counts.ravel().cumsum().reshape(counts.shape) - counts
    numbers = np.concatenate([run.numbers for run in runs])
    by_lane = ranges(begins.T.ravel(), counts.T.ravel())
    return _Issued(numbers.take(by_lane), counts.sum(axis=0))
