"""Orders and programs as tables: one row per instruction, sorted by rank and place.

An *order* holds only compute; a *program* also holds every communication. A row is a few narrow
columns, so a program of ten million instructions fits in a few hundred megabytes and passes work on
whole columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import last_before, look_up, narrow, put, ranges, rows_where, with_none
from pipec.program.effects import COMPUTE, EFFECTS, Kind, Lane, Step
from pipec.program.parts import Part
from pipec.program.placement import Placement
from pipec.source import Source, Span

Array = NDArray[Any]


@dataclass(frozen=True)
class Origins:
    """The text that a table was made from, and the spans that its rows point to."""

    source: Source | None = None
    spans: tuple[Span, ...] = ()

    def span(self, origin: int) -> Span | None:
        """The span of a row's origin; -1 is nowhere."""
        return self.spans[origin] if 0 <= origin < len(self.spans) else None


class Instruction(NamedTuple):
    """A row as people see it. `peer` is None for compute; `tied` marks the second half of an
    OVERLAP, and what is issued in one launch with the row before. `part` is what an instruction of
    an opened chunk runs; `nowait` says that it does not wait for what other lanes bring to it.
    """

    kind: Kind
    flow: str | None
    stage: int
    microbatch: int | None
    peer: int | None
    tied: bool
    step: Step | None
    part: Part | None = None
    nowait: bool = False


@dataclass(frozen=True, eq=False)
class Witness:
    """What the maker of a program claims to know of it. Nobody believes it: it is proved, or not
    used, and a program without one has the same certificate, only later.

    moment: a number of 1 or more per row, the same for rows that meet, which rises along all that
    waits. end: when each row ends, in ticks, or -1 where nothing is claimed.
    """

    moment: Array
    end: Array


