"""A `greedy` block -> a policy: preferences and limits of every rank, as lines of work."""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.language.evaluate import FlowValue, Lanes, Value, evaluate, spread
from pipec.order.count import chunk_name
from pipec.order.greedy import Limit, Policy, Refusal
from pipec.order.lines import Line, Lines
from pipec.order.memory import in_bytes
from pipec.order.schedule import Schedule
from pipec.order.select import Selection
from pipec.program.effects import STEP, Kind
from pipec.program.memory import Limit as Most
from pipec.program.memory import Memory
from pipec.source import Span

Array = NDArray[Any]


@dataclass(frozen=True)
class Stated:
    """A policy, the spans of its preferences, and per limit its text, span and unit of memory."""

    policy: Policy
    spans: tuple[Span, ...]
    limits: tuple["StatedLimit", ...]


@dataclass(frozen=True)
class StatedLimit:
    """A limit as the author wrote it; its values count `1 / scale` of a unit, from `base` on."""

    text: str
    span: Span | None
    scale: int = 1
    base: Fraction = Fraction(0)


def stated_policy(schedule: Schedule) -> Stated:
    """The policy of a schedule; its limit of memory is one of the limits. Raises `Stop`."""
    block = schedule.program
    assert isinstance(block, s.Greedy)
    ranks = schedule.placement.ranks
    lanes = Lanes(dict(schedule.names), ranks)
    lanes = lanes.bind(block.name.name, np.arange(ranks), counter=True)
    reader = _Reader(schedule, Selection(schedule.placement, schedule.source, block.name.name))
    for item in block.body:
        match item:
            case s.Let():
                lanes = lanes.bind(item.name.name, evaluate(item.value, lanes))
            case s.Prefer():
                reader.prefer(item, lanes)
            case s.Limit():
                reader.waiting.append((item, lanes))
    for item, where in reader.waiting:
        reader.limit(item, where)
    if schedule.memory.limit is not None:
        reader.memory_limit(schedule.memory)
    policy = Policy(reader.lines, reader.groups, reader.limits)
    return Stated(policy, tuple(reader.spans), tuple(reader.stated))


