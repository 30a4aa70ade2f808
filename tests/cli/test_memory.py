"""Sizes on the command line: what is accepted, what takes the place of what, and what is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipec.cli import main

SIZES = "parameters=4GB,gradients=4GB,optimizer=8GB,activation=1.5GB,stash=200MB,message=50MB"


def pipec(line: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == status, result.output
    return result


def certificate(line: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pipec(f"{line} --format json", status).stdout)
    return found


def test_a_library_schedule_with_sizes_in_bytes() -> None:
    """Peak, place and parts of the worst rank in the text; of all ranks in the JSON."""
    shown = pipec(f"verify 1f1b P=4 M=8 --memory {SIZES} --memory-limit 40GiB").stdout
    assert "peak memory 22.1 GB on rank 0 at `RECV B main 0 0 <- 1` (index 8)" in shown
    assert "parameters 4, gradients 4, optimizer 8, activations 6 (4 F), receive buffers" in shown
    assert "the limit is 42.95 GB" in shown and "not counted" not in shown
    proved = certificate(f"verify 1f1b P=4 M=8 --memory {SIZES} --memory-limit 40GiB")
    assert proved["memory"] == {
        "unit": "bytes",
        "limit": 40 * 2**30,
        "not_counted": [],
        "largest_message": 50 * 10**6,
    }
    for rank in proved["ranks"]:
        parts = rank["peak_parts"].values()
        assert sum(part["amount"] for part in parts) == rank["peak_memory"]
    assert proved["ranks"][0]["peak_parts"]["activations"] == {"amount": 6 * 10**9, "count": 4}


def test_every_rank_is_shown_when_asked() -> None:
    """A line per rank, with a column for each part that any rank has."""
    lines = pipec(f"verify zb1p P=3 M=6 --memory {SIZES} --ranks").stdout.splitlines()
    (head,) = (line for line in lines if "at index" in line)
    assert "W stash" in head and "receive buffers" in head and "passed on" not in head
    assert sum(line.split()[:1] == ["2"] for line in lines) == 2


def test_what_is_not_counted_is_said() -> None:
    """Sizes in bytes that are not stated count as 0, and the certificate says so."""
    shown = pipec("verify zbv P=2 M=4 --memory activation=1GB,state=3GB").stdout
    assert "not counted: message" in shown
    units = pipec("verify zbv P=2 M=4").stdout
    assert "not counted" not in units and "(4 F)" in units


def test_what_a_credit_is_is_said() -> None:
    """Where credits matter, the room that one stands for; where none are needed, nothing."""
    crossed = Path(__file__).parents[1] / "verify" / "broken" / "crossed_queues.listing"
    line = f"verify {crossed} --channels pair --credits 1"
    assert "is room for one whole message, in each" in pipec(line).stdout
    assert (
        "one whole message, 8 MB at most, in each" in pipec(f"{line} --memory message=8MB").stdout
    )
    assert "a credit" not in pipec("verify 1f1b P=2 M=2 --memory message=8MB").stdout


def test_sizes_from_a_file(tmp_path: Path) -> None:
    """One number per stage; what stands on the command line takes its place."""
    path = tmp_path / "sizes.toml"
    path.write_text('parameters = ["9GB", "1GB"]\nactivation = "1GB"\n', encoding="utf-8")
    peaks = [
        rank["peak_memory"] for rank in certificate(f"verify 1f1b P=3 M=3 --memory {path}")["ranks"]
    ]
    assert peaks == [12 * 10**9, 3 * 10**9, 2 * 10**9]
    line = f"verify 1f1b P=3 M=3 --memory {path} --memory state=2GB"
    assert certificate(line)["ranks"][0]["peak_memory"] == 5 * 10**9


def test_the_text_is_overridden(tmp_path: Path) -> None:
    """Key by key; a size that is left in another unit is refused, not mixed in."""
    path = tmp_path / "mine.pipe"
    path.write_text(
        "schedule mine(P, M):\n"
        "    flow main(stages=P, microbatches=M): rank = stage\n"
        "    memory F = 2, B = -1, message = 0.5\n"
        "    limit memory <= 99\n"
        "    on rank r:\n"
        "        repeat M:  F  BW\n",
        encoding="utf-8",
    )
    assert certificate(f"verify {path} P=1 M=3 --memory state=7")["ranks"][0]["peak_memory"] == 9
    refused = pipec(f"verify {path} P=1 M=3 --memory activation=1GB", 2).stderr
    assert "`message` of the schedule is a plain number" in refused
    sizes = "activation=1GB,stash=1GB,message=0"
    refused = pipec(f"verify {path} P=1 M=3 --memory {sizes}", 1).stderr
    assert "error[value]: the sizes are in bytes, the limit is not" in refused
    assert "limit memory <= 99" in refused
    pipec(f"verify {path} P=1 M=3 --memory {sizes} --memory-limit 2GB")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--memory activation=1gb", "the memory of `activation` is not an amount"),
        ("--memory activation=-1", "the memory of `activation` is not an amount"),
        ("--memory activation=1e400", "the memory of `activation` is not an amount"),
        ("--memory activations=1", "did you mean `activation`?"),
        ("--memory activation=1,activation=2", "activation is given twice"),
        ("--memory state=1,optimizer=1", "state the same thing"),
        ("--memory F=1,W=-2", "W does not give back what F and B have left"),
        ("--memory activation=1GB,state=3", "`state` is a plain number, `activation` is in bytes"),
        ("--memory nowhere.toml", "nowhere.toml: No such file"),
        ("--memory-limit 40GB", "the limit is in bytes, the sizes are not"),
        ("--memory-limit 40gb", "this is no limit of memory"),
        ("--memory activation=1GB --memory-limit 40", "the sizes are in bytes, the limit is not"),
    ],
)
def test_what_is_wrong_with_a_command(options: str, said: str) -> None:
    """Status 2 and one sentence, never a traceback."""
    shown = pipec(f"verify 1f1b P=2 M=2 {options}", 2)
    assert said in shown.stderr and shown.stdout == ""


def test_mistakes_of_a_file_have_their_lines(tmp_path: Path) -> None:
    """All at once, as in a costs file; and what does not fit the schedule, too."""
    path = tmp_path / "sizes.toml"
    path.write_text('activation = "1.5gb"\n\nactivatoin = 2\n', encoding="utf-8")
    said = pipec(f"verify 1f1b P=2 M=2 --memory {path}", 2).stderr
    assert f"{path}:1:1" in said and "found: 1.5gb" in said
    assert f"{path}:3:1" in said and "did you mean `activation`?" in said
    path.write_text('message = 0.1\nactivation "1GB"\n', encoding="utf-8")
    said = pipec(f"verify 1f1b P=2 M=2 --memory {path}", 2).stderr
    assert f"{path}:2:12" in said and "this is not a memory file" in said
    path.write_text("message = 0.1\nactivation = [1, 2, 3]\n", encoding="utf-8")
    said = pipec(f"verify 1f1b P=2 M=2 --memory {path}", 2).stderr
    assert f"{path}:2:1" in said and "there are 3 amounts of `activation`" in said
    path.write_bytes(b"\xff\xfe")
    assert "is not a memory file" in pipec(f"verify 1f1b P=2 M=2 --memory {path}", 2).stderr


def test_a_plan_keeps_sizes_and_limit(tmp_path: Path) -> None:
    """A plan is verified again with what it was compiled with, in bytes."""
    path = tmp_path / "x.plan"
    pipec(f"compile zbv P=2 M=4 --memory {SIZES} --memory-limit 80GB -o {path}")
    first = certificate(f"verify zbv P=2 M=4 --memory {SIZES} --memory-limit 80GB")
    assert certificate(f"verify {path}") == first
    pipec(f"verify {path} --memory-limit 20GB", 1)


def test_a_comparison_in_bytes() -> None:
    """Peaks with their unit; the JSON says which it is."""
    line = "compare 1f1b gpipe P=2 M=4 --memory activation=1GB"
    assert "4 GB" in pipec(line).stdout
    rows = json.loads(pipec(f"{line} --format json").stdout)
    assert [row["memory_unit"] for row in rows] == ["bytes", "bytes"]


@pytest.mark.parametrize(("limit", "said"), [("2", True), ("4", False)])
def test_a_picture_says_when_its_peak_is_over_the_limit(limit: str, said: bool) -> None:
    """Drawing refuses nothing, and does not keep quiet about it either."""
    shown = pipec(f"show 1f1b P=4 M=8 --memory-limit {limit}").stdout
    assert "peak memory 4" in shown and ("over the limit of 2" in shown) is said
