"""The script that certifies whole families: a small version of it, and that it can fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipec.library import names

SCRIPT = Path(__file__).parents[2] / "bench" / "sweep.py"
CIRCLE = """
schedule circle(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    on rank r:
        if r == 0 and M == 3:
            repeat M:  F  BW
        else:
            repeat M:  F
            repeat M:  BW
"""


def sweep(*words: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
def test_the_whole_library_in_small() -> None:
    """Every schedule has legal sizes up to P=2 and M=6, and all of them are certified."""
    status, lines = sweep("--ranks", "2", "--most", "6")
    assert status == 0, lines
    assert [line.split()[0] for line in lines[2:-1]] == list(names())
    assert lines[-1].endswith("0 failed")


@pytest.mark.slow
def test_one_failure_is_a_failure(tmp_path: Path) -> None:
    """A schedule that is a circle at one size gives status 1, and the command that shows it."""
    path = tmp_path / "circle.pipe"
    path.write_text(CIRCLE, encoding="utf-8")
    status, lines = sweep(str(path), "--ranks", "2", "--most", "4")
    assert status == 1
    assert f"not certified: pipec verify {path} P=2 M=3 --channels rank" in lines