class _Reader:
    """Turns the lines of a block into the parts of a policy."""

    def __init__(self, schedule: Schedule, selection: Selection):
        self._schedule = schedule
        self._selection = selection
        self._chunk = _chunk_numbers(schedule)
        self.waiting: list[tuple[s.Limit, Lanes]] = []
        self.spans: list[Span] = []
        self.groups: list[list[list[int]]] = []
        self.limits: list[Limit] = []
        self.stated: list[StatedLimit] = []

    def prefer(self, item: s.Prefer, lanes: Lanes) -> None:
        """Give every line of every rank the first preference that fits it."""
        self.spans = [operation.span for operation in item.operations]
        named = [self._named(operation, lanes) for operation in item.operations]
        found: list[Line] = []
        for flow, chain in enumerate(self._schedule.placement.flows):
            for stage, rank in enumerate(chain.ranks):
                line = Line(Kind.F, flow, stage, rank, chain.microbatches, -1)
                first = {
                    kind: self._first(item, named, replace(line, kind=Kind[kind]))
                    for kind in (("F", "B", "W", "BW") if chain.backward else ("F",))
                }
                found += self._lines(item, line, first)
        self.lines = Lines(self._schedule.placement, tuple(found))
        self.groups = [[[] for _ in item.operations] for _ in range(self._schedule.placement.ranks)]
        for number, line in enumerate(found):
            self.groups[line.rank][line.origin].append(number)

    def _first(
        self, item: s.Prefer, named: list[tuple[Array | None, Array | None]], line: Line
    ) -> int:
        """The number of the first preference that a line fits, or -1."""
        for number, (operation, names) in enumerate(zip(item.operations, named, strict=True)):
            if Kind[operation.kind] == line.kind and self._fits(names, line):
                return number
        return -1

    def _lines(self, item: s.Prefer, line: Line, first: dict[str, int]) -> list[Line]:
        """The lines of one stage: F, and either BW or B and W, whichever is preferred first."""
        kinds = ["F"]
        if len(first) > 1:
            halves = sorted(first[kind] for kind in ("B", "W"))
            fused = first["BW"] >= 0 and (halves[0] < 0 or first["BW"] < halves[0])
            kinds += ["BW"] if fused else ["B", "W"]
        for kind in kinds:
            if first[kind] < 0:
                where = chunk_name(
                    self._schedule.placement,
                    self._schedule.placement.flows[line.flow].name,
                    line.rank,
                    line.stage,
                )
                message = f"the policy never runs {kind} of {where} on rank {line.rank}"
                found = f"no preference for this {kind}"
                raise Stop(Finding("policy", message, item.span, f"`{kind}` in `prefer`", found))
        return [replace(line, kind=Kind[kind], origin=first[kind]) for kind in kinds]

    def limit(self, item: s.Limit, lanes: Lanes) -> None:
        """Add a limit on every rank."""
        assert isinstance(item.test, s.Comparison)
        left, right = item.test.operands
        text = self._schedule.source.text[item.test.span.start : item.test.span.end]
        if isinstance(left, s.Name):
            most = self._memory_bounds(right, lanes)
            stated = Most(max(most), in_bytes(right), item.span)
            if wrong := replace(self._schedule.memory, limit=stated).wrong_limit():
                raise Stop(wrong)
            for rank, bound in enumerate(most):
                self._memory(bound, rank, StatedLimit(" ".join(text.split()), item.span))
            return
        weights: dict[int, Array] = {}
        constant = self._add(left, np.ones(lanes.count, np.int64), weights, lanes)
        bounds = spread(evaluate(right, lanes), lanes.count) - constant
        source = len(self.stated)
        self.stated.append(StatedLimit(" ".join(text.split()), item.span))
        mine: list[dict[int, int]] = [{} for _ in range(lanes.count)]
        for line, by in weights.items():
            rank = self.lines.lines[line].rank
            mine[rank] |= {line: int(by[rank])} if by[rank] else {}
        for rank, own in enumerate(mine):
            self.limits.append(Limit(own, int(bounds[rank]), source))

    def _memory_bounds(self, bound: s.Expression, lanes: Lanes) -> list[Fraction]:
        """A bound that may be a fraction, so each rank's is evaluated alone, in plain numbers."""
        found = []
        for rank in range(lanes.count):
            own = {name: _plain(value, rank) for name, value in lanes.names.items()}
            value = evaluate(bound, replace(lanes, names=own, count=1, rational=True))
            assert isinstance(value, int | Fraction)
            found.append(Fraction(value))
        return found

    def _add(
        self, node: s.Expression, factor: Array, weights: dict[int, Array], lanes: Lanes
    ) -> Array:
        """Add `factor` times an expression to the weights of lines; what counts nothing is left."""
        match node:
            case s.Operation():
                names = self._named(node, lanes)
                for number, line in enumerate(self.lines.lines):
                    if line.kind == Kind[node.kind] and self._fits(names, line):
                        weights[number] = weights.get(number, 0) + factor
                return np.zeros(lanes.count, np.int64)
            case s.Unary():
                return self._add(node.operand, -factor, weights, lanes)
            case s.Binary(operator="+" | "-"):
                sign = 1 if node.operator == "+" else -1
                left = self._add(node.left, factor, weights, lanes)
                return left + self._add(node.right, sign * factor, weights, lanes)
            case s.Binary(operator="*") if _counts(node.left) or _counts(node.right):
                sides = (node.left, node.right)
                counts, times = sides if _counts(node.left) else sides[::-1]
                times_each = spread(evaluate(times, lanes), lanes.count)
                return self._add(counts, factor * times_each, weights, lanes)
        return factor * spread(evaluate(node, lanes), lanes.count)

    def memory_limit(self, memory: Memory) -> None:
        """Add the schedule's own limit of memory, or the one given with it, on every rank."""
        assert memory.limit is not None
        stated = StatedLimit(f"memory <= {memory.limit.text}", memory.limit.span)
        for rank in range(self._schedule.placement.ranks):
            self._memory(memory.limit.most, rank, stated)

    def _memory(self, limit: Fraction, rank: int, stated: StatedLimit) -> None:
        """Limit what a rank holds, in the units of the schedule's `memory`."""
        memory, placement = self._schedule.memory, self._schedule.placement
        lines = [(number, self.lines.lines[number]) for number in self.lines.on(rank)]
        amounts = {number: memory.change(line.kind, line.stage) for number, line in lines}
        state = sum(map(memory.constant, placement.held(rank)), Fraction(0))
        room = limit - state
        scale = lcm(room.denominator, *(amount.denominator for amount in amounts.values()))
        weights = {line: int(amount * scale) for line, amount in amounts.items() if amount}
        self.limits.append(Limit(weights, int(room * scale), len(self.stated)))
        self.stated.append(replace(stated, scale=scale, base=state))

    def _named(self, operation: s.Operation, lanes: Lanes) -> tuple[Array | None, Array | None]:
        """Per rank the flow and the chunk that an operation names."""
        flow, chunk = self._selection.any(operation, lanes)
        held = (self._schedule.placement.chunks >= 0).sum(axis=2)
        if chunk is not None:
            here = held.max(axis=0) if flow is None else held[flow, np.arange(lanes.count)]
            self._selection.in_range(operation, chunk, here, lanes)
        return (
            None if flow is None else spread(flow, lanes.count),
            None if chunk is None else spread(chunk, lanes.count),
        )

    def _fits(self, names: tuple[Array | None, Array | None], line: Line) -> bool:
        flow, chunk = names
        if flow is not None and int(flow[line.rank]) != line.flow:
            return False
        return chunk is None or int(chunk[line.rank]) == self._chunk[line.flow][line.stage]


