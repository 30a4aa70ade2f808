"""`pipec import` and `pipec export`, and other systems' files given to the other commands."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipec.cli import main


def pipec(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_a_csv_goes_out_and_comes_back(tmp_path: Path) -> None:
    """What is exported for torch is verified and imported as the same program."""
    target = str(tmp_path / "zb1p.csv")
    assert pipec("export", "zb1p", "P=2", "M=3", "--to", "torch-csv", "-o", target).exit_code == 0
    assert "certified" in pipec("verify", target).stdout
    ours = pipec("export", "zb1p", "P=2", "M=3", "--to", "listing").stdout
    assert pipec("import", target).stdout == ours


def test_a_model_for_spin_is_written() -> None:
    """The Promela model has a process a rank, and says which channels it stands for."""
    model = pipec("export", "1f1b", "P=2", "M=2", "--to", "promela", "--channels", "rank").stdout
    assert "channels rank, 0 credits" in model
    assert "active proctype rank0()" in model and "active proctype rank1()" in model


def test_what_torch_cannot_hold_is_refused(tmp_path: Path) -> None:
    """DualPipe has two flows: a message, status 1, and no file."""
    target = tmp_path / "x.csv"
    done = pipec("export", "dualpipe", "P=2", "M=4", "--to", "torch-csv", "-o", str(target))
    assert done.exit_code == 1 and not target.exists()
    assert "dualpipev instead of dualpipe" in done.stderr


@pytest.mark.parametrize("defer", [False, True])
def test_torchs_own_schedule_is_verified(defer: bool) -> None:
    """`torch:NAME` is built by torch in process; `--defer-recv` makes it corrupt."""
    words = ["verify", "torch:ZBVZeroBubble", "P=2", "M=4", *(["--defer-recv"] if defer else [])]
    done = pipec(*words)
    assert done.exit_code == int(defer)
    assert ("corruption[corruption]" in done.stderr) == defer


@pytest.mark.parametrize(
    "words, message",
    [
        (["torch:ZBVZeroBubbel", "P=2", "M=4"], "did you mean `ZBVZeroBubble`?"),
        (["torch:ZBVZeroBubble", "P=2"], "torch's schedules need `M`"),
        (["torch:ZBVZeroBubble", "P=2", "M=4", "w=1"], "no parameter `w`"),
        (["torch:Interleaved1F1B", "P=4", "M=9"], "torch does not build `Interleaved1F1B`"),
    ],
)
def test_what_torch_does_not_have_is_said(words: list[str], message: str) -> None:
    """A wrong name or size of torch's is a wrong command, with what torch says."""
    done = pipec("verify", *words)
    assert done.exit_code == 2
    assert message in done.stderr
