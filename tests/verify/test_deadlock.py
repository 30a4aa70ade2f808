"""Deadlock verdicts agree with a plain machine, and are explained by a cycle that is one."""

from typing import Any

import pytest
from machine import run, shuffled

from pipec.compiler import build
from pipec.findings import PipecError
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.cycle import shortest_cycle
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import credits_needed, deadlock, stuck_events

SMALL = [
    ("1f1b", {"P": 2, "M": 3}),
    ("1f1b", {"P": 3, "M": 3}),
    ("zb1p", {"P": 3, "M": 2}),
    ("interleaved", {"P": 2, "M": 2}),
    ("zbv", {"P": 2, "M": 3}),
    ("dualpipev", {"P": 2, "M": 4}),
    ("dualpipe", {"P": 4, "M": 8}),
    ("gpipe", {"P": 3, "M": 2}),
]
TOPOLOGIES = ("rank", "pair", "directed")
EVERY = (*TOPOLOGIES, "tagged")


def programs() -> list[Program]:
    """Small programs with their messages strayed a little, a lot, and not at all."""
    made = []
    for name, sizes in SMALL:
        lowered = build(name, sizes).program
        made.append(lowered)
        made += [shuffled(lowered, seed, spread) for spread in (1.0, 3.0) for seed in range(6)]
    return made


@pytest.fixture(scope="module")
def strayed() -> list[Program]:
    return [program for program in programs() if not dataflow(program)]


def test_every_verdict_agrees_with_the_machine(strayed: list[Program]) -> None:
    """Exactly the same rows complete, for every topology and 0, 1 and 2 credits."""
    stuck = finished = 0
    for program in strayed:
        links = Links(program)
        for topology in EVERY:
            for credits in (0, 1, 2):
                channels = Channels(topology, credits)
                graph = event_graph(program, links, channels)
                never = set(stuck_events(graph).tolist())
                expected = {row for row in range(len(program)) if graph.event[row] not in never}
                assert run(program, channels) == expected
                stuck, finished = stuck + bool(never), finished + (not never)
    assert stuck > 50 and finished > 50


def test_the_smallest_number_of_credits_is_the_smallest(strayed: list[Program]) -> None:
    """With the credits that are said to be needed it runs through, with one less it does not."""
    needed = set()
    for program in strayed:
        for topology in TOPOLOGIES:
            credits = credits_needed(program, Links(program), topology)
            needed.add(credits)
            rows = len(program)
            if credits is None:
                assert len(run(program, Channels(topology, 40))) < rows
                continue
            assert len(run(program, Channels(topology, credits))) == rows
            if credits:
                assert len(run(program, Channels(topology, credits - 1))) < rows
    assert {0, 1, None} <= needed


def test_an_explanation_is_a_cycle(strayed: list[Program]) -> None:
    """Each event of the shortest cycle waits for the next, and the story names places of it."""
    explained = 0
    for program in strayed:
        links, channels = Links(program), Channels("pair")
        graph = event_graph(program, links, channels)
        stuck = stuck_events(graph)
        if not len(stuck):
            continue
        cycle = shortest_cycle(graph, stuck)
        for event, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            assert after in graph.waits[:, event]
        (finding,) = deadlock(program, links, channels)
        assert len(finding.notes) == len(cycle)
        assert finding.places and finding.span is not None
        explained += 1
    assert explained > 10


@pytest.mark.parametrize("name_sizes", SMALL, ids=lambda case: case[0])
def test_the_default_lowering_needs_no_credits(name_sizes: tuple[str, dict[str, int]]) -> None:
    """What the compiler lowers is a projection of one sequence: safe everywhere by rendezvous."""
    program = build(*name_sizes).program
    for topology in TOPOLOGIES:
        assert credits_needed(program, Links(program), topology) == 0


def test_more_credits_than_messages() -> None:
    """A channel with room for more than is ever sent is one that never fills."""
    program = build("1f1b", {"P": 2, "M": 1}).program
    for topology in TOPOLOGIES:
        graph = event_graph(program, Links(program), Channels(topology, 9))
        assert not len(stuck_events(graph))


@pytest.mark.parametrize(
    ("topology", "credits", "expected"),
    [
        ("pairs", 0, "`rank`, `pair`, `directed` or `tagged`"),
        (None, 0, "`rank`, `pair`, `directed` or `tagged`"),
        ("pair", -1, "from 0 to 2,147,483,647"),
        ("pair", 1.5, "from 0 to 2,147,483,647"),
        ("pair", True, "from 0 to 2,147,483,647"),
        ("rank", 10**30, "from 0 to 2,147,483,647"),
    ],
)
def test_channels_that_there_are_not(topology: Any, credits: Any, expected: str) -> None:
    """A wrong name or number is a finding where it is stated, not a traceback later."""
    with pytest.raises(PipecError) as caught:
        Channels(topology, credits)
    (finding,) = caught.value.findings
    assert (finding.code, finding.expected) == ("usage", expected)