def _counts(node: s.Expression) -> bool:
    match node:
        case s.Operation():
            return True
        case s.Unary():
            return _counts(node.operand)
        case s.Binary():
            return _counts(node.left) or _counts(node.right)
    return False


def _chunk_numbers(schedule: Schedule) -> list[list[int]]:
    """`[flow][stage]`: which chunk of its rank a stage is."""
    numbers: list[list[int]] = []
    for flow in schedule.placement.flows:
        held = [0] * schedule.placement.ranks
        numbers.append([])
        for rank in flow.ranks:
            numbers[-1].append(held[rank])
            held[rank] += 1
    return numbers


def _plain(value: Value, rank: int) -> Value:
    """A name's value on one rank."""
    if isinstance(value, FlowValue):
        return FlowValue(int(spread(value, rank + 1)[rank]))
    return value[rank].item() if isinstance(value, np.ndarray) else value


def refused(stated: Stated, refusal: Refusal) -> Finding:
    """The finding for a policy that admits nothing more."""
    lines, placement = stated.policy.lines, stated.policy.lines.placement
    line, limit = lines.lines[refusal.line], stated.limits[refusal.limit.source]
    name = placement.flows[line.flow].name
    where = chunk_name(placement, name, line.rank, line.stage)
    microbatch = int(placement.turned(line.flow, STEP[line.kind], refusal.microbatch))
    operation = f"{line.kind.name}({microbatch}) of {where}"
    message = f"the policy gets stuck: rank {line.rank} may not run {operation}"
    weights = refusal.limit.weights
    amounts = (refusal.limit.bound, refusal.value, refusal.value + weights[refusal.line])
    bound, before, after = (_amount_text(amount, limit) for amount in amounts)
    found = f"{before} before it and {after} after it"
    if refusal.owed:
        owed = ", ".join(f"stage {lines.lines[other].stage}" for other in refusal.owed)
        found += f", with no room for the forwards of an older microbatch: {owed}"
    hint = "raise the limit, or limit less"
    expected = f"`{limit.text}`, which is {bound} on rank {line.rank}"
    return Finding("policy", message, limit.span, expected, found, hint)


def _amount_text(ticks: int, limit: StatedLimit) -> str:
    return f"{float(limit.base + Fraction(ticks, limit.scale)):g}"
