"""Broken schedules, written by hand, and what `pipec verify` says: `broken/NAME` -> `NAME.out`.

A case says on a line `# verify K=V ... [options]` how it is verified.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipec.cli import main
from pipec.findings import Finding, Severity, worst_first

CASES = sorted(
    path for path in (Path(__file__).parent / "broken").iterdir() if path.suffix != ".out"
)
by_case = pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])

BLAMED = {
    "swapped_sends": ("corruption", "SEND F main 1 1 -> 1", "RECV F main 1 0 <- 0"),
    "cycle": ("deadlock", "BW main 0 0", "BW main 1 0"),
    "missing_w_stream": ("missing", "B main 1 0"),
    "over_limit": ("memory-limit", "F main 0 2"),
    "over_limit_activations": ("memory-limit", "F main 0 3"),
    "over_limit_copies": ("memory-limit", "F down 0 0"),
    "over_limit_receives": ("memory-limit", "RECV F main 1 2 <- 0"),
    "over_limit_stash": ("memory-limit", "F main 0 2"),
    "placed_twice": ("misplaced", "F main 1 0", "F main 1 0"),
    "unmatched_first_recv": ("unmatched", "SEND F main 1 0 -> 1", "F main 1 0"),
}
"""For the cases that matter most, the code and instructions that the first finding must show."""


def words(path: Path) -> list[str]:
    found = re.search(r"^# verify (.*)$", path.read_text(encoding="utf-8"), re.M)
    return ["verify", path.name, *(found[1].split() if found else [])]


def findings(path: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, [*words(path), "--format", "json"])
    assert result.exit_code == 1
    found: list[dict[str, Any]] = json.loads(result.stdout)["findings"]
    return found


@by_case
def test_what_is_shown(
    path: Path, golden: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly this is printed to stderr, nothing to stdout, and the status is 1."""
    monkeypatch.chdir(path.parent)
    result = CliRunner().invoke(main, words(path))
    assert (result.exit_code, result.stdout) == (1, "")
    golden(path.with_suffix(".out"), result.stderr)


@by_case
def test_one_mistake_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What merely follows from a mistake is no finding of its own: two at most, one per end."""
    monkeypatch.chdir(path.parent)
    assert 1 <= len(findings(path)) <= 2


@by_case
def test_places_point_into_the_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place has rank, index and instruction, and its source line holds what it says."""
    monkeypatch.chdir(path.parent)
    lines = path.read_text(encoding="utf-8").splitlines()
    for finding in findings(path):
        for place in finding["places"]:
            name, line, column = place["source"].split(":")
            assert name == path.name and place["rank"] >= 0 and place["index"] >= 0
            written = lines[int(line) - 1][int(column) - 1 :]
            if path.suffix == ".listing":
                written = written.split("#")[0]
                assert " ".join(written.split()) == place["instruction"]
            else:
                assert re.match(r"F|BW|B|W", written)


@pytest.mark.parametrize("name", BLAMED)
def test_the_right_instructions_are_blamed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not merely some finding: the one that names the culprit, and the other end of it."""
    (path,) = (path for path in CASES if path.stem == name)
    monkeypatch.chdir(path.parent)
    first = findings(path)[0]
    code, *blamed = BLAMED[name]
    assert first["code"] == code
    assert set(blamed) <= {place["instruction"] for place in first["places"]}


def test_the_cases_cover_every_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finding that the verifier has is shown by a case (and `order` by the compiler)."""
    monkeypatch.chdir(CASES[0].parent)
    codes = {finding["code"] for path in CASES for finding in findings(path)}
    codes |= {"head-of-line", "communicator-order"}  # warnings: see test_head_of_line.py
    codes |= {"expert-order"}  # takes two programs: see test_mutations.py
    known: set[str] = set()
    for module in (Path(__file__).parents[2] / "pipec" / "verify").glob("*.py"):
        known |= set(re.findall(r'Finding\(\s*"([\w-]+)"', module.read_text(encoding="utf-8")))
    assert known <= codes and len(known) >= 11


def test_the_worst_finding_comes_first() -> None:
    """Findings are told by severity: corruption, deadlock, other errors, warnings."""
    mild, *worse = (Finding("x", "", severity=severity) for severity in Severity)
    assert [one.severity.name for one in worst_first([mild, *worse])] == [
        "CORRUPTION",
        "DEADLOCK",
        "ERROR",
        "WARNING",
    ]
