"""What hiding the all-to-alls of experts can gain, before anything is run: throughput over 1F1B.

Every chunk has `--layers` layers of attention, dispatch, mlp and combine. Compute parts take 1, in
F, B and W; all-to-alls take 1.5; messages between stages take nothing, and all is simulated.
Throughput over that of 1F1B with one part after the other, for a model of the same size:

    serial    one part after the other
    pairs     the parts of an OVERLAP, and a BW's W parts, interleaved with the smallest makespan
    window k  parts of k neighbouring operations side by side (`pipec.lower.neighbours`)

Behind each figure: the most microbatches that a rank holds.

    python bench/overlap_study.py
"""

import argparse
from collections.abc import Sequence

import pipec
from pipec.lower.interleave import Chain, Part, interleave
from pipec.lower.neighbours import Work, side_by_side
from pipec.program.effects import COMPUTE, Kind

UNIT, WIRE = 2, 3
LANES = (0, 1, 0, 1)
SIZES = ((4, 20), (4, 40), (8, 20), (8, 80))
SCHEDULES = {"1f1b": 1, "zb1p": 1, "dualpipe": 1, "zbv": 2, "dualpipev": 2}
"""Chunks per rank and flow: a model of P stages is cut into twice as many for a V."""
WINDOWS = (1, 2, 3, 4)

Name = tuple[str, int, int, int, int]
"""F, B or W of a flow, stage, microbatch, and the part's place in its operation."""


