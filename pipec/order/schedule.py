"""Syntax and sizes -> a schedule: parameters bound, flows placed, costs and limits evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pipec.findings import Finding, PipecError, Stop, listed, nearest
from pipec.language import syntax as s
from pipec.language.check import setting_key
from pipec.language.evaluate import FlowValue, Lanes, Value, evaluate, failing, spread
from pipec.program.costs import PAIR, Costs, PerStage
from pipec.program.memory import Memory
from pipec.program.placement import Flow, Placement
from pipec.source import Source, Span

MOST_RANKS = 2**15
MOST_STAGES = 2**20
MOST_OPERATIONS = 2**31 - 1


@dataclass(frozen=True)
class Schedule:
    """A schedule at one size. `names` are the values that its program may use."""

    name: str
    parameters: Mapping[str, int | bool]
    placement: Placement
    costs: Costs
    memory: Memory
    program: s.OnRank = field(repr=False)
    names: Mapping[str, Value] = field(repr=False)
    source: Source = field(repr=False)


def bind(item: s.ScheduleItem, given: Mapping[str, int | bool], source: Source) -> Schedule:
    """Give a checked schedule its sizes. Raises `PipecError` with every mistake it can find."""
    findings: list[Finding] = []
    parameters = _parameters(item, given, findings)
    if findings:
        raise PipecError(findings, source)
    binder = _Binder(parameters, findings)
    for child in item.items:
        if findings and not isinstance(child, s.Require):
            break
        try:
            binder.item(child)
        except Stop as stop:
            findings.append(stop.finding)
    if findings:
        raise PipecError(findings, source)
    return binder.schedule(item, source)


def _parameters(
    item: s.ScheduleItem, given: Mapping[str, int | bool], findings: list[Finding]
) -> dict[str, Any]:
    """The value of every parameter: given, or its default."""
    known = [parameter.name.name for parameter in item.parameters]
    for name in given:
        if name not in known:
            message = f"schedule `{item.name.name}` has no parameter `{name}`"
            hint = nearest(name, known)
            findings.append(
                Finding("parameter", message, item.name.span, listed(known), f"`{name}`", hint)
            )
    values: dict[str, Any] = {}
    for parameter in item.parameters:
        name = parameter.name.name
        if name in given:
            values[name] = given[name]
        elif parameter.default is not None:
            try:
                values[name] = evaluate(parameter.default, Lanes(dict(values)))
            except Stop as stop:
                findings.append(stop.finding)
        else:
            message, way = f"parameter `{name}` has no value", f"say `{name}=...`"
            findings.append(
                Finding("parameter", message, parameter.span, "an integer", "nothing", way)
            )
    if values and not findings:
        _check_ranks(item.parameters[0], values, findings)
    return values


def _check_ranks(first: s.Parameter, values: dict[str, Any], findings: list[Finding]) -> None:
    ranks = values[first.name.name]
    if isinstance(ranks, bool) or not 1 <= ranks <= MOST_RANKS:
        message = f"`{first.name.name}` is the number of ranks"
        expected = f"an integer from 1 to {MOST_RANKS:,}"
        findings.append(Finding("parameter", message, first.span, expected, str(ranks)))


class _Binder:
    """Evaluates the items of a schedule in the order of the text."""

    def __init__(self, parameters: dict[str, Any], findings: list[Finding]):
        self._parameters = parameters
        self._ranks = int(next(iter(parameters.values())))
        self._names: dict[str, Value] = dict(parameters)
        self._flows: list[Flow] = []
        self._spans: list[Span] = []
        self._settings: dict[str, dict[str, PerStage]] = {"cost": {}, "memory": {}}
        self._pending: list[s.Settings] = []
        self._limit: Fraction | None = None
        self._limit_span: Span | None = None
        self._findings = findings

    def item(self, item: s.Item) -> None:
        match item:
            case s.Let():
                self._names[item.name.name] = evaluate(item.value, Lanes(self._names))
            case s.Require():
                self._require(item)
            case s.FlowItem():
                self._flow(item)
            case s.Settings():
                self._pending.append(item)
            case s.Limit():
                assert isinstance(item.test, s.Comparison)
                rational = Lanes(self._names, rational=True)
                self._limit = _fraction(evaluate(item.test.operands[1], rational))
                self._limit_span = item.span
            case s.OnRank():
                self._program = item

    def _require(self, item: s.Require) -> None:
        if evaluate(item.test, Lanes(self._names)):
            return
        found = ", ".join(f"{name} = {self._names[name]}" for name in sorted(_names(item.test)))
        message = f"requirement not met: {item.message}" if item.message else "requirement not met"
        self._findings.append(Finding("require", message, item.test.span, found=found or None))

    def _flow(self, item: s.FlowItem) -> None:
        values: dict[str, tuple[Any, Span]] = {
            argument.name.name: (evaluate(argument.value, Lanes(self._names)), argument.value.span)
            for argument in item.arguments
        }
        for name, least, most in (("stages", 1, MOST_STAGES), ("microbatches", 1, MOST_OPERATIONS)):
            value, span = values[name]
            if not least <= value <= most:
                message = f"flow `{item.name.name}` cannot have {value} {name}"
                raise Stop(Finding("value", message, span, f"from {least} to {most:,}", str(value)))
        stages, microbatches = int(values["stages"][0]), int(values["microbatches"][0])
        backward = bool(values.get("backward", (True,))[0])
        flow = Flow(item.name.name, microbatches, self._holders(item, stages), backward)
        self._check_flow(item, flow)
        self._names[item.name.name] = FlowValue(len(self._flows))
        self._flows.append(flow)

    def _holders(self, item: s.FlowItem, stages: int) -> tuple[int, ...]:
        lanes = Lanes(dict(self._names), stages).bind("stage", np.arange(stages), counter=True)
        ranks = spread(evaluate(item.placement, lanes), stages)
        message = f"flow `{item.name.name}` places a stage on a rank that does not exist"
        expected, bad = f"a rank from 0 to {self._ranks - 1}", (ranks < 0) | (ranks >= self._ranks)
        found = str(ranks[int(np.argmax(bad))])
        failing(
            Finding("value", message, item.placement.span, expected, f"rank {found}"), bad, lanes
        )
        return tuple(ranks.tolist())

    def _check_flow(self, item: s.FlowItem, flow: Flow) -> None:
        """All flows travel the same model; a stage has at most two holders; ids fit in 31 bits."""
        first = self._flows[0] if self._flows else flow
        if flow.stages != first.stages or flow.backward != first.backward:
            message = f"flow `{flow.name}` does not fit flow `{first.name}`"
            expected = f"{first.stages} stages, backward={str(first.backward).lower()}"
            found = f"{flow.stages} stages, backward={str(flow.backward).lower()}"
            hint = "all flows of a schedule travel the same model"
            raise Stop(Finding("value", message, item.span, expected, found, hint))
        together = Placement(self._ranks, (*self._flows, flow))
        crowded = [stage for stage, holders in enumerate(together.copies) if len(holders) > 2]
        if crowded:
            message = f"stage {crowded[0]} is held by {len(together.copies[crowded[0]])} ranks"
            raise Stop(
                Finding("value", message, item.placement.span, "at most two copies of a stage")
            )
        if together.size > MOST_OPERATIONS:
            message = "this schedule is too large"
            expected, found = f"at most {MOST_OPERATIONS:,} operations", f"{together.size:,}"
            raise Stop(Finding("budget", message, item.span, expected, found))

    def schedule(self, item: s.ScheduleItem, source: Source) -> Schedule:
        """Put everything together; settings last, as they may depend on the number of stages."""
        placement = Placement(self._ranks, tuple(self._flows))
        try:
            for settings in self._pending:
                self._set(settings, self._flows[0].stages)
        except Stop as stop:
            raise PipecError([stop.finding], source) from None
        memory = Memory(self._settings["memory"], self._limit, self._limit_span)
        costs = Costs(self._settings["cost"])
        return Schedule(
            item.name.name,
            dict(self._parameters),
            placement,
            costs,
            memory,
            self._program,
            self._names,
            source,
        )

    def _set(self, item: s.Settings, stages: int) -> None:
        for setting in item.settings:
            key = setting_key(setting).replace(" ", "")
            per_stage = "stage" in _names(setting.value)
            values = [
                _fraction(
                    evaluate(setting.value, Lanes({**self._names, "stage": stage}, rational=True))
                )
                for stage in range(stages if per_stage else 1)
            ]
            if item.word == "cost" and min(values) < 0:
                message, found = f"the cost of `{key}` is negative", str(min(values))
                raise Stop(Finding("value", message, setting.value.span, "0 or more", found))
            key = PAIR if key == "F&BW" else key
            self._settings[item.word][key] = tuple(values) if per_stage else values[0]


def _fraction(value: Value) -> Fraction:
    assert isinstance(value, int | Fraction)
    return Fraction(value)


def _names(expression: s.Expression) -> set[str]:
    """The names that occur in an expression."""
    match expression:
        case s.Name():
            return {expression.name}
        case s.Unary():
            return _names(expression.operand)
        case s.Binary():
            return _names(expression.left) | _names(expression.right)
        case s.Comparison():
            return set().union(*map(_names, expression.operands))
        case s.Conditional():
            sides = (expression.test, expression.chosen, expression.other)
            return set().union(*map(_names, sides))
        case s.Call():
            return set().union(*map(_names, expression.arguments))
    return set()
