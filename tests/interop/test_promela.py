"""SPIN, a model checker that knows nothing of event graphs, comes to the same verdicts."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "verify"))
from explorer import grouped
from machine import shuffled

from pipec.compiler import build
from pipec.findings import PipecError
from pipec.interop.promela import write_promela
from pipec.program.graph import TOPOLOGIES, Channels, event_graph
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import stuck_events

CASES = [
    ("1f1b", {"P": 2, "M": 2}),
    ("1f1b", {"P": 3, "M": 3}),
    ("zb1p", {"P": 2, "M": 2}),
    ("zbv", {"P": 2, "M": 3}),
    ("interleaved", {"P": 2, "M": 2}),
    ("dualpipe", {"P": 2, "M": 4}),
]
SPIN = shutil.which("spin") and shutil.which("cc")


def programs() -> list[tuple[Program, Channels]]:
    """Three dozen small programs, most with their messages moved about, and a channel model.

    Of every second that has strayed, neighbouring messages are issued in one launch.
    """
    draw = random.Random(7)
    made = []
    for name, sizes in CASES:
        lowered = build(name, sizes).program
        made.append((lowered, Channels(draw.choice(TOPOLOGIES), 0)))
        for seed in range(5):
            strayed = shuffled(lowered, seed, draw.choice((1.0, 3.0)))
            if not dataflow(strayed):
                strayed = grouped(strayed, seed) if seed % 2 else strayed
                channels = Channels(draw.choice(TOPOLOGIES[:3]), draw.choice((0, 0, 1)))
                made.append((strayed, channels))
    return made


def spin_says_deadlock(program: Program, channels: Channels, folder: Path) -> bool:
    """Explore all interleavings of the model."""
    (folder / "model.pml").write_text(write_promela(program, channels))
    for command in (
        ["spin", "-a", "model.pml"],
        ["cc", "-O0", "-DSAFETY", "-DVECTORSZ=8192", "-w", "-o", "pan", "pan.c"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    run = ["./pan", "-m100000"]
    said = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=120).stdout
    assert "max search depth too small" not in said and "errors:" in said, said
    return "pan:1: invalid end state" in said


@pytest.mark.slow
@pytest.mark.skipif(not SPIN, reason="spin and a C compiler are not installed")
def test_spin_agrees(tmp_path: Path) -> None:
    """For every program the model checker finds a deadlock exactly where the event graph does."""
    verdicts, launches = [], []
    for program, channels in programs():
        graph = event_graph(program, Links(program), channels)
        ours = len(stuck_events(graph)) > 0
        assert spin_says_deadlock(program, channels, tmp_path) == ours
        verdicts.append(ours)
        launches += [ours] if program.grouped else []
    assert 6 < sum(verdicts) < len(verdicts) - 6
    assert 2 < sum(launches) < len(launches) - 2


def test_what_is_too_large_is_refused() -> None:
    """A model that no checker could hold is an error that says so."""
    with pytest.raises(PipecError, match="a model checker cannot hold"):
        write_promela(build("1f1b", {"P": 16, "M": 64}).program, Channels())
