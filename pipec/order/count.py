"""Counters: an F, B or BW takes the smallest microbatch that its kind has not yet taken; of slices
a backward takes the last ones of their sequence first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.order.expand import FLOW, KIND, MICROBATCH, ORIGIN, STAGE
from pipec.program.columns import ranges
from pipec.program.effects import STEP, Kind, Step
from pipec.program.placement import Placement
from pipec.program.program import Origins

Array = NDArray[Any]


def count_microbatches(rows: Array, start: Array, placement: Placement, origins: Origins) -> None:
    """Fill in the microbatches that the text leaves out; B and BW share a counter.

    Raises `Stop` where a counter runs past the flow's microbatches.
    """
    step = STEP.take(rows[KIND])
    counted = (step != Step.WEIGHTS).nonzero()[0]
    line = _lines(rows, step, placement).take(counted)
    by_line = line.argsort(kind="stable")
    counted, line = counted.take(by_line), line.take(by_line)
    begins = np.append(0, (line[1:] != line[:-1]).nonzero()[0] + 1)[: len(line)]
    ends = np.append(begins[1:], len(line))
    number = ranges(np.zeros_like(begins), ends - begins)
    flow, step = rows[FLOW].take(counted), step.take(counted)
    said = placement.turned(flow, step, rows[MICROBATCH].take(counted))
    if (said >= 0).any():
        mixed = np.logical_or.reduceat(said >= 0, begins)
        for begin, end in zip(begins[mixed].tolist(), ends[mixed].tolist(), strict=True):
            number[begin:end] = _smallest_free(said[begin:end].tolist())
    number = placement.turned(flow, step, number)
    rows[MICROBATCH, counted] = number
    _within_flow(rows, counted, number, start, placement, origins)


def _lines(rows: Array, step: Array, placement: Placement) -> Array:
    """A number per flow, step and stage, for every row that has them."""
    stages = placement.of(placement.stages, rows[FLOW]) if len(step) else 1
    line = step.astype(np.int32) * stages + rows[STAGE]
    if len(placement.flows) > 1:
        lines = len(Step) * placement.stages
        line += (lines.cumsum() - lines).take(rows[FLOW])
    return line.astype(np.int16 if line.max(initial=0) < 2**15 else np.int64)


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
    rows: Array,
    counted: Array,
    number: Array,
    start: Array,
    placement: Placement,
    origins: Origins,
) -> None:
    if number.max(initial=-1) < placement.microbatches.min():
        return
    beyond = counted[number >= placement.microbatches[rows[FLOW, counted]]]
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
