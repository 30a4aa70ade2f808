"""Syntax and sizes -> a schedule: parameters bound, flows placed, costs and limits evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pipec.findings import Finding, PipecError, Stop, listed, nearest
from pipec.language import syntax as s
from pipec.language.evaluate import FlowValue, Lanes, Value, evaluate, failing, spread
from pipec.language.syntax import names_in
from pipec.order.memory import in_bytes, memory_of
from pipec.order.settings import costs_of, sizes_of
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.memory import Limit, Memory
from pipec.program.parts import MOST_PARTS, Entry, Layout, Pattern, layout
from pipec.program.placement import Flow, Placement
from pipec.source import Source, Span

MOST_RANKS = 2**15
MOST_STAGES = 2**17
MOST_FLOWS = 64
MOST_CHUNKS = 2**24
"""Places for a stage on a rank, over all flows and ranks: more would not fit in memory."""
MOST_OPERATIONS = 2**31 - 1
_SIZES = {"stages": MOST_STAGES, "microbatches": MOST_OPERATIONS, "slices": MOST_OPERATIONS}


@dataclass(frozen=True)
class Schedule:
    """A schedule at one size. `names` are the values that its program may use."""

    name: str
    parameters: Mapping[str, int | bool]
    placement: Placement
    costs: Costs
    memory: Memory
    program: s.Block = field(repr=False)
    names: Mapping[str, Value] = field(repr=False)
    source: Source = field(repr=False)
    flow_spans: tuple[Span, ...] = field(repr=False)
    layouts: tuple[Layout, ...] = ()
    patterns: tuple[Pattern, ...] = ()


def bind(item: s.ScheduleItem, given: Mapping[str, int | bool], source: Source) -> Schedule:
    """Give a checked schedule its sizes. Raises `PipecError` with every mistake it can find."""
    findings: list[Finding] = []
    parameters = _parameters(item, given, findings)
    if findings:
        raise PipecError(findings, source)
    binder = _Binder(parameters, source, findings)
    for child in item.items:
        if findings and not isinstance(child, s.Require):
            break
        try:
            binder.item(child)
        except Stop as stop:
            findings.append(stop.finding)
            break  # what follows may use the names that this would have bound
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
        default: Any = 0
        if parameter.default is not None:
            try:
                default = evaluate(parameter.default, Lanes(dict(values)))
            except Stop as stop:
                findings += [stop.finding] if name not in given and not findings else []
        values[name] = default
        if name in given:
            values[name] = _given(parameter, given[name], isinstance(default, bool), findings)
        elif parameter.default is None:
            message, way = f"parameter `{name}` has no value", f"say `{name}=...`"
            findings.append(
                Finding("parameter", message, parameter.span, "an integer", "nothing", way)
            )
    if values and not findings:
        _check_ranks(item.parameters[0], values, findings)
    return values


def _given(parameter: s.Parameter, value: Any, truth: bool, findings: list[Finding]) -> Any:
    """A value from outside, which must be of the kind of the parameter's default."""
    if isinstance(value, bool | np.bool_) and truth:
        return bool(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and not truth:
        if abs(int(value)) <= s.LARGEST_NUMBER:
            return int(value)
        expected = f"at most {s.LARGEST_NUMBER:,}"
    else:
        expected = "true or false" if truth else "an integer"
    name, found = parameter.name.name, _said(value)
    message = f"parameter `{name}` cannot be {found}"
    findings.append(Finding("parameter", message, parameter.span, expected, found))
    return truth or 0


def _said(value: Any) -> str:
    """A value as the language writes it."""
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)[:100]


def _check_ranks(first: s.Parameter, values: dict[str, Any], findings: list[Finding]) -> None:
    ranks = values[first.name.name]
    if isinstance(ranks, bool) or not 1 <= ranks <= MOST_RANKS:
        message = f"`{first.name.name}` is the number of ranks"
        expected = f"an integer from 1 to {MOST_RANKS:,}"
        findings.append(Finding("parameter", message, first.span, expected, _said(ranks)))


