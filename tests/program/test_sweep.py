"""The sweep against a plain longest path, and its proof against wrong results."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.program import sweep as module
from pipec.program.sweep import NEVER, proven, sweep

Graph = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def graphs(draw: st.DrawFn, cycles: bool = True) -> Graph:
    """Waits `[k, n]`, durations and lanes; events of a lane wait for the one before.

    Without cycles each event only waits for events earlier in some hidden order.
    """
    count = draw(st.integers(0, 30))
    lanes = draw(st.integers(1, 6))
    rows = draw(st.integers(2, 4))
    lane = np.array(draw(st.lists(st.integers(0, lanes - 1), min_size=count, max_size=count)), int)
    hidden = list(range(count))
    if not cycles:
        keys = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
        hidden = sorted(range(count), key=lambda event: (keys[event], event))
        hidden = sorted_in_lanes(hidden, lane)
    place = {event: number for number, event in enumerate(hidden)}
    waits = np.full((rows, count), count, np.int64)
    last: dict[int, int] = {}
    for event in range(count):
        waits[0, event] = last.get(int(lane[event]), count)
        last[int(lane[event])] = event
        for row in range(1, rows):
            other = draw(st.integers(0, count))
            if cycles or other == count or place[other] < place[event]:
                waits[row, event] = other
    duration = np.array(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), int)
    return waits, duration, lane


def sorted_in_lanes(hidden: list[int], lane: np.ndarray) -> list[int]:
    """The same order, but with the events of each lane in the order of their numbers."""
    free = {one: iter(np.flatnonzero(lane == one).tolist()) for one in set(lane.tolist())}
    return [next(free[int(lane[event])]) for event in hidden]


def longest(graph: Graph) -> list[int]:
    """Ends by networkx: a topological order of what is not on or behind a cycle."""
    waits, duration, _ = graph
    count = len(duration)
    drawn: nx.DiGraph[int] = nx.DiGraph()
    drawn.add_nodes_from(range(count))
    drawn.add_edges_from(
        (int(other), event) for row in waits for event, other in enumerate(row) if other < count
    )
    never: set[int] = set(nx.nodes_with_selfloops(drawn))
    for knot in nx.strongly_connected_components(drawn):
        never |= knot if len(knot) > 1 else set()
    for event in list(never):
        never |= nx.descendants(drawn, event)
    ends = [NEVER] * count
    for event in nx.topological_sort(drawn.subgraph(set(range(count)) - never)):
        ends[event] = int(duration[event]) + max(
            (ends[other] for other in drawn.predecessors(event)), default=0
        )
    return ends


def one_by_one(waits: Any, duration: Any, lane: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW_LANES", 100)
        return sweep(waits, duration, lane)


def lane_by_lane(waits: Any, duration: Any, lane: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW_LANES", 0)
        patch.setattr(module, "_FEW_EVENTS", 1)
        return sweep(waits, duration, lane)


@pytest.mark.parametrize("way", [sweep, one_by_one, lane_by_lane])
@settings(deadline=None, max_examples=300)
@given(graph=graphs())
def test_ends_are_the_longest_path(way: Callable[..., Any], graph: Graph) -> None:
    """Each way of sweeping gives the plain longest path, and finds exactly what never happens."""
    waits, duration, lane = graph
    ends = way(waits.copy(), duration.copy(), lane)
    assert list(ends) == longest(graph)
    assert proven(waits, duration, ends) == bool((ends < NEVER).all())


@pytest.mark.parametrize("way", [sweep, one_by_one, lane_by_lane])
@settings(deadline=None)
@given(graph=graphs(cycles=False))
def test_without_a_cycle_everything_happens(way: Callable[..., Any], graph: Graph) -> None:
    """No false alarms: graphs that were made without cycles end, and are proven."""
    ends = way(*graph)
    assert (ends < NEVER).all() and proven(graph[0], graph[1], ends)


@pytest.mark.parametrize("way", [sweep, one_by_one, lane_by_lane])
@settings(deadline=None, max_examples=100)
@given(graph=graphs(), data=st.data())
def test_several_answers_at_once(
    way: Callable[..., Any], graph: Graph, data: st.DataObject
) -> None:
    """Durations swept together give what each of them gives alone, with cycles and without."""
    waits, duration, lane = graph
    other = np.array([data.draw(st.integers(1, 9)) for _ in duration], int)
    both = way(waits, np.stack([duration, other]), lane)
    assert np.array_equal(both, [way(waits, one, lane) for one in (duration, other)])


@settings(deadline=None, max_examples=200)
@given(graph=graphs(cycles=False), data=st.data())
def test_the_proof_finds_every_wrong_result(graph: Graph, data: st.DataObject) -> None:
    """Any other ends than the right ones are not proven, so the sweep need not be trusted."""
    waits, duration, lane = graph
    right = sweep(waits, duration, lane)
    wrong = right.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        if len(wrong):
            wrong[data.draw(st.integers(0, len(wrong) - 1))] += data.draw(st.integers(-9, 9))
    assert proven(waits, duration, wrong) == bool(np.array_equal(wrong, right))


def test_the_proof_finds_cycles() -> None:
    """No times whatever prove a cycle, and no duration of 0 is let through."""
    waits, duration = np.array([[1, 0]]), np.array([1, 1])
    for times in ([1, 1], [1, 2], [2, 1], [NEVER, NEVER]):
        assert not proven(waits, duration, np.array(times))
    assert not proven(np.array([[1, 0]]), np.array([0, 0]), np.array([5, 5]))


@pytest.mark.parametrize("lanes", [40, 60, 300])
def test_many_lanes(lanes: int) -> None:
    """Wide graphs, which are swept by arrays, agree with narrow sweeping."""
    draw = np.random.default_rng(lanes)
    count = lanes * 12
    lane = np.tile(np.arange(lanes), 12)
    waits = np.full((4, count), count)
    waits[0, lanes:] = np.arange(count - lanes)
    waits[1, lanes:] = draw.integers(0, np.maximum(np.arange(lanes, count) - 1, 1))
    duration = draw.integers(1, 5, count)
    assert np.array_equal(sweep(waits, duration, lane), one_by_one(waits, duration, lane))
    waits[1, lanes + 3] = count - 1
    ends = sweep(waits, duration, lane)
    assert np.array_equal(ends, one_by_one(waits, duration, lane))
