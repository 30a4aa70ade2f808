"""A pair as an author writes it: for each lane the parts in issue order, layer after layer.

    overlap F & BW:
        compute:  F.attention  B.mlp       W.mlp       F.mlp  B.attention  W.attention
        wire:     B.combine    F.dispatch  B.dispatch  F.combine

A lane is repeated for every layer; where one operation has fewer layers than the other, or a layer
lacks a part, it goes on without it. Layers of which a pattern names no part do not count. Parts on
no lane are issued where they fit: F and B as soon as they can be, W where nothing else is ready.
What may be wrong is that two parts wait for each other: one for a part that stands behind the
other, on each lane.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pipec.findings import Finding, Stop
from pipec.lower.interleave import Chain, Part, Place, needed
from pipec.lower.issue import eager
from pipec.lower.units import COMPUTE, WIRE, Issued, Operation
from pipec.program.effects import Kind
from pipec.program.parts import Entry, Layout, Pattern


def written(
    pattern: Pattern, operations: Sequence[Operation], layouts: Sequence[Layout]
) -> list[Issued]:
    """The parts of a pair in the order of a pattern. layouts: the parts of each half's chunk.

    Raises `Stop` where parts wait for each other.
    """
    pair = _Pair(pattern, operations, layouts)
    rows = {COMPUTE: pair.row(pattern.compute), WIRE: pair.row(pattern.wire)}
    named = {place for row in rows.values() for place, _ in row}
    rest = [place for place in pair.places if place not in named]
    lanes: dict[Hashable, list[Place]] = {
        lane: [place for place, _ in row] for lane, row in rows.items()
    }
    order = follow(lanes, pair.chains, rest)
    if isinstance(order, Stuck):
        raise Stop(pair.finding(order, rows))

    def wire(at: Place) -> bool:
        return pair.chains[at[0]][at[1]].lane == WIRE

    def needs(at: Place) -> list[Place]:
        need = needed(pair.chains, at)
        return [] if need is None else [need]

    return [pair.meant[chain][place] for chain, place in eager(order, wire, needs)]


@dataclass(frozen=True)
class Stuck:
    """The part that stands first on each lane, and the one that it waits for: none can begin."""

    waits: tuple[tuple[Place, Place | None], ...]


def follow(
    lanes: Mapping[Hashable, Sequence[Place]], chains: Sequence[Chain], rest: Sequence[Place] = ()
) -> list[Place] | Stuck:
    """The issue sequence that gives every lane its row, in order of when parts begin.

    rest: parts on no row, each chain in order, taken as soon as they can begin; those that are
    `after` others only where nothing else can begin so early. Assumes that each part stands once,
    on its lane.
    """
    rows = {lane: deque(row) for lane, row in lanes.items()}
    queues = [deque(place for place in rest if place[0] == chain) for chain in range(len(chains))]
    free: dict[Hashable, int] = {}
    ended: dict[Place | None, int] = {None: 0}
    order: list[Place] = []
    while waiting := [queue for queue in (*queues, *rows.values()) if queue]:
        candidates = []
        for number, queue in enumerate(waiting):
            part, need = chains[queue[0][0]][queue[0][1]], needed(chains, queue[0])
            if need in ended:
                begin = max(free.get(part.lane, 0), ended[need])
                filler = part.after is not None and any(queue is one for one in queues)
                candidates.append((begin, filler, number))
        if not candidates:
            heads = [row[0] for row in rows.values() if row]
            return Stuck(tuple((head, needed(chains, head)) for head in heads))
        begin, _, number = min(candidates)
        place = waiting[number].popleft()
        part = chains[place[0]][place[1]]
        ended[place] = free[part.lane] = begin + part.ticks
        order.append(place)
    return order


_WORDS = {COMPUTE: "compute", WIRE: "wire"}
"""What an author calls the lanes."""


class _Pair:
    """The chains of F, of B, and of W where the backward is a BW."""

    def __init__(
        self, pattern: Pattern, operations: Sequence[Operation], layouts: Sequence[Layout]
    ):
        self.chains: list[Chain] = []
        self.meant: list[list[Issued]] = []
        self._steps: list[Kind] = []
        self._layouts = layouts
        for number, operation in enumerate(operations):
            forward = operation.kind is Kind.F
            parts = list(range(len(operation.wires)))[:: 1 if forward else -1]
            self._add(
                Kind.F if forward else Kind.B,
                [(number, part) for part in parts],
                [
                    Part(WIRE if operation.wires[part] else COMPUTE, operation.ticks[part])
                    for part in parts
                ],
            )
            if operation.kind is Kind.BW:
                back = len(self.chains) - 1
                own = [(place, p) for place, p in enumerate(parts) if not operation.wires[p]]
                self._add(
                    Kind.W,
                    [(number, part) for _, part in own],
                    [Part(COMPUTE, operation.weights[p], (back, place)) for place, p in own],
                )
        self.places = [
            (c, place) for c, chain in enumerate(self.chains) for place in range(len(chain))
        ]
        self._turns = self._turned(pattern)

    def _add(self, step: Kind, parts: list[tuple[int, int]], chain: list[Part]) -> None:
        self._steps.append(step)
        self.meant.append([(number, step, part) for number, part in parts])
        self.chains.append(tuple(chain))

    def _turned(self, pattern: Pattern) -> dict[tuple[int, Kind, str], Place]:
        """The place of each part by its turn: the how manieth layer of its operation it is of."""
        entries = [*pattern.compute, *pattern.wire]
        named = {(entry.kind is Kind.F, entry.name) for entry in entries}
        turns: dict[bool, dict[int, int]] = {True: {}, False: {}}
        found = {}
        for chain, place in self.places:
            number, step, at = self.meant[chain][place]
            forward, part = step is Kind.F, self._layouts[number][at]
            if (forward, part.name) in named:
                known = turns[forward]
                turn = known.setdefault(part.layer, len(known))
                found[turn, step, part.name] = (chain, place)
        return found

    def row(self, entries: Sequence[Entry]) -> list[tuple[Place, Entry]]:
        """The parts that a lane names, layer after layer, and where they are named."""
        last = max((turn for turn, _, _ in self._turns), default=-1)
        keys = [((turn, one.kind, one.name), one) for turn in range(last + 1) for one in entries]
        return [(self._turns[key], entry) for key, entry in keys if key in self._turns]

    def finding(self, stuck: Stuck, rows: Mapping[str, Sequence[tuple[Place, Entry]]]) -> Finding:
        """What waits for what. Blamed is a part that must run behind another of its own lane."""
        entries = {place: entry for row in rows.values() for place, entry in row}
        lanes = {place: lane for lane, row in rows.items() for place, _ in row}
        index = {place: number for row in rows.values() for number, (place, _) in enumerate(row)}
        waits = [(head, need) for head, need in stuck.waits if need is not None]
        blamed = waits[-1][0]
        for head, need in waits:
            before: Place | None = need
            while before is not None:
                if lanes.get(before) == lanes[head] and index[before] > index[head]:
                    blamed = head
                before = needed(self.chains, before)
        told = [
            f"`{self._name(head)}` is next on `{_WORDS[lanes[head]]}` and waits for "
            f"`{self._name(need)}`"
            for head, need in waits
        ]
        return Finding(
            "parts",
            "the parts of this pattern wait for each other",
            entries[blamed].span,
            "each part behind those that it waits for, on both lanes",
            "; ".join(told),
            "an F runs attention, dispatch, mlp, combine; a B runs them backwards, and W behind B",
        )

    def _name(self, place: Place) -> str:
        number, step, part = self.meant[place[0]][place[1]]
        return f"{step.name}.{self._layouts[number][part].name}"