@dataclass(frozen=True, eq=False)
class Table:
    """Rows sorted by (rank, place); rank `r` owns rows `start[r]` to `start[r + 1]`.

    `operation` is the id of a compute row's own operation, of the operation that consumes the
    payload of a SEND or RECV, and for a SUM the stage number. `tie` glues a compute row to the
    compute row before it: the two are one OVERLAP; and a SEND or RECV to the SEND or RECV right
    before it: they are one launch. `peer` is -1 where there is none. `nowait` marks
    a compute row that does not wait for what other lanes bring to it, which is a hazard. `part` is
    the part of an opened chunk that the row runs, in the order of the forward; else 0. `origin`
    indexes `origins.spans`.
    """

    placement: Placement
    start: Array
    kind: Array
    operation: Array
    peer: Array
    tie: Array
    nowait: Array
    part: Array
    origin: Array
    origins: Origins = field(repr=False, default=Origins())
    witness: Witness | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def ranks(self) -> int:
        """How many ranks the table has."""
        return self.placement.ranks

    @cached_property
    def rank(self) -> Array:
        """The rank of each row."""
        counts = self.start[1:] - self.start[:-1]
        return np.arange(self.ranks, dtype=np.int32).repeat(counts)

    @cached_property
    def computes(self) -> Array:
        """Whether each row computes."""
        return look_up(COMPUTE, self.kind)

    @cached_property
    def compute(self) -> Array:
        """The rows that compute."""
        return rows_where(self.computes)

    @cached_property
    def sends(self) -> Array:
        """The SENDs."""
        return rows_where(self.kind == Kind.SEND)

    @cached_property
    def recvs(self) -> Array:
        """The RECVs."""
        return rows_where(self.kind == Kind.RECV)

    @cached_property
    def sums(self) -> Array:
        """The SUMs."""
        return rows_where(self.kind == Kind.SUM)

    @cached_property
    def unit_before(self) -> Array:
        """For each row the last compute row before it on its rank, or -1."""
        before = last_before(self.computes)[:-1]
        compute = np.append(self.compute, len(self))
        begins, ends = self.start[:-1], self.start[1:]
        firsts = np.minimum(compute.take(compute.searchsorted(begins)) + 1, ends)
        before[ranges(begins, firsts - begins)] = -1
        return before

    @cached_property
    def grouped(self) -> bool:
        """Whether some SENDs or RECVs are tied: issued as one launch (see `launches.py`)."""
        return bool((self.tie & ~self.computes).any())

    @cached_property
    def entry(self) -> Array:
        """For each operation id the first row with which it begins, or -1."""
        return self.first(self.entries)

    @cached_property
    def exit(self) -> Array:
        """For each operation id the first row with which it ends, or -1."""
        return self.first(self.exits) if self.placement.layouts else self.entry

    @cached_property
    def sent(self) -> Array:
        """For each operation id the first SEND of what it consumes, or -1."""
        return self.first(self.sends)

    @cached_property
    def received(self) -> Array:
        """For each operation id the first RECV of what it consumes, or -1."""
        return self.first(self.recvs)

    def first(self, rows: Array) -> Array:
        """For each operation id the first of these rows that carries it, or -1."""
        table = np.full(self.placement.size, -1, narrow(len(self)))
        put(table, look_up(self.operation, rows)[::-1], rows[::-1])
        return table

    @cached_property
    def slot(self) -> Array:
        """A number for each operation and part: `operation * widest + part`."""
        if not self.placement.layouts:
            return self.operation
        return self.operation.astype(np.int64) * self.placement.widest + self.part

    @cached_property
    def entries(self) -> Array:
        """The compute rows with which operations begin: all, unless chunks are opened."""
        return self._at_end(begin=True)

    @cached_property
    def exits(self) -> Array:
        """The compute rows with which operations end: all, unless chunks are opened."""
        return self._at_end(begin=False)

    def _at_end(self, begin: bool) -> Array:
        rows = self.compute
        if not self.placement.layouts:
            return rows
        parts = self.placement.split(self.operation[rows])
        low = (parts.step == Step.FORWARD) == begin
        end = np.where(low, 0, self.placement.lengths[parts.stage] - 1)
        return rows[self.part[rows] == end]

    @cached_property
    def pairs(self) -> tuple[Array, Array]:
        """The first and second rows of every OVERLAP."""
        second = rows_where(self.tie & self.computes if self.grouped else self.tie)
        return look_up(self.compute, self.compute.searchsorted(second) - 1), second

    def instruction(self, row: int) -> Instruction:
        """One row, taken apart."""
        kind = Kind(int(self.kind[row]))
        operation, peer = int(self.operation[row]), int(self.peer[row])
        tied = bool(self.tie[row])
        if kind is Kind.SUM:
            return Instruction(kind, None, operation, None, peer, tied, None)
        flow, step, stage, microbatch = (int(part) for part in self.placement.split(operation))
        name = self.placement.flows[flow].name
        holder = None if peer < 0 else peer
        part, nowait = self._part(kind, stage, int(self.part[row])), bool(self.nowait[row])
        return Instruction(kind, name, stage, microbatch, holder, tied, Step(step), part, nowait)

    def _part(self, kind: Kind, stage: int, number: int) -> Part | None:
        if not self.placement.layouts or EFFECTS[kind].lane is Lane.WIRE:
            return None
        parts = self.placement.layouts[stage]
        return parts[number] if number < len(parts) else Part("?", number)

    def __getitem__(self, rank: int) -> list[Instruction]:
        """The instructions of one rank, in order."""
        return [self.instruction(row) for row in range(self.start[rank], self.start[rank + 1])]

    def __iter__(self) -> Iterator[list[Instruction]]:
        return (self[rank] for rank in range(self.ranks))

    def place(self, row: int) -> tuple[int, int]:
        """The rank of a row and its index there."""
        rank = int(np.searchsorted(self.start, row, side="right")) - 1
        return rank, row - int(self.start[rank])

    def same(self, other: "Table") -> bool:
        """Whether two tables say the same, wherever they were written."""
        return self.placement == other.placement and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("start", "kind", "operation", "peer", "tie", "nowait", "part")
        )


class Order(Table):
    """Per rank the compute operations in sequence: what an author decides."""

    @cached_property
    def producers(self) -> Array:
        """For each of `entries` the row that makes what travels to it from another stage, or -1."""
        source = self.placement.sources(look_up(self.operation, self.entries))
        return look_up(with_none(self.exit, -1), source)


class Program(Table):
    """Per rank every instruction in sequence: what is verified and executed."""
