"""Several mistakes at once: exactly those rows hang that hang in a machine without a graph."""

import random
from collections import Counter
from fractions import Fraction

import pytest
from damage import DAMAGE, Case
from machine import run
from mutants import behaves, good, library

from pipec.program.costs import Costs
from pipec.program.graph import TOPOLOGIES, Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Limit, Memory
from pipec.program.program import Program
from pipec.verify.certificate import verify
from pipec.verify.deadlock import stuck_events

KINDS = sorted(set(DAMAGE) - {"shrink a buffer", "other launches", "order in a launch"})
"""Those that need a sound program to begin with are left out."""

SOUND = {"corruption", "deadlock", "hazard", "gradient-sum", "memory-limit"}
"""What may be found in streams whose operations are whole and in a possible order."""

seen: Counter[str] = Counter()


@pytest.mark.parametrize("block", range(4))
def test_several_mistakes_at_once(block: int) -> None:
    """Where operations are whole, the graph has exactly the rows that the machine completes.

    And what is certified behaves as it should.
    """
    for seed in range(1000 * block, 1000 * block + 120):
        case, program = mistaken(seed)
        memory = Memory(limit=Limit(case.limit))
        certificate = verify(case.program, Costs(), memory, case.channels)
        if certificate.ok:
            assert behaves(program, case), seed
        codes = {finding.code for finding in certificate.findings}
        links = Links(case.program)
        if codes - SOUND or len(links.messages.unmatched) or len(links.sums.unmatched):
            seen["broken"] += 1
            continue
        seen[", ".join(sorted(codes)) or "certified"] += 1
        tags = not len(links.by_operation.unmatched)
        for topology in TOPOLOGIES if tags else TOPOLOGIES[:3]:
            channels = Channels(topology, seed % 3)
            graph = event_graph(case.program, links, channels)
            never = set(stuck_events(graph).tolist())
            rows = {row for row in range(len(case.program)) if int(graph.event[row]) not in never}
            assert rows == run(case.program, channels), seed


def mistaken(seed: int) -> tuple[Case, Program]:
    """A library program with two to four mistakes, and the program without."""
    draw = random.Random(seed)
    name, ranks, microbatches = draw.choice(library())
    forms = ("plain", "launched", "opened")
    form = draw.choice([form for form in forms if good(name, ranks, microbatches, form)])
    program = good(name, ranks, microbatches, form)
    assert program is not None
    channels = Channels(draw.choice(TOPOLOGIES), draw.choice((0, 1, 2)))
    case = Case(program, channels, Fraction(10**6))
    for _ in range(draw.choice((2, 3, 4))):
        kind = draw.choice([kind for kind in KINDS if kind != "part" or form == "opened"])
        try:
            case = DAMAGE[kind](case, draw) or case
        except (IndexError, ValueError):
            continue  # this kind of damage needs what an earlier one has taken away
    return case, program


def test_they_were_of_all_sorts() -> None:
    """The test above saw programs certified, stuck, corrupt and both."""
    if seen:
        assert {"certified", "corruption", "corruption, deadlock", "deadlock"} <= set(seen)
