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


def inputs(placement: Placement, operations: Array) -> Iterator[Inputs]:
    """For each kind of need, the operations that have it and who makes it. Flow ends have none."""
    flow, step = placement.flow_of(operations), placement.step_of(operations)
    stage = placement.stage_of(operations)
    stages = placement.of(placement.stages, flow)
    for consumer, needs in NEEDS.items():
        for need in needs:
            source = stage + need.stage
            which = np.flatnonzero((step == consumer) & (source >= 0) & (source < stages))
            distance = placement.distance(flow[which], need.step - consumer, need.stage)
            yield Inputs(need, which, operations[which] + distance)
