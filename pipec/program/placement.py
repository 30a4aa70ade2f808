"""Flows, stages and ranks: who holds what, and the arithmetic of operation ids.

An operation (one step of one microbatch in one stage of one flow) is one integer:
`base[flow] + (step * stages + stage) * microbatches + microbatch`. Producers and partners are then
additions, and a table over operations is an array.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import look_up, narrow
from pipec.program.effects import TRAVELS, Need, Step
from pipec.program.parts import Layout

Array = NDArray[Any]


@dataclass(frozen=True)
class Flow:
    """A chain of stages that microbatches travel; `ranks[s]` holds stage `s`.

    Microbatches may be slices: `slices` of them in a row are one sequence, cut along its length.
    """

    name: str
    microbatches: int
    ranks: tuple[int, ...]
    backward: bool = True
    slices: int = 1

    @property
    def stages(self) -> int:
        """How many stages the flow has."""
        return len(self.ranks)

    @property
    def model(self) -> str:
        """What all flows of a program share, in words."""
        return f"{self.stages} stages" + (f", {self.slices} slices" if self.slices > 1 else "")


class Operations(NamedTuple):
    """Operation ids taken apart: four arrays of one length, or four integers."""

    flow: Any
    step: Any
    stage: Any
    microbatch: Any


class Joint(NamedTuple):
    """Operations of a step of a flow that have a need, and who makes what they need.

    takers, makers: the ranks of their stages. In tables over ids both are stages of microbatches:
    the ids of a step from `taken` on, and those from `made` on. A need of another slice leaves out
    the ends of sequences: in each there are `slices`, and the other one is `further` along.
    """

    step: Step
    takers: Array
    makers: Array
    taken: slice
    made: slice
    slices: int
    further: int

    def takes(self, table: Array) -> Array:
        """The part of a table over ids that is of those who need: `[stage, microbatch]`."""
        return self._part(table[self.taken], max(0, -self.further))

    def makes(self, table: Array) -> Array:
        """The part of a table over ids that is of those who make it, in the same order."""
        return self._part(table[self.made], max(0, self.further))

    def _part(self, ids: Array, first: int) -> Array:
        stages, most = len(self.takers), self.slices - abs(self.further)
        if not self.further:
            return ids.reshape(stages, -1)
        sequences = ids.reshape(stages, -1, self.slices)
        return sequences[:, :, first : first + most].reshape(stages, -1)


_STAGES = np.array([TRAVELS[step].stage if step in TRAVELS else 0 for step in Step])
_STEPS = np.array([TRAVELS[step].step - step if step in TRAVELS else 0 for step in Step])
"""From each step to what travels to it: how many stages, and how many steps."""

MOST_RANKS = 2**15
_SPARSE = 10**7


@dataclass(frozen=True)
class Placement:
    """The flows of a program on its ranks, and the parts of each stage where chunks are opened."""

    ranks: int
    flows: tuple[Flow, ...]
    layouts: tuple[Layout, ...] = ()

    @cached_property
    def base(self) -> Array:
        """The first operation id of each flow, and one past the last."""
        sizes = [len(Step) * flow.stages * flow.microbatches for flow in self.flows]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @property
    def size(self) -> int:
        """How many operation ids there are."""
        return int(self.base[-1])

    @cached_property
    def lengths(self) -> Array:
        """How many parts each stage has; one where chunks are not opened."""
        stages = max((flow.stages for flow in self.flows), default=0)
        if not self.layouts:
            return np.ones(stages, np.int64)
        return np.array([len(parts) for parts in self.layouts], np.int64)

    @cached_property
    def widest(self) -> int:
        """The most parts that a stage has."""
        return int(self.lengths.max(initial=1))

    @cached_property
    def wires(self) -> Array:
        """`[stage, part]`: DISPATCH or COMBINE, -1 for compute, -2 where there is no such part."""
        table = np.full((len(self.lengths), self.widest), -2, np.int64)
        for stage, parts in enumerate(self.layouts):
            table[stage, : len(parts)] = [-1 if part.wire is None else part.wire for part in parts]
        if not self.layouts:
            table[:] = -1
        return table

    def fits(self, rows: int) -> bool:
        """Whether a program of so many instructions can be a program of this placement.

        A complete one has an instruction for every third id at least. What is far from that is a
        mistake, and tables over its ids, or over their parts, could be larger than the memory.
        """
        slots = self.size * self.widest
        enough = self.widest == 1 or slots <= max(24 * rows, 4 * _SPARSE)
        return enough and self.size < 2**31 and self.size <= max(6 * rows, _SPARSE)

    @cached_property
    def stages(self) -> Array:
        """Stages of each flow."""
        return np.array([flow.stages for flow in self.flows], np.int64)

    @cached_property
    def microbatches(self) -> Array:
        """Microbatches of each flow."""
        return np.array([flow.microbatches for flow in self.flows], np.int64)

    @cached_property
    def slices(self) -> Array:
        """Slices of a sequence in each flow; 1 where microbatches are whole."""
        return np.array([flow.slices for flow in self.flows], np.int64)

    @cached_property
    def sliced(self) -> bool:
        """Whether some flow has slices."""
        return any(flow.slices > 1 for flow in self.flows)

    def turned(self, flow: Any, step: Any, number: Any) -> Any:
        """The microbatch that a step takes as its `number`-th, and the other way round.

        Forwards go along a sequence; what is backward begins with the last slice of it.
        """
        if not self.sliced:
            return number
        slices = self.of(self.slices, flow)
        back = number - number % slices + slices - 1 - number % slices
        return np.where(step == Step.FORWARD, number, back)

    @cached_property
    def holders(self) -> tuple[Array, ...]:
        """For each flow the ranks of its stages."""
        return tuple(np.array(flow.ranks, np.int32) for flow in self.flows)

    def of(self, numbers: Array, flow: Any) -> Any:
        """`numbers[flow]`, or the one number that all flows have."""
        alike = len(numbers) == 1 or (numbers == numbers[0]).all()
        return int(numbers[0]) if alike else numbers[flow]

    def operation(self, flow: Any, step: Any, stage: Any, microbatch: Any) -> Any:
        """The id of an operation; arrays give arrays."""
        stages, microbatches = self.of(self.stages, flow), self.of(self.microbatches, flow)
        number = (step * stages + stage) * microbatches + microbatch
        return number if len(self.flows) == 1 else self.base[flow] + number

    def split(self, operations: Any) -> Operations:
        """The inverse of `operation`."""
        if self._few(operations):
            return self._split(operations)
        return Operations(*(look_up(table, operations) for table in self._tables))

    def flow_of(self, operations: Any) -> Any:
        """The flow of each operation, alone."""
        few = self._few(operations)
        return self._split(operations).flow if few else look_up(self._flows, operations)

    def step_of(self, operations: Any) -> Any:
        """The step of each operation, alone."""
        few = self._few(operations)
        return self._split(operations).step if few else look_up(self._steps, operations)

    def stage_of(self, operations: Any) -> Any:
        """The stage of each operation, alone."""
        few = self._few(operations)
        return self._split(operations).stage if few else look_up(self.stage, operations)

    def sources(self, operations: Array) -> Array:
        """For each operation the one whose result travels to it from another stage, or -1."""
        if self._few(operations):
            return self._sources(operations, self._split(operations))
        return look_up(self.source, operations)

    def distance(self, flow: Any, steps: Any, stages: Any) -> Any:
        """From operations of flows to those so many steps and stages further, in ids."""
        lines = steps * self.of(self.stages, flow) + stages
        return lines * self.of(self.microbatches, flow)

    def _few(self, operations: Any) -> bool:
        """Whether tables over all ids would take longer to make than they save."""
        return np.ndim(operations) == 0 or 4 * len(operations) < self.size

    @property
    def _tables(self) -> Operations:
        microbatches = _in_turn(
            np.tile(np.arange(flow.microbatches, dtype=np.int32), len(Step) * flow.stages)
            for flow in self.flows
        )
        return Operations(self._flows, self._steps, self.stage, microbatches)

    @cached_property
    def _flows(self) -> Array:
        return np.arange(len(self.flows), dtype=np.int32).repeat(self.base[1:] - self.base[:-1])

    @cached_property
    def _steps(self) -> Array:
        steps = np.arange(len(Step), dtype=np.int32)
        return _in_turn(steps.repeat(flow.stages * flow.microbatches) for flow in self.flows)

    @cached_property
    def stage(self) -> Array:
        """The stage of each operation id."""
        return self._by_stage(np.arange(flow.stages, dtype=np.int32) for flow in self.flows)

    @cached_property
    def home(self) -> Array:
        """The rank of each operation id."""
        return self._by_stage(self.holders)

    def _by_stage(self, numbers: Iterable[Array]) -> Array:
        """A table over ids of one number per stage of each flow."""
        return _in_turn(
            np.tile(number.repeat(flow.microbatches), len(Step))
            for flow, number in zip(self.flows, numbers, strict=True)
        )

    @cached_property
    def source(self) -> Array:
        """For each id the operation whose result travels to it from another stage, or -1."""
        table = np.full(self.size, -1, narrow(self.size))
        for joint in self.joints(TRAVELS.items()):
            ids = np.arange(joint.made.start, joint.made.stop, dtype=table.dtype)
            table[joint.taken] = ids
        return table

    @cached_property
    def supplier(self) -> Array:
        """The rank that makes what travels to each operation id, or -1."""
        table = np.full(self.size, -1, np.int32)
        for joint in self.joints(TRAVELS.items()):
            table[joint.taken] = self.home[joint.made]
        return table

    def joints(self, needs: Iterable[tuple[Step, Need]]) -> Iterator[Joint]:
        """All that the operations of steps need, as parts of tables over ids.

        The ends of a flow have no need of another stage, and those of a sequence none of another
        slice.
        """
        flows = [*zip(self.base.tolist(), self.flows, self.holders, strict=False)]
        for step, need in needs:
            for base, flow, ranks in flows:
                first, last = max(0, -need.stage), flow.stages - max(0, need.stage)
                if first >= last or abs(need.slice) >= flow.slices:
                    continue
                taken, made = (
                    (base + (kind * flow.stages + first + stage) * flow.microbatches)
                    for kind, stage in ((step, 0), (need.step, need.stage))
                )
                count = (last - first) * flow.microbatches
                yield Joint(
                    step,
                    ranks[first:last],
                    ranks[first + need.stage : last + need.stage],
                    slice(taken, taken + count),
                    slice(made, made + count),
                    flow.slices,
                    need.slice,
                )

    def _split(self, operations: Any) -> Operations:
        flow, rest = np.zeros_like(operations), operations
        if len(self.flows) > 1:
            flow = np.searchsorted(self.base[1:], operations, side="right")
            rest = operations - self.base[flow]
        stages, microbatches = self.of(self.stages, flow), self.of(self.microbatches, flow)
        line = rest // microbatches
        step = line // stages
        return Operations(flow, step, line - step * stages, rest - line * microbatches)

    def _sources(self, operations: Array, parts: Operations) -> Array:
        there = parts.stage + _STAGES[parts.step]
        stages = self.of(self.stages, parts.flow)
        which = np.flatnonzero((there != parts.stage) & (there >= 0) & (there < stages))
        flow, step = parts.flow[which], parts.step[which]
        source = np.full(len(operations), -1, np.int64)
        source[which] = operations[which] + self.distance(flow, _STEPS[step], _STAGES[step])
        return source

    def held(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank holds, over all flows, without doubles."""
        stages = {
            stage
            for flow in self.flows
            for stage, holder in enumerate(flow.ranks)
            if holder == rank
        }
        return tuple(sorted(stages))

    @cached_property
    def copies(self) -> tuple[tuple[int, ...], ...]:
        """For each stage the ranks that hold a copy of it, ascending."""
        stages = max((flow.stages for flow in self.flows), default=0)
        return tuple(
            tuple(sorted({flow.ranks[stage] for flow in self.flows if stage < flow.stages}))
            for stage in range(stages)
        )

    @cached_property
    def neighbours(self) -> tuple[tuple[int, int], ...]:
        """(from, to): the ranks between which messages travel, each once, ascending."""
        along = {pair for flow in self.flows for pair in pairwise(flow.ranks) if pair[0] != pair[1]}
        back = {
            pair[::-1]
            for flow in self.flows
            if flow.backward
            for pair in pairwise(flow.ranks)
            if pair[0] != pair[1]
        }
        return tuple(sorted(along | back))

    @cached_property
    def chunks(self) -> Array:
        """`[flow, rank, chunk]` -> stage, -1 where the rank has no such chunk."""
        counts = np.zeros((len(self.flows), self.ranks), np.int64)
        most = 1
        for number, flow in enumerate(self.flows):
            counts[number] = np.bincount(flow.ranks, minlength=self.ranks)
            most = max(most, int(counts[number].max()))
        table = np.full((len(self.flows), self.ranks, most), -1, np.int64)
        for number, flow in enumerate(self.flows):
            ranks = np.array(flow.ranks)
            by_rank = np.argsort(ranks, kind="stable")
            starts = np.cumsum(counts[number]) - counts[number]
            chunk = np.arange(flow.stages) - np.repeat(starts, counts[number])
            table[number, ranks[by_rank], chunk] = by_rank
        return table


def _in_turn(tables: Iterable[Array]) -> Array:
    """One table over ids from those of the flows."""
    parts = [*tables]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)
