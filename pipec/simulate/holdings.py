"""What a program holds, part by part: who takes it, who gives it back, and how large it is."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import look_up
from pipec.program.costs import MOST_TICKS, too_large, whole
from pipec.program.effects import EFFECTS, EXPERTS, STEP, TRAVELS, Kind, Step, Use, Value
from pipec.program.memory import Memory
from pipec.program.program import Table
from pipec.program.sizes import BUFFER, CONSTANT, KEPT, SIZE_OF, SIZES
from pipec.simulate.timeline import Timeline

Array = NDArray[Any]
FINEST = 2**40
"""Where sizes have no common part, or too fine a one, the largest is counted in so many."""

NAMES = {Value.SAVED: "activations", Value.STASH: "stash"}
"""What kept values are called as parts."""

PARTS = (*CONSTANT, *NAMES.values(), "received", "sent", "passed", "exchanged")
"""All parts, in the order in which people read them."""


class Changes(NamedTuple):
    """A part that operations take when they begin and give back when they end: `[kind, stage]`."""

    part: str
    taken: Array
    given: Array
    begun: Array
    ended: Array
    """How many things that is, in the same form."""


class Stays(NamedTuple):
    """A part made of things that are there from row `first` to row `last`, both of one rank."""

    part: str
    first: Array
    last: Array
    amount: Array


@dataclass(frozen=True)
class Holdings:
    """All parts, in `1 / scale` of a unit or byte. `constant`: name, amounts, counts, by rank."""

    table: Table
    scale: int
    constant: tuple[tuple[str, Array, Array], ...]
    changes: tuple[Changes, ...]
    stays: tuple[Stays, ...]

    def rows(self, taken: Array, given: Array) -> tuple[Array, Array]:
        """Numbers per kind and stage as numbers per row.

        A forward without a backward keeps nothing beyond its own end. An opened operation takes
        with its first part and gives back with its last; the parts of a W may come in any order.
        """
        rows, forgotten = (self._by_row(taken), self._by_row(given)), self._forgotten
        if len(forgotten):
            rows[1][forgotten] -= rows[0][forgotten]
        if self.table.placement.layouts:
            compute, ends = self.table.compute, (self.table.entries, self._ends)
            for numbers, end in zip(rows, ends, strict=True):
                numbers[compute[~np.isin(compute, end)]] = 0
        return rows

    def _by_row(self, numbers: Array) -> Array:
        if (numbers == numbers[:, :1]).all():
            return look_up(numbers[:, 0], self._kind)
        return np.asarray(numbers[self._kind, self._stage])

    @cached_property
    def _kind(self) -> Array:
        """The kind of each row; where one part of a backward has its W apart, all of it is a B."""
        table = self.table
        if not table.placement.layouts:
            return table.kind
        apart = np.zeros(table.placement.size, bool)
        apart[table.operation[table.kind == Kind.B]] = True
        kind, fused = table.kind.copy(), _of(table, Kind.BW)
        kind[fused[apart[table.operation[fused]]]] = Kind.B
        return kind

    @cached_property
    def _ends(self) -> Array:
        """The rows with which opened operations end: those of W with whichever part is the last."""
        table, weights = self.table, _of(self.table, Kind.W)
        last = np.full(table.placement.size, -1, np.int64)
        last[table.operation[weights]] = weights
        exits = table.exits[table.kind[table.exits] != Kind.W]
        return np.append(exits, last[last >= 0])

    @cached_property
    def _stage(self) -> Array:
        """The stage of each row that computes; nothing else is asked for."""
        stage, compute = np.zeros(len(self.table), np.int64), self.table.compute
        stage[compute] = self.table.placement.stage_of(self.table.operation[compute])
        return stage

    @cached_property
    def _forgotten(self) -> Array:
        table, keeps = self.table, np.array([flow.backward for flow in self.table.placement.flows])
        if keeps.all():
            return np.empty(0, np.int64)
        flow = table.placement.flow_of(table.operation[table.compute])
        return table.compute[~keeps[flow]]


def holdings(memory: Memory, time: Timeline) -> Holdings:
    """The parts of a program. Raises `PipecError` where a size needs more than 61 bits."""
    table = time.table
    scale, sizes = _sizes(table, memory)
    constant = tuple(_constant(table, key, sizes[key]) for key in CONSTANT if any(sizes[key]))
    stays = _messages(time, np.array(sizes["message"])) if any(sizes["message"]) else ()
    if any(sizes[BUFFER]) and table.placement.layouts:
        stays = (*stays, _exchanges(table, np.array(sizes[BUFFER])))
    return Holdings(table, scale, constant, _changes(sizes), stays)


def _sizes(table: Table, memory: Memory) -> tuple[int, dict[str, list[int]]]:
    """Every size per stage, in whole ticks: never less than it is."""
    stages = int(table.placement.stages.max())
    told = stages if memory.differs else 1
    exact = {key: memory.per_stage(key, told) for key in SIZES}
    amounts = [amount for row in exact.values() for amount in row]
    coarse = max(1, int(FINEST / max(Fraction(1), *amounts)))
    scale = min(lcm(1, *(amount.denominator for amount in amounts)), coarse)
    rounded = {key: [Fraction(ceil(one * scale)) for one in row] for key, row in exact.items()}
    sizes = {key: whole("memory amounts", row, 1) for key, row in rounded.items()}
    return scale, {key: row * (stages // told) for key, row in sizes.items()}


def _constant(table: Table, key: str, sizes: list[int]) -> tuple[str, Array, Array]:
    """What held stages take all the time; a stage that two ranks hold counts on both."""
    if sum(sizes) >= MOST_TICKS:
        raise too_large("memory amounts")
    amounts, counts = np.zeros((2, table.ranks), np.int64)
    for size, holders in zip(sizes, table.placement.copies, strict=True):
        amounts[list(holders)] += size
        counts[list(holders)] += 1
    return key, amounts, counts


def _changes(sizes: dict[str, list[int]]) -> tuple[Changes, ...]:
    """The effects table in numbers.

    What an operation makes is there when it begins, and what it releases until it ends. If it does
    both, the new takes the place of the old, and only what is larger needs room before.
    """
    size = {value: np.array(sizes[SIZE_OF[value]]) for value in KEPT}
    shape = (4, len(Kind), len(sizes["activation"]))
    parts = {value: Changes(NAMES[value], *np.zeros(shape, np.int64)) for value in KEPT}
    for kind, made, freed in _KEEPERS:
        old = sum(size[value] for value in freed)
        for value in made:
            new = size[value]
            if not freed:
                parts[value].taken[kind] += new
                parts[value].begun[kind] += 1
                continue
            more = np.maximum(new - old, 0)
            parts[freed[0]].taken[kind] += more
            parts[freed[0]].given[kind] -= more
            parts[value].given[kind] += new
            parts[value].ended[kind] += 1
        for value in freed:
            parts[value].given[kind] -= size[value]
            parts[value].ended[kind] -= 1
    return tuple(parts.values())


def _kept(uses: tuple[Use, ...]) -> list[Value]:
    return [use.value for use in uses if use.value in KEPT]


_KEEPERS = [
    (kind, _kept(effect.produces), _kept(effect.releases))
    for kind, effect in EFFECTS.items()
    if _kept(effect.produces) or _kept(effect.releases)
]
"""The kinds that keep or release something, and what: made, and freed."""


def _messages(time: Timeline, size: Array) -> tuple[Stays, ...]:
    """What one stage makes for the next: until it is consumed here, or has left; and there, from
    the RECV on, until it is consumed.
    """
    table = time.table
    first, last = _units(table)
    row = np.full((3, table.placement.size), -1, np.int64)
    for number, rows in enumerate((table.compute, _of(table, Kind.SEND), _of(table, Kind.RECV))):
        row[number, table.operation[rows]] = rows
    consumers = table.entries[np.isin(STEP[table.kind[table.entries]], list(TRAVELS))]
    source = table.placement.sources(table.operation[consumers])
    consumers, source = consumers[source >= 0], source[source >= 0]
    operation, maker = table.operation[consumers], row[0, source]
    part = table.placement.split(operation)
    amount = size[part.stage + (part.step == Step.BACKWARD)]
    local = table.rank[consumers] == table.rank[maker]
    away = np.flatnonzero(~local)
    send, recv, taken = row[1, operation[away]], row[2, operation[away]], consumers[away]
    return (
        Stays("received", recv, last[taken], amount[away]),
        Stays("sent", first[maker[away]], _left(time, send), amount[away]),
        Stays("passed", first[maker[local]], last[consumers[local]], amount[local]),
    )


def _exchanges(table: Table, size: Array) -> Stays:
    """What all-to-alls send, from the part that makes it until the result is waited for; and what
    they receive, from when they are issued until it is consumed.
    """
    wires = np.flatnonzero(EXPERTS[table.kind])
    rows = np.full(table.placement.size * table.placement.widest, -1, np.int64)
    rows[table.slot[table.compute]] = table.compute
    split = table.placement.split(table.operation[wires])
    onward = np.where(split.step == Step.FORWARD, 1, -1)
    made, taken = rows[table.slot[wires] - onward], rows[table.slot[wires] + onward]
    return Stays(
        "exchanged",
        np.concatenate([made, wires]),
        np.concatenate([taken - 1, taken]),
        np.tile(size[split.stage], 2),
    )


def _of(table: Table, kind: Kind) -> Array:
    return np.flatnonzero(table.kind == kind)


def _units(table: Table) -> tuple[Array, Array]:
    """For each row the first and the last row of the OVERLAP that it is in, or itself."""
    rows = np.arange(len(table))
    first, last, (head, tail) = rows.copy(), rows.copy(), table.pairs
    first[tail], last[head] = head, tail
    return first, last


def _left(time: Timeline, sends: Array) -> Array:
    """For each SEND the last row before the first compute that begins when it has left."""
    table, compute = time.table, time.table.compute
    span = int(time.end.max(initial=0)) + 2
    key = table.rank[compute].astype(np.int64) * span + time.begin[compute]
    at = np.searchsorted(key, table.rank[sends].astype(np.int64) * span + time.end[sends])
    after = np.append(compute, len(table))[at]
    return np.maximum(np.minimum(after, table.start[table.rank[sends] + 1]) - 1, sends)