Operation = tuple[Kind, int, int, int]
"""Kind, flow, stage and microbatch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4, help="of a chunk where a rank holds one")
    parser.add_argument("--schedules", nargs="*", default=list(SCHEDULES))
    args = parser.parse_args()
    labels = ["serial", "pairs", *(f"window {window}" for window in WINDOWS)]
    print(f"{'schedule':<10} {'P':>2} {'M':>3} " + "".join(f"{label:<13}" for label in labels))
    for ranks, count in SIZES:
        base = Model("1f1b", ranks, count, args.layers).time(serial=True)
        for name in args.schedules:
            model = Model(name, ranks, count, args.layers)
            ratio = base * SCHEDULES[name]
            cells = [f"{ratio / model.time(serial=True):.2f}"]
            orders = [_flat(model.work.units)]
            orders += [side_by_side(model.work, window) for window in WINDOWS]
            cells += [f"{ratio / model.time(order):.2f} ({model.held(order)})" for order in orders]
            print(f"{name:<10} {ranks:>2} {count:>3} " + "".join(f"{cell:<13}" for cell in cells))


class Model:
    """A schedule whose operations are opened into parts."""

    def __init__(self, schedule: str, ranks: int, count: int, layers: int):
        program = pipec.compile(schedule, P=ranks, M=count).program
        self.layers = layers
        self.names: list[Name] = []
        self._stages = [flow.stages for flow in program.placement.flows]
        self._known: dict[tuple[Kind, ...], list[tuple[int, str, int]]] = {}
        flows = [flow.name for flow in program.placement.flows]
        units = []
        for stream in program:
            pairs: list[list[Operation]] = []
            for row in stream:
                if not COMPUTE[row.kind]:
                    continue
                pairs += [] if row.tied else [[]]
                pairs[-1].append((row.kind, flows.index(row.flow), row.stage, row.microbatch))
            units.append([self._unit(pair) for pair in pairs])
        number = {name: place for place, name in enumerate(self.names)}
        self.work = Work(
            units,
            [self._lane(name) for name in self.names],
            [WIRE if self._lane(name) else UNIT for name in self.names],
            [[number[need] for need in self._needs(name)] for name in self.names],
            [name[0] == "W" for name in self.names],
        )

    def _unit(self, operations: list[Operation]) -> list[int]:
        kinds = tuple(kind for kind, *_ in operations)
        if kinds not in self._known:
            self._known[kinds] = interleaved(kinds, self.layers)
        begin = len(self.names)
        self.names += [(step, *operations[at][1:], p) for at, step, p in self._known[kinds]]
        return list(range(begin, len(self.names)))

    def _lane(self, name: Name) -> int:
        step, *_, place = name
        return 0 if step == "W" else LANES[place % 4] if step == "F" else 1 - LANES[place % 4]

    def _needs(self, name: Name) -> list[Name]:
        step, flow, stage, microbatch, place = name
        last = 4 * self.layers - 1
        if step == "W":
            return [("B", flow, stage, microbatch, 2 * place + 1)]
        if place:
            return [(step, flow, stage, microbatch, place - 1)]
        if step == "F":
            return [("F", flow, stage - 1, microbatch, last)] if stage else []
        needs: list[Name] = [("F", flow, stage, microbatch, last)]
        ends = stage == self._stages[flow] - 1
        return needs if ends else [*needs, ("B", flow, stage + 1, microbatch, last)]

    def time(self, order: Sequence[Sequence[int]] = (), serial: bool = False) -> int:
        """The makespan where lanes run parts as they are issued; serial: all in one lane."""
        self.end = [-1] * len(self.names)
        if serial:
            order = [self._one_by_one(units) for units in self.work.units]
        heads, free = [0] * len(order), [[0, 0] for _ in order]
        moving = True
        while moving:
            moving = False
            for rank, parts in enumerate(order):
                while heads[rank] < len(parts):
                    part = parts[heads[rank]]
                    needs = [self.end[need] for need in self.work.needs[part]]
                    if min(needs, default=0) < 0:
                        break
                    lane = 0 if serial else self.work.lane[part]
                    begin = max([free[rank][lane], *needs])
                    self.end[part] = free[rank][lane] = begin + self.work.ticks[part]
                    heads[rank] += 1
                    moving = True
        return max(self.end)

    def _one_by_one(self, units: Sequence[Sequence[int]]) -> list[int]:
        """The operations of a unit in turn: F, then B with each W behind its part."""

        def key(part: int) -> tuple[bool, int, bool]:
            step, *_, place = self.names[part]
            return (step != "F", 2 * place + 1 if step == "W" else place, step == "W")

        return [part for unit in units for part in sorted(unit, key=key)]

    def held(self, order: Sequence[Sequence[int]]) -> int:
        """The most microbatches that a rank holds, from the begin of F to the end of B."""
        most = 0
        for parts in order:
            events = []
            for part in parts:
                step, *_, place = self.names[part]
                if step == "F" and not place:
                    events.append((self.end[part] - self.work.ticks[part], 1))
                if step == "B" and place == 4 * self.layers - 1:
                    events.append((self.end[part], -1))
            now = 0
            for _, change in sorted(events):
                now += change
                most = max(most, now)
        return most


def _flat(units: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
    return [[part for unit in rank for part in unit] for rank in units]


def interleaved(kinds: tuple[Kind, ...], layers: int) -> list[tuple[int, str, int]]:
    """The parts of a unit as (operation, step, place), in issue order."""
    chains: list[Chain] = []
    owner: list[tuple[int, str]] = []
    for at, kind in enumerate(kinds):
        if kind is Kind.F:
            chains.append(tuple(_part(lane) for lane in LANES * layers))
            owner.append((at, "F"))
        elif kind is Kind.W:
            chains.append((Part(0, UNIT),) * (2 * layers))
            owner.append((at, "W"))
        else:
            chains.append(tuple(_part(lane) for lane in LANES[::-1] * layers))
            owner.append((at, "B"))
        if kind is Kind.BW:
            chains.append(
                tuple(Part(0, UNIT, (len(chains) - 1, 2 * k + 1)) for k in range(2 * layers))
            )
            owner.append((at, "W"))
    return [(*owner[chain], place) for chain, place in interleave(chains).order]


def _part(lane: int) -> Part:
    return Part(lane, WIRE if lane else UNIT)


if __name__ == "__main__":
    main()
