"""Counters: an F, B or BW takes the smallest microbatch that its kind has not yet taken; of slices
a backward takes the last ones of their sequence first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.order.expand import FLOW, KIND, MICROBATCH, ORIGIN, STAGE
from pipec.program.effects import STEP, Kind, Step
from pipec.program.placement import Placement
from pipec.program.program import Origins

Array = NDArray[Any]


def count_microbatches(rows: Array, start: Array, placement: Placement, origins: Origins) -> None:
    """Fill in the microbatches that the text leaves out; B and BW share a counter.

    Raises `Stop` where a counter runs past the flow's microbatches.
    """
    step = STEP[rows[KIND]]
    counted = np.flatnonzero(step != Step.WEIGHTS)
    flow = rows[FLOW, counted]
    lines = len(Step) * placement.stages
    line = (np.cumsum(lines) - lines)[flow] + step[counted] * placement.stages[flow]
    line += rows[STAGE, counted]
    by_line = np.argsort(line, kind="stable")
    counted, line = counted[by_line], line[by_line]
    begins = np.flatnonzero(np.concatenate([[True], line[1:] != line[:-1]])) if len(line) else line
    ends = np.append(begins[1:], len(line))
    flow, step = rows[FLOW, counted], step[counted]
    stated = placement.turned(flow, step, rows[MICROBATCH, counted])
    said = stated >= 0
    number = np.arange(len(line)) - np.repeat(begins, ends - begins)
    mixed = np.logical_or.reduceat(said, begins) if len(begins) else said
    for begin, end in zip(begins[mixed].tolist(), ends[mixed].tolist(), strict=True):
        number[begin:end] = _smallest_free(stated[begin:end].tolist())
    rows[MICROBATCH, counted] = placement.turned(flow, step, number)
    _within_flow(rows, counted, start, placement, origins)


def _smallest_free(said: list[int]) -> list[int]:
    """Go through one counter in order: `said` is a microbatch, or -1 for the smallest not yet
    taken.
    """
    taken: set[int] = set()
    following = 0
    numbers = []
    for number in said:
        if number < 0:
            while following in taken:
                following += 1
            number = following
        taken.add(number)
        numbers.append(number)
    return numbers


def _within_flow(
    rows: Array, counted: Array, start: Array, placement: Placement, origins: Origins
) -> None:
    most = placement.microbatches[rows[FLOW, counted]]
    beyond = counted[rows[MICROBATCH, counted] >= most]
    if not len(beyond):
        return
    row = int(beyond.min())
    rank = int(np.searchsorted(start, row, side="right")) - 1
    flow = placement.flows[int(rows[FLOW, row])]
    kind, stage = Kind(int(rows[KIND, row])).name, int(rows[STAGE, row])
    where = f"{chunk_name(placement, flow.name, rank, stage)} on rank {rank}"
    same = STEP[rows[KIND, counted]] == STEP[rows[KIND, row]]
    same &= np.all(rows[[FLOW, STAGE]][:, counted] == rows[[FLOW, STAGE], row][:, None], axis=0)
    message = (
        f"{kind} number {flow.microbatches + 1} of {where}: "
        f"flow `{flow.name}` has only {flow.microbatches} microbatches"
    )
    span = origins.span(int(rows[ORIGIN, row]))
    found = f"{int(same.sum())} of them"
    raise Stop(Finding("order", message, span, f"{flow.microbatches} {kind}", found))


def chunk_name(placement: Placement, flow: str, rank: int, stage: int) -> str:
    """`flow main, chunk 0, stage 3`: a stage of a rank, as short as it stays clear."""
    number = next(i for i, known in enumerate(placement.flows) if known.name == flow)
    chunks = placement.chunks[number, rank].tolist()
    parts = [f"flow `{flow}`"] if len(placement.flows) > 1 else []
    parts += [f"chunk {chunks.index(stage)}"] if chunks.count(-1) < len(chunks) - 1 else []
    return ", ".join([*parts, f"stage {stage}"])
