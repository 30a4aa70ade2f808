"""A rank's stream -> a list of prepared callables: what can be decided is decided here."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed import Store

from pipec.program.effects import Kind, Step
from pipec.program.graph import Topology
from pipec.program.lanes import brought
from pipec.program.launches import glued
from pipec.program.plan import Plan
from pipec.program.program import Program
from pipec.runtime.boundary import Boundary
from pipec.runtime.copies import Copies
from pipec.runtime.experts.opened import Opened
from pipec.runtime.held import Ends, Held, Run
from pipec.runtime.listener import Listener, Point
from pipec.runtime.marks import Marks
from pipec.runtime.messages import Incoming, Line, Outgoing
from pipec.runtime.retire import retirements
from pipec.runtime.specs import Specs
from pipec.runtime.split import Split
from pipec.runtime.wires import Wire

LEAST_AHEAD = 2
BYTES_AHEAD = 32 * 2**20
"""Receives posted ahead of their place: at least so many, and as many as fit in so much memory."""

WAIT = 1
"""Added to twice a row's index while the row waits for its message."""


@dataclass(frozen=True)
class Context:
    """What the streams of one pipeline have in common."""

    plan: Plan
    rank: int
    device: torch.device
    stages: Mapping[int, nn.Module]
    splits: Mapping[int, Split]
    wire: Wire
    topology: Topology
    store: Store
    key: str
    declared: Mapping[int, Specs]
    copies: Copies
    failed: Callable[[], bool]
    listeners: Sequence[Listener]