class _Binder:
    """Evaluates the items of a schedule in the order of the text."""

    def __init__(self, parameters: dict[str, Any], source: Source, findings: list[Finding]):
        self._source = source
        self._parameters = parameters
        self._ranks = int(next(iter(parameters.values())))
        self._names: dict[str, Value] = dict(parameters)
        self._flows: list[Flow] = []
        self._spans: list[Span] = []
        self._pending: list[s.Settings] = []
        self._layers: list[s.Layers] = []
        self._patterns: list[Pattern] = []
        self._limit: Limit | None = None
        self._findings = findings

    def item(self, item: s.Item) -> None:
        match item:
            case s.Let():
                self._names[item.name.name] = evaluate(item.value, Lanes(self._names))
            case s.Require():
                self._require(item)
            case s.FlowItem():
                self._flow(item)
            case s.Layers():
                self._layers.append(item)
            case s.Pattern():
                self._patterns.append(_pattern(item))
            case s.Settings():
                self._pending.append(item)
            case s.Limit():
                assert isinstance(item.test, s.Comparison)
                self._set_limit(item, item.test.operands[1])
            case s.OnRank() | s.Greedy() | s.Every():
                self._program = item

    def _require(self, item: s.Require) -> None:
        if evaluate(item.test, Lanes(self._names)):
            return
        shown = ((name, self._shown(name)) for name in sorted(names_in(item.test)))
        found = ", ".join(f"{name} = {value}" for name, value in shown if value != name)
        message = f"requirement not met: {item.message}" if item.message else "requirement not met"
        span, text = item.test.span, self._source.text
        expected = f"`{' '.join(text[span.start : span.end].split())}`"
        self._findings.append(Finding("require", message, span, expected, found or "it is false"))

    def _shown(self, name: str) -> str:
        value = self._names[name]
        return self._flows[int(value.index)].name if isinstance(value, FlowValue) else _said(value)

    def _set_limit(self, item: s.Limit, limit: s.Expression) -> None:
        most = _fraction(evaluate(limit, Lanes(self._names, rational=True)))
        self._limit = Limit(most, in_bytes(limit), item.span)
        if most < 0:
            message = "this limit is negative"
            raise Stop(Finding("value", message, limit.span, "0 or more", str(most)))

    def _flow(self, item: s.FlowItem) -> None:
        values: dict[str, tuple[Any, Span]] = {
            argument.name.name: (evaluate(argument.value, Lanes(self._names)), argument.value.span)
            for argument in item.arguments
        }
        values.setdefault("slices", (1, item.span))
        for name, most in _SIZES.items():
            value, span = values[name]
            if not 1 <= value <= most:
                message = f"flow `{item.name.name}` cannot have {value:,} {name}"
                expected = f"from 1 to {most:,}"
                raise Stop(Finding("value", message, span, expected, f"{value:,}"))
        stages, microbatches, slices = (int(values[name][0]) for name in _SIZES)
        backward = bool(values.get("backward", (True,))[0])
        if microbatches % slices:
            message = f"the microbatches of flow `{item.name.name}` are no whole sequences"
            expected, found = f"a multiple of its {slices:,} slices", f"{microbatches:,}"
            raise Stop(Finding("value", message, values["microbatches"][1], expected, found))
        flow = Flow(item.name.name, microbatches, self._holders(item, stages), backward, slices)
        self._check_flow(item, flow)
        self._names[item.name.name] = FlowValue(len(self._flows))
        self._flows.append(flow)
        self._spans.append(item.span)

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
        expected, found = _travels(first), _travels(flow)
        if expected != found:
            message = f"flow `{flow.name}` does not fit flow `{first.name}`"
            hint = "all flows of a schedule travel the same model"
            raise Stop(Finding("value", message, item.span, expected, found, hint))
        self._afford(item, flow)
        together = Placement(self._ranks, (*self._flows, flow))
        crowded = [stage for stage, holders in enumerate(together.copies) if len(holders) > 2]
        if crowded:
            message = f"stage {crowded[0]} is held by {len(together.copies[crowded[0]])} ranks"
            expected = "at most two copies of a stage"
            found = ", ".join(f"rank {rank}" for rank in together.copies[crowded[0]])
            raise Stop(Finding("value", message, item.placement.span, expected, found))
        if together.size > MOST_OPERATIONS:
            message = "this schedule is too large"
            expected, found = f"at most {MOST_OPERATIONS:,} operations", f"{together.size:,}"
            raise Stop(Finding("budget", message, item.span, expected, found))

    def _afford(self, item: s.FlowItem, flow: Flow) -> None:
        """Refuse what tables over ranks, stages and flows could not hold."""
        flows = (*self._flows, flow)
        most = max(int(np.bincount(known.ranks).max()) for known in flows)
        places = len(flows) * self._ranks * most
        for what, number, limit in (
            ("flows", len(flows), MOST_FLOWS),
            ("places for stages", places, MOST_CHUNKS),
        ):
            if number > limit:
                message, found = f"this makes too many {what}", f"{number:,}"
                expected = f"at most {limit:,} on all ranks together"
                raise Stop(Finding("budget", message, item.span, expected, found))

    def schedule(self, item: s.ScheduleItem, source: Source) -> Schedule:
        """Put everything together; settings last, as they may depend on the number of stages."""
        placement = Placement(self._ranks, tuple(self._flows))
        try:
            costs = costs_of(self._pending, self._names, placement)
            sizes = sizes_of(self._pending, self._names, self._flows[0].stages)
            layouts = self._layouts(self._flows[0].stages)
        except Stop as stop:
            raise PipecError([stop.finding], source) from None
        stated = [settings for settings in self._pending if settings.word == "memory"]
        memory, wrong = memory_of(stated, sizes, self._limit)
        if wrong:
            raise PipecError(wrong, source)
        return Schedule(
            item.name.name,
            dict(self._parameters),
            placement,
            costs,
            memory,
            self._program,
            self._names,
            source,
            tuple(self._spans),
            layouts,
            tuple(self._patterns),
        )

    def _layouts(self, stages: int) -> tuple[Layout, ...]:
        """The parts of every stage; none where the text has no `layers`."""
        chunks: list[list[tuple[str, ...]]] = [[] for _ in range(stages)]
        for item in self._layers:
            lanes = Lanes(dict(self._names), stages).bind("stage", np.arange(stages), counter=True)
            counts = spread(evaluate(item.count, lanes), stages)
            least, most = int(counts.min()), int(counts.max())
            if least < 0 or most > MOST_PARTS:
                message, expected = "a chunk cannot have so many layers", f"from 0 to {MOST_PARTS}"
                found = str(least if least < 0 else most)
                raise Stop(Finding("value", message, item.count.span, expected, found))
            for chunk, number in zip(chunks, counts.tolist(), strict=True):
                chunk += [tuple(part.name for part in item.parts)] * number
        known: dict[tuple[tuple[str, ...], ...], Layout] = {}
        return tuple(
            self._layout(stage, tuple(chunk), known)
            for stage, chunk in enumerate(chunks)
            if self._layers
        )

    def _layout(
        self,
        stage: int,
        chunk: tuple[tuple[str, ...], ...],
        known: dict[tuple[tuple[str, ...], ...], Layout],
    ) -> Layout:
        if chunk not in known:
            try:
                known[chunk] = layout(chunk)
            except ValueError as error:
                message, span = f"the layers of stage {stage}: {error}", self._layers[-1].span
                raise Stop(Finding("parts", message, span, "layers of parts")) from None
        return known[chunk]


def _travels(flow: Flow) -> str:
    """What is the same in all flows of a schedule."""
    return f"{flow.model}, backward={str(flow.backward).lower()}"


def _pattern(item: s.Pattern) -> Pattern:
    kinds = [Kind[operation.kind] for operation in item.pair.operations]
    (backward,) = (kind for kind in kinds if kind is not Kind.F)
    lanes = {
        lane.name: tuple(Entry(Kind[part.kind], part.part.name, part.span) for part in lane.parts)
        for lane in item.body
        if isinstance(lane, s.Lane)
    }
    return Pattern(backward, **lanes)


def _fraction(value: Value) -> Fraction:
    assert isinstance(value, int | Fraction)
    return Fraction(value)
