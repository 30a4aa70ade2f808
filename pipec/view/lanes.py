"""A timeline as lanes to draw: for each rank what computes, and what is on the all-to-all lane."""

from dataclasses import dataclass

import numpy as np

from pipec.program.effects import COMPUTE, EXPERTS, Kind, Step
from pipec.simulate.timeline import Timeline
from pipec.view.shades import shade

LANES = ("compute", "all-to-all")


@dataclass(frozen=True)
class Stroke:
    """One part of one operation, in ticks. An all-to-all has the kind of its operation, F or B."""

    begin: int
    end: int
    kind: Kind
    flow: int
    stage: int
    microbatch: int
    part: str
    layer: int
    shade: int


def lanes(time: Timeline) -> list[tuple[list[Stroke], list[Stroke]]]:
    """Per rank the two lanes, each in order. What takes no time is left out."""
    table, drawn = time.table, []
    split = table.placement.split(table.operation)
    for rank in range(table.ranks):
        both: tuple[list[Stroke], list[Stroke]] = ([], [])
        rows = np.arange(table.start[rank], table.start[rank + 1])
        for row in rows[(COMPUTE | EXPERTS)[table.kind[rows]]].tolist():
            kind, begin, end = Kind(int(table.kind[row])), int(time.begin[row]), int(time.end[row])
            if end == begin:
                continue
            wire = bool(EXPERTS[kind])
            if wire:
                kind = Kind.F if split.step[row] == Step.FORWARD else Kind.B
            flow, stage, number = (int(split[at][row]) for at in (0, 2, 3))
            part = table.instruction(row).part
            name, layer = ("", 0) if part is None else (part.name, part.layer)
            shaded = shade(table.placement, rank, flow, stage)
            both[wire].append(Stroke(begin, end, kind, flow, stage, number, name, layer, shaded))
        drawn.append(both)
    return drawn
