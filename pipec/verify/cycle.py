"""The shortest cycle among events that never happen.

The only module that needs networkx, which takes as long to import as all the rest of the compiler:
it is imported when there is a deadlock to explain.
"""

from collections.abc import Iterable
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from pipec.program.events import Graph

Array = NDArray[Any]

LARGEST_SEARCH = 20_000
"""Stuck events among which the shortest cycle is searched; beyond, any short one is shown."""


def shortest_cycle(graph: Graph, stuck: Array) -> list[int]:
    """Events of which each waits for the next, and the last for the first."""
    core = _core(graph, stuck)
    edges = _edges(graph, core)
    if len(core) > LARGEST_SEARCH:
        return [event for event, _ in nx.find_cycle(nx.DiGraph(edges))]
    return min(_cycles(nx.DiGraph(edges)), key=len)


def _core(graph: Graph, stuck: Array) -> Array:
    """The stuck events without those that merely wait behind a cycle, peeled off layer by layer."""
    inside = np.zeros(len(graph) + 1, bool)
    inside[stuck] = True
    awaited = graph.waits[:, stuck].ravel()
    waiting = np.bincount(awaited[inside[awaited]], minlength=len(graph) + 1)
    outer = stuck[waiting[stuck] == 0]
    while len(outer):
        inside[outer] = False
        awaited = graph.waits[:, outer].ravel()
        awaited = awaited[inside[awaited]]
        np.subtract.at(waiting, awaited, 1)
        outer = np.unique(awaited[waiting[awaited] == 0])
    return np.flatnonzero(inside)


def _edges(graph: Graph, core: Array) -> list[tuple[int, int]]:
    inside = np.zeros(len(graph) + 1, bool)
    inside[core] = True
    edges = []
    for row in graph.waits:
        target = row[core]
        chosen = inside[target]
        edges += list(zip(core[chosen].tolist(), target[chosen].tolist(), strict=True))
    return edges


def _cycles(graph: "nx.DiGraph[int]") -> Iterable[list[int]]:
    """A shortest cycle through each event of the smallest knots, as far as a search is cheap."""
    knots = [knot for knot in nx.strongly_connected_components(graph) if len(knot) > 1]
    loops = [[node] for node in nx.nodes_with_selfloops(graph)]
    yield from loops
    for knot in sorted(knots, key=len)[:5]:
        part = graph.subgraph(knot)
        for start in sorted(knot)[:500]:
            back = min(
                (nx.shortest_path(part, after, start) for after in part.successors(start)), key=len
            )
            yield [start, *back[:-1]]
