"""What operations need, as arithmetic on ids: the effects table applied to a placement."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import NEEDS, Need
from pipec.program.placement import Placement

Array = NDArray[Any]


class Inputs(NamedTuple):
    """Operations `which[i]` (positions in the array asked about) need what `producer[i]` makes."""

    need: Need
    which: Array
    producer: Array


ALL = tuple((step, need) for step, needs in NEEDS.items() for need in needs)
"""Every step with everything that it needs, one by one."""


def inputs(placement: Placement, operations: Array) -> Iterator[Inputs]:
    """For each kind of need, the operations that have it and who makes it.

    The ends of a flow have none, nor those of a sequence.
    """
    flow, step = placement.flow_of(operations), placement.step_of(operations)
    stage = placement.stage_of(operations)
    stages = placement.of(placement.stages, flow)
    for consumer, needs in NEEDS.items():
        for need in needs:
            if need.slice and not placement.sliced:
                continue
            source = stage + need.stage
            has = (step == consumer) & (source >= 0) & (source < stages)
            if need.slice:
                has &= _inside(placement, flow, operations, need.slice)
            which = np.flatnonzero(has)
            distance = placement.distance(flow[which], need.step - consumer, need.stage)
            yield Inputs(need, which, operations[which] + distance + need.slice)


def _inside(placement: Placement, flow: Array, operations: Array, further: int) -> Array:
    """Whether the sequence of each operation has a slice so much further along."""
    slices = placement.of(placement.slices, flow)
    other = placement.split(operations).microbatch % slices + further
    return np.asarray((other >= 0) & (other < slices))