class Stream:
    """The prepared instructions of one rank, for training or for forward only."""

    def __init__(
        self,
        context: Context,
        program: Program,
        ends: Ends,
        trains: bool,
        boundaries: dict[tuple[int, int, int], Boundary] | None = None,
    ):
        """boundaries: those of an earlier stream, whose shapes are known by now."""
        self.program = program
        self.ends = ends
        self.steps: list[tuple[int, Run]] = []
        self.marks = Marks(context.device)
        self._context = context
        self._key = f"{context.key}/{'train' if trains else 'eval'}"
        self.trains = trains
        self._brings = brought(program)
        self._lines: dict[Any, Line] = defaultdict(Line)
        self._boundaries = boundaries if boundaries is not None else {}
        self._held: dict[tuple[int, int], Held] = {}
        self._opened: dict[tuple[int, int], Opened] = {}
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: list[Outgoing] = []
        self._first = np.cumsum([0, *(flow.microbatches for flow in program.placement.flows)])
        begin, end = program.start[context.rank], program.start[context.rank + 1]
        self._rows = range(int(begin), int(end))
        self._build()

    @property
    def settled(self) -> bool:
        """Whether all shapes were known when the instructions were prepared."""
        return self._settled

    def settle(self) -> "Stream":
        """The same stream, prepared anew with the shapes that the first step found out."""
        return Stream(self._context, self.program, self.ends, self.trains, self._boundaries)

    def clear(self) -> None:
        """Let go of everything that a failed step left behind."""
        for held in self._held.values():
            held.clear()
        for opened in self._opened.values():
            opened.clear()
        messages: list[Incoming | Outgoing] = [*self._incoming.values(), *self._outgoing]
        for message in messages:
            message.clear()

    # --- parts ------------------------------------------------------------------------------------

    def boundary(self, flow: int, stage: int, number: int = 0) -> Boundary:
        """The boundary in front of a stage for a microbatch: one for all, or one for each slice."""
        placed = self.program.placement.flows[flow]
        part = number % placed.slices
        known = self._boundaries.get((flow, stage, part))
        if known is None:
            context, ranks = self._context, placed.ranks
            store = context.store if ranks[stage - 1] != ranks[stage] else None
            key = f"{self._key}/{flow}/{stage}/{part}"
            specs = context.declared.get(stage)
            if specs is not None and not self.trains:
                specs = tuple(replace(spec, requires_grad=False) for spec in specs)
            known = Boundary(stage, key, store, context.device, specs, context.failed)
            self._boundaries[flow, stage, part] = known
        return known

    def message_sizes(self) -> dict[int, int]:
        """Bytes of a message into each stage of which this rank knows them."""
        sizes: dict[int, int] = {}
        for (_, stage, _), boundary in self._boundaries.items():
            sizes[stage] = max(boundary.size, sizes.get(stage, 0))
        return sizes

    def held(self, flow: int, stage: int) -> Held:
        """A stage of a flow on this rank."""
        known = self._held.get((flow, stage))
        if known is None:
            context, placed = self._context, self.program.placement.flows[flow]
            slices, last = placed.slices, stage + 1 == placed.stages
            after = () if last else [self.boundary(flow, stage + 1, one) for one in range(slices)]
            split = context.splits.get(stage)
            module, count = context.stages[stage], placed.microbatches
            known = Held(stage, module, split, count, after, self.trains, slices)
            self._held[flow, stage] = known
        return known

    def opened(self, flow: int, stage: int) -> Opened | None:
        """A stage of a flow on this rank, if the plan opens it into parts."""
        layouts = self.program.placement.layouts
        if not layouts or len(layouts[stage]) == 1:
            return None
        known = self._opened.get((flow, stage))
        if known is None:
            known = self._opened[flow, stage] = Opened(self.held(flow, stage), layouts[stage])
        return known

    def _line(self, peer: int, row: int) -> Line:
        """The queue that a message goes through; without queues each message has its own."""
        match self._context.topology:
            case "rank":
                return self._lines[()]
            case "pair":
                return self._lines[peer]
            case "directed":
                return self._lines[peer, int(self.program.kind[row])]
        return self._lines[row, "own"]

    def _flush(self, row: int, launch: range) -> None:
        """Post what is deferred for want of its shapes: before a launch, and as a part of it."""
        lines = [self._line(int(self.program.peer[one]), one) for one in launch]
        for line in {id(line): line for line in lines}.values():
            self._add(row, line.flush)

    # --- rows -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._mark_splits()
        receives = [row for row in self._rows if self.program.kind[row] == Kind.RECV]
        incoming = {row: self._receive(row) for row in receives}
        self._settled = all(one.specs is not None for one in self._boundaries.values())
        ahead = self._ahead(len(receives)) if self._context.topology == "tagged" else 0
        posts = dict(zip(receives, receives[ahead:], strict=False))
        for row in receives[:ahead]:
            self._add(row, incoming[row].post)
        retiring = _Retiring(self.program, self._context.rank, self._context.wire.retires)
        launches = _Launches(self.program) if self._context.topology != "tagged" else None
        for row in self._rows:
            for send, retire in retiring.before(row):
                self._add(send, retire, WAIT)
            if launches and row in launches.first:
                self._flush(row, launches.first[row])
                self._add(row, self._context.wire.begin_launch)
            match Kind(int(self.program.kind[row])):
                case Kind.RECV:
                    if row in posts:
                        self._add(posts[row], incoming[posts[row]].post)
                case Kind.SEND:
                    outgoing = self._send(row)
                    self._add(row, outgoing.post)
                    retiring.add(row, outgoing.retire)
                case Kind.SUM:
                    stage = int(self.program.operation[row])
                    self._add(row, partial(self._context.copies.post, stage))
                    retiring.at_the_end.append((row, partial(self._context.copies.wait, stage)))
                case Kind.DISPATCH | Kind.COMBINE:
                    self._add(row, self._compute(row))
                case _:
                    wait = self._wait(row)
                    if wait is not None:
                        self._add(row, wait, WAIT)
                    self._add(row, self._compute(row))
            if launches and row in launches.last:
                self._flush(row, launches.last[row])
                self._add(row, self._context.wire.end_launch)
        self._end(retiring.at_the_end)

    def _end(self, waits: Sequence[tuple[int, Run]]) -> None:
        """What is waited for when everything has been issued."""
        if waits:
            self._add(waits[0][0], self._context.wire.drain, WAIT)
        for row, wait in waits:
            self._add(row, wait, WAIT)

    def _ahead(self, receives: int) -> int:
        """How many receives are posted ahead of their place: possible where messages have tags.

        The earlier the better for gloo, within a bound on the memory of their buffers.
        """
        if not self._settled:
            return 0
        largest = max((one.size for one in self._boundaries.values()), default=1)
        return max(LEAST_AHEAD, min(receives, BYTES_AHEAD // max(largest, 1)))

    def _add(self, row: int, run: Run, waiting: int = 0) -> None:
        index = row - self._rows.start
        if waiting:
            run = self.marks.behind(2 * index + waiting, run)
        if self._context.listeners:
            point = Point(index, self.program.instruction(row), bool(waiting))
            for listener in self._context.listeners:
                run = listener.wrap(point, run)
        self.steps.append((2 * index + waiting, run))

    def _mark_splits(self) -> None:
        """A microbatch with B and W apart is recorded in F; one with BW is run plainly."""
        for row in self._rows:
            if self.program.kind[row] == Kind.B:
                flow, _, stage, number = self._split(int(self.program.operation[row]))
                held, opened = self.held(flow, stage), self.opened(flow, stage)
                if opened is not None:
                    opened.defer(number)
                    continue
                assert held.split is not None
                held.records[number] = held.split.record()

    def _split(self, operation: int) -> tuple[int, int, int, int]:
        flow, step, stage, number = self.program.placement.split(operation)
        return int(flow), int(step), int(stage), int(number)

    def _receive(self, row: int) -> Incoming:
        operation, peer = int(self.program.operation[row]), int(self.program.peer[row])
        flow, step, stage, number = self._split(operation)
        gradient = step == Step.BACKWARD
        boundary = self.boundary(flow, stage + 1 if gradient else stage, number)
        line = self._line(peer, row)
        recv = self._context.wire.receiver(peer)
        incoming = Incoming(recv, line, boundary, gradient, operation)
        self._incoming[operation] = incoming
        return incoming

    def _send(self, row: int) -> Outgoing:
        operation, peer = int(self.program.operation[row]), int(self.program.peer[row])
        flow, step, stage, number = self._split(operation)
        if step == Step.BACKWARD:
            payload = partial(self.held(flow, stage + 1).gradients, number)
        else:
            payload = partial(self.held(flow, stage - 1).sent, number)
        send = self._context.wire.sender(peer)
        outgoing = Outgoing(send, self._line(peer, row), payload, operation)
        self._outgoing.append(outgoing)
        return outgoing

    def _wait(self, row: int) -> Run | None:
        """The wait for what another lane brings to a row, if it brings anything."""
        brings = int(self._brings[row])
        if brings < 0:
            return None
        operation = int(self.program.operation[row])
        if self.program.kind[brings] == Kind.RECV:
            return self._incoming[operation].wait
        flow, _, stage, number = self._split(operation)
        opened = self.opened(flow, stage)
        assert opened is not None
        return opened.wait(number)

    def _compute(self, row: int) -> Run:
        """A row that computes, or starts an all-to-all."""
        operation, kind = int(self.program.operation[row]), Kind(int(self.program.kind[row]))
        flow, step, stage, number = self._split(operation)
        held, opened, part = (
            self.held(flow, stage),
            self.opened(flow, stage),
            int(self.program.part[row]),
        )
        if step == Step.FORWARD:
            ends = self._forward(held, flow, stage, number, operation)
            return opened.forward(part, number, *ends) if opened else held.forward(number, *ends)
        if step == Step.WEIGHTS:
            return opened.weights(part, number) if opened else held.weights(number)
        gradients = self._gradients(held, flow, stage, number, operation)
        if opened:
            return opened.backward(kind, part, number, gradients)
        return held.backward(number, gradients)

    def _forward(
        self, held: Held, flow: int, stage: int, number: int, operation: int
    ) -> tuple[Callable[[], tuple[Any, ...]], Callable[[Any], tuple[Any, ...]]]:
        """What an F takes, and what takes its output."""
        source: Callable[[], tuple[Any, ...]]
        place = int(self._first[flow]) + number
        if stage == 0:
            source = partial(self.ends.input, place)
        else:
            source = self._arrival(operation) or partial(
                self.held(flow, stage - 1).handed_over, number
            )
        if not held.after:
            return source, partial(self.ends.finish, stage, place)
        return source, held.to_next(number)

    def _gradients(
        self, held: Held, flow: int, stage: int, number: int, operation: int
    ) -> Callable[[], Sequence[Any]]:
        if not held.after:
            seeds, outputs = self.ends.seeds, held.outputs
            return lambda: seeds(outputs[number])
        return self._arrival(operation) or partial(self.held(flow, stage + 1).gradients, number)

    def _arrival(self, operation: int) -> Callable[[], tuple[Any, ...]] | None:
        """What takes an operation's message, if it has one."""
        incoming = self._incoming.get(operation)
        return incoming.take if incoming else None


class _Launches:
    """The launches of several messages, by their first row and by their last."""

    def __init__(self, program: Program):
        behind = np.append(glued(program), False)
        begins = np.flatnonzero(~behind[:-1] & behind[1:]).tolist()
        ends = np.flatnonzero(behind[:-1] & ~behind[1:]).tolist()
        self.first = {a: range(a, b + 1) for a, b in zip(begins, ends, strict=True)}
        self.last = {launch[-1]: launch for launch in self.first.values()}


class _Retiring:
    """When each SEND of a stream is waited for: once it is surely through, or at the end."""

    def __init__(self, program: Program, rank: int, early: bool):
        self.at_the_end: list[tuple[int, Run]] = []
        self._through: dict[int, list[tuple[int, Run]]] = defaultdict(list)
        self._last_uses = retirements(program, rank) if early else {}

    def add(self, row: int, retire: Run) -> None:
        """Wait for a SEND in its time."""
        if row in self._last_uses:
            self._through[self._last_uses[row]].append((row, retire))
        else:
            self.at_the_end.append((row, retire))

    def before(self, row: int) -> Sequence[tuple[int, Run]]:
        """The SENDs that are surely through before a row runs."""
        return self._through.pop(row, ())
