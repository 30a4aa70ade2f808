"""Warnings: head-of-line blocking, exactly where a queue makes an operation late; communicators."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from explorer import grouped
from machine import shuffled

from pipec.cli import main
from pipec.compiler import Settings, build, certify
from pipec.program.costs import Costs, durations
from pipec.program.graph import Channels, Topology, event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.program.reading import parse_listing
from pipec.simulate.timeline import Timeline, simulate
from pipec.source import Source
from pipec.verify.certificate import verify
from pipec.verify.dataflow import dataflow
from pipec.verify.head_of_line import head_of_line
from pipec.verify.matching import in_order

CASES = sorted((Path(__file__).parent / "warned").glob("*.listing"))
BASES = (
    ("1f1b", {"P": 3, "M": 4}),
    ("zbv", {"P": 3, "M": 5}),
    ("dualpipe", {"P": 4, "M": 8}),
    ("interleaved", {"P": 3, "M": 3}),
)


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_what_is_warned_of(
    path: Path, golden: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is certified, the status is 0, and exactly this is printed beside it."""
    monkeypatch.chdir(path.parent)
    found = re.search(r"^# verify (.*)$", path.read_text(encoding="utf-8"), re.M)
    words = ["verify", path.name, *(found[1].split() if found else [])]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0
    golden(path.with_suffix(".out"), f"{result.stdout}\n{result.stderr}")
    told = json.loads(CliRunner().invoke(main, [*words, "--format", "json"]).stdout)
    assert told["ok"] and [one["severity"] for one in told["warnings"]] == ["warning"]


def strayed(name: str, sizes: dict[str, int]) -> Iterator[Program]:
    """A schedule with its messages where other costs would have them, and moved at random."""
    draw = random.Random(1)
    for _ in range(20):
        costs = Costs.of({key: draw.choice((1, 2, 5)) for key in ("F", "B", "W")})
        yield build(name, sizes, Settings(costs)).program
    for seed in range(20):
        program = shuffled(build(name, sizes).program, seed, 1.0)
        if not dataflow(program) and in_order(program, Links(program)):
            yield program


def timed(program: Program, topology: Topology) -> Timeline | None:
    graph = event_graph(program, Links(program), Channels(topology))
    swept = simulate(graph, durations(program, Costs()))
    return None if len(swept.stuck) else swept.timeline


@pytest.mark.parametrize("base", BASES, ids=lambda case: case[0])
def test_a_warning_means_that_an_operation_is_late(base: tuple[str, dict[str, int]]) -> None:
    """With free messages: warned if and only if some operation begins later than with tags.

    Under `pair` and `directed` that never happens to a program that runs through.
    """
    warned = silent = 0
    for program in strayed(*base):
        links = Links(program)
        best = timed(program, "tagged")
        for topology in ("rank", "pair", "directed"):
            time = timed(program, topology)
            if time is None or best is None:
                continue
            channels = Channels(topology)
            graph = event_graph(program, links, channels)
            rows = program.compute
            late = bool(np.any(time.begin[rows] > best.begin[rows]))
            found = head_of_line(graph, links, channels, Costs(), time)
            assert bool(found) == late
            assert topology == "rank" or not found
            warned, silent = warned + late, silent + (not late)
    assert warned and silent


@pytest.mark.parametrize("base", BASES, ids=lambda case: case[0])
def test_a_warning_about_launches_means_that_an_operation_is_late(
    base: tuple[str, dict[str, int]],
) -> None:
    """Behind a launch, too: what is warned of makes some operation begin later than with tags."""
    warned = silent = 0
    for seed, single in enumerate(strayed(*base)):
        program = grouped(single, seed)
        best = timed(program, "tagged")
        for topology in ("rank", "pair", "directed"):
            time = timed(program, topology)
            if time is None or best is None:
                continue
            links, channels = Links(program), Channels(topology)
            graph = event_graph(program, links, channels)
            late = bool(np.any(time.begin[program.compute] > best.begin[program.compute]))
            found = head_of_line(graph, links, channels, Costs(), time)
            assert late or not found
            warned, silent = warned + bool(found), silent + (not found)
    assert warned and silent


@pytest.mark.parametrize("send", ["0", "0.5"])
@pytest.mark.parametrize("base", BASES, ids=lambda case: case[0])
def test_the_default_lowering_is_not_blocked_under_pair(
    base: tuple[str, dict[str, int]], send: str
) -> None:
    """One queue per pair of ranks costs a library schedule nothing but the wire's own time."""
    settings = Settings(Costs.of({"send": send}))
    assert certify(build(*base, settings), settings).warnings == ()


SPARED = """
ranks 3
flow x microbatches 2 ranks 1 2 backward false
flow w microbatches 1 ranks 0 0 backward false
flow z microbatches 1 ranks 0 1 backward false

rank 0:
    F     w 0 0
    F     z 0 0
    SEND  F z 1 0 -> 1
    F     w 1 0

rank 1:
    F     x 0 0
    RECV  F z 1 0 <- 0
    SEND  F x 1 0 -> 2
    F     x 0 1
    SEND  F x 1 1 -> 2
    F     z 1 0

rank 2:
    RECV  F x 1 0 <- 1
    & RECV  F x 1 1 <- 1
    F     x 1 0
    F     x 1 1
"""


def test_no_warning_where_the_launch_is_as_late_by_itself() -> None:
    """A message waits in its queue, and the other one of its launch is not there earlier."""
    program = parse_listing(Source("x.listing", SPARED))
    assert verify(program, Costs(), Memory(), Channels("rank")).warnings == ()
    apart = parse_listing(Source("x.listing", SPARED.replace("& RECV", "RECV")))
    (warning,) = verify(apart, Costs(), Memory(), Channels("rank")).warnings
    assert warning.code == "head-of-line" and "SEND F x 1 0 -> 2" in warning.message
