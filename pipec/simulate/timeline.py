"""When each instruction runs: the longest path through the event graph, in ticks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, PipecError
from pipec.program.costs import Durations
from pipec.program.graph import Graph
from pipec.program.sweep import NEVER, sweep

Array = NDArray[Any]


@dataclass(frozen=True)
class Timeline:
    """Begin and end of each row, in ticks. `stuck` are events that can never happen.

    `rises` numbers the ends so that it rises along every edge of the graph, even where a duration is
    0; `spans` is what it rises by. They prove the timeline right (`sweep.proven`).
    """

    graph: Graph
    durations: Durations
    begin: Array
    end: Array
    stuck: Array
    spans: Array
    rises: Array


def timeline(graph: Graph, durations: Durations) -> Timeline:
    """Sweep a graph. Raises `PipecError` where the costs need more than 63 bits at this size.

    Each event counts as one hop besides its ticks: an end is `ticks * hops + hop`, so that times
    rise along every edge, and the ticks are read off by one division.
    """
    ticks = durations.ticks[graph.row]
    hops = len(graph) + 1
    if int(ticks.sum()) * hops >= NEVER:
        hops = _deepest(graph) + 1
        if int(ticks.max()) * hops * hops >= NEVER:
            message = "these costs are too large or too fine for a program of this size"
            raise PipecError([Finding("value", message, hint="state fewer digits")])
    spans = ticks * hops + 1
    rises = sweep(graph.waits, spans, graph.lane)
    end, begin = rises // hops, (rises - spans) // hops
    stuck = np.flatnonzero(rises >= NEVER)
    event = graph.event
    return Timeline(graph, durations, begin[event], end[event], stuck, spans, rises)


def _deepest(graph: Graph) -> int:
    """The number of events on the longest path, of those that ever happen."""
    levels = sweep(graph.waits, np.ones(len(graph), np.int64), graph.lane)
    return int(levels[levels < NEVER].max(initial=0))
