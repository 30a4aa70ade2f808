"""What operations need, as arithmetic on ids: the effects table applied to a placement."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import NEEDS, TRAVELS, Need, Step
from pipec.program.placement import Placement

Array = NDArray[Any]


class Inputs(NamedTuple):
    """Operations `which[i]` (positions in the array asked about) need what `producer[i]` makes."""

    need: Need
    which: Array
    producer: Array


def inputs(placement: Placement, operations: Array) -> Iterator[Inputs]:
    """For each kind of need, the operations that have it and who makes it. Flow ends have none."""
    flow, step, stage, _ = placement.split(operations)
    stages = placement.of(placement.stages, flow)
    for consumer, needs in NEEDS.items():
        for need in needs:
            source = stage + need.stage
            which = np.flatnonzero((step == consumer) & (source >= 0) & (source < stages))
            distance = _distance(placement, flow[which], need.step - consumer, need.stage)
            yield Inputs(need, which, operations[which] + distance)


def sources(placement: Placement, operations: Array) -> Array:
    """For each operation the one whose result travels to it from another stage, or -1."""
    flow, step, stage, _ = placement.split(operations)
    source = stage + _STAGES[step]
    stages = placement.of(placement.stages, flow)
    which = np.flatnonzero((source != stage) & (source >= 0) & (source < stages))
    flow, step = flow[which], step[which]
    source = np.full(len(operations), -1, np.int64)
    source[which] = operations[which] + _distance(placement, flow, _STEPS[step], _STAGES[step])
    return source


def _distance(placement: Placement, flow: Array, steps: Any, stages: Any) -> Any:
    """From operations of flows to those so many steps and stages further, in ids."""
    lines = steps * placement.of(placement.stages, flow) + stages
    return lines * placement.of(placement.microbatches, flow)


_STAGES = np.array([TRAVELS[step].stage if step in TRAVELS else 0 for step in Step])
_STEPS = np.array([TRAVELS[step].step - step if step in TRAVELS else 0 for step in Step])
"""From each step to what travels to it: how many stages, and how many steps."""
