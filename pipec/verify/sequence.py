"""Streams that are all projections of one sequence: proved in one expression, and never stuck."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.program.events import Graph
from pipec.program.links import Ends, Links

Array = NDArray[Any]


def one_sequence(plain: Graph, links: Links) -> bool:
    """Whether the witness of a program proves that it is free of deadlock with 0 credits, even
    where all messages of a rank share one queue.

    plain: the graph with a queue per pair of ranks. A queue per rank changes only what messages
    stand behind; so if the moments rise along the edges of `plain` and from message to message on
    every rank, and agree at both ends, they rise along every edge of that graph too.
    """
    program = links.program
    if not plain.rises or program.witness is None:
        return False
    moment = program.witness.moment
    rows = np.flatnonzero((program.kind == Kind.SEND) | (program.kind == Kind.RECV))
    later = moment[rows[1:]] > moment[rows[:-1]]
    later |= program.rank[rows[1:]] != program.rank[rows[:-1]]
    return bool(later.all()) and _agrees(moment, links.messages) and _agrees(moment, links.sums)


def _agrees(moment: Array, ends: Ends) -> bool:
    return np.array_equal(moment[ends.first], moment[ends.second])
