"""A rank's program -> operations in sequence, for all ranks and loop turns at once.

A *run* is what a body issues in a set of lanes: the rows of lane 0, then those of lane 1, and so
on. `repeat` copies rows, `for` evaluates its body in more lanes, `if` in fewer; nothing walks a
loop.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop, listed
from pipec.language import syntax as s
from pipec.language.evaluate import FlowValue, Lanes, evaluate, failing, spread
from pipec.order.schedule import Schedule
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
    ranks = schedule.placement.ranks
    expansion = _Expansion(schedule, budget)
    lanes = Lanes(dict(schedule.names), ranks)
    lanes = lanes.bind(schedule.program.name.name, np.arange(ranks), counter=True)
    run = expansion.body(schedule.program.body, lanes)
    return run, tuple(expansion.spans)


class _Expansion:
    def __init__(self, schedule: Schedule, budget: int):
        self._placement = schedule.placement
        self._rank = schedule.program.name.name
        self._budget = budget
        self._rows = 0.0
        self._steps = 0.0
        self._text = schedule.source.text
        self._held = (schedule.placement.chunks >= 0).sum(axis=2)
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
        selectors = [evaluate(selector, lanes) for selector in operation.selectors]
        named = [value for value in selectors if isinstance(value, FlowValue)]
        chunks = [value for value in selectors if not isinstance(value, FlowValue)]
        flow = named[0].index if named else self._only_flow(operation, bool(chunks))
        stage: Any = -1
        if chunks or operation.kind != "W":
            stage = self._stage(operation, flow, chunks, lanes)
        microbatch: Any = -1
        if operation.microbatch is not None:
            microbatch = self._microbatch(operation, flow, lanes)
        self.spans.append(operation.span)
        return Kind[operation.kind], flow, stage, microbatch, tied, len(self.spans) - 1

    def _only_flow(self, operation: s.Operation, chunk: bool) -> int:
        flows = self._placement.flows
        if operation.kind == "W" and not operation.selectors:
            return -1
        if len(flows) == 1:
            return 0
        said = f", {self._said(operation.selectors[0])}" if chunk else ""
        expected = listed(f"{operation.kind}[{flow.name}{said}]" for flow in flows)
        written = f"`{self._said(operation)}`"
        message = f"{written} does not say which flow"
        raise Stop(Finding("value", message, operation.span, expected, written))

    def _said(self, node: s.Expression) -> str:
        """A piece of the text, on one line."""
        return " ".join(self._text[node.span.start : node.span.end].split())

    def _stage(self, operation: s.Operation, flow: Any, chunks: list[Any], lanes: Lanes) -> Any:
        """The stage that a chunk number, or its absence, means on each lane's rank."""
        rank = lanes.names[self._rank]
        assert isinstance(rank, np.ndarray)
        held = self._held[flow, rank]
        span, written = operation.span, f"`{self._said(operation)}`"
        message, found = f"{written} on a rank that holds no stage of this flow", "none"
        failing(Finding("value", message, span, "a stage on this rank", found), held == 0, lanes)
        if not chunks:
            message = f"{written} does not say which chunk"
            named = [f"{self._said(name)}, " for name in operation.selectors]
            first = f"{operation.kind}[{''.join(named)}"
            expected = f"`{first}0]` to `{first}{int(np.max(held)) - 1}]`"
            failing(Finding("value", message, span, expected, written), held > 1, lanes)
            return self._placement.chunks[flow, rank, 0]
        chunk = chunks[0]
        bad = (chunk < 0) | (chunk >= held)
        if np.any(bad):
            lane = int(np.argmax(bad))
            number = spread(chunk, lanes.count)[lane]
            count = spread(held, lanes.count)[lane]
            message = f"there is no chunk {number}"
            expected = f"a chunk from 0 to {count - 1}" if count > 1 else "chunk 0"
            failing(Finding("value", message, span, expected, f"chunk {number}"), bad, lanes)
        return self._placement.chunks[flow, rank, chunk]

    def _microbatch(self, operation: s.Operation, flow: Any, lanes: Lanes) -> Any:
        assert operation.microbatch is not None
        number: Any = evaluate(operation.microbatch, lanes)
        most = self._placement.microbatches.max() if isinstance(flow, int) and flow < 0 else None
        most = self._placement.microbatches[flow] if most is None else most
        bad = (number < 0) | (number >= most)
        if np.any(bad):
            lane = int(np.argmax(bad))
            last = int(spread(most, lanes.count)[lane]) - 1
            found = f"{spread(number, lanes.count)[lane]}"
            message = f"there is no microbatch {found}"
            expected = f"a microbatch from 0 to {last}"
            span = operation.microbatch.span
            failing(Finding("value", message, span, expected, found), bad, lanes)
        return number

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
