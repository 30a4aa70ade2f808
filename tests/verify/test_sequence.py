"""The witness of a program saves time and never decides anything."""

from dataclasses import replace

import numpy as np
import pytest

from pipec.compiler import build
from pipec.program.costs import Costs
from pipec.program.effects import COMPUTE
from pipec.program.graph import TOPOLOGIES, Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program, Witness
from pipec.program.sweep import NEVER, sweep
from pipec.verify.certificate import verify
from pipec.verify.deadlock import credits_needed
from pipec.verify.sequence import one_sequence

SCHEDULES = [("1f1b", 4, 6), ("zbv", 3, 6), ("interleaved", 2, 4), ("dualpipe", 4, 8)]
COSTS = [
    Costs(),
    Costs.of({"F": 2, "B": "0.5"}),
    Costs.of({"F&B": "serial"}),
    Costs.of({"send": 1}),
]


def known(program: Program) -> bool:
    """Whether the witness of a program proves it safe."""
    links = Links(program)
    met = not any(len(ends.unmatched) for ends in (links.messages, links.sums))
    return met and one_sequence(event_graph(program, links, Channels()), links)


@pytest.mark.parametrize(("name", "ranks", "count"), SCHEDULES)
@pytest.mark.parametrize("costs", COSTS, ids=str)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_certificates_do_not_depend_on_it(
    name: str, ranks: int, count: int, costs: Costs, topology: str
) -> None:
    """With the witness and without, under any costs, verdicts and times are the same."""
    program = build(name, {"P": ranks, "M": count}).program
    assert known(program)
    plain = replace(program, witness=None)
    for credits in (0, 1):
        channels = Channels(topology, credits)  # type: ignore[arg-type]
        one, other = (verify(known, costs, Memory(), channels) for known in (program, plain))
        assert one.used is not None
        assert other.used is not None
        assert np.array_equal(one.used.held, other.used.held)
        assert replace(one, used=None) == replace(other, used=None)


def test_a_queue_per_pair_is_not_one_per_rank() -> None:
    """Moments that rise with a queue per pair prove nothing where a queue per rank is stuck."""
    stuck = 0
    for program in swapped(build("interleaved", {"P": 3, "M": 3}).program):
        links = Links(program)
        graph = event_graph(program, links, Channels())
        levels = sweep(graph.waits, np.ones(len(graph), np.int64), graph.lane)
        assert (levels < NEVER).all()
        witness = Witness(levels[graph.event], np.zeros(len(program), np.int64))
        lied = replace(program, witness=witness)
        assert event_graph(lied, links, Channels()).rises
        if credits_needed(program, links, "rank") != 0:
            assert not known(lied)
            stuck += 1
    assert stuck >= 5


def swapped(program: Program) -> list[Program]:
    """For all neighbours among the messages that have different peers, the two exchanged."""
    wired = ~COMPUTE[program.kind]
    made = []
    for row in range(len(program) - 1):
        both = [row, row + 1]
        if not wired[both].all() or program.rank[row] != program.rank[row + 1]:
            continue
        if program.peer[row] != program.peer[row + 1]:
            at = np.arange(len(program))
            at[both] = both[::-1]
            columns = {name: getattr(program, name)[at] for name in ("kind", "operation", "peer")}
            made.append(replace(program, **columns, witness=None))
    return made
