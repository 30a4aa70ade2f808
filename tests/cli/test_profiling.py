"""`pipec profile`: what it refuses, what it starts, and the file that it leaves."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import pipec
from pipec.cli import main

STAGES = """
import torch
from torch import nn

def make_stage(stage, stages):
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh())

def batch_of(rows):
    return torch.randn(rows, 4), torch.randn(rows, 4)

loss_of = nn.functional.mse_loss
"""


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("gpipe P=2 M=4 --memory-limit 1", 1, "error[memory-limit]"),
        ("forward P=2 M=4", 2, "does not train"),
        ("1f1b P=2 M=4 --stages none.py", 2, "there is no file none.py"),
        ("1f1b P=2 M=4 -o none/costs.toml", 2, "there is no folder"),
        ("1f1b P=2 M=4 -o .", 2, ". is a folder"),
        ("1f1b P=2 M=4 --stages own.py -o own.py", 2, "is the file of stages itself"),
        ("own.pipe P=2 M=4 -o own.pipe", 2, "is the schedule itself"),
    ],
)
def test_what_is_refused_starts_nothing(
    line: str, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its reason; under torchrun, the way out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("pipec.cli.profiling.launch", lambda *_: pytest.fail("started"))
    (tmp_path / "own.pipe").write_text("")
    (tmp_path / "own.py").write_text("")
    result = CliRunner().invoke(main, ["profile", *line.split()])
    assert result.exit_code == status and said in result.stderr
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(main, "profile 1f1b P=2 M=4".split())
    assert result.exit_code == 2 and "listener" in result.stderr


@pytest.mark.slow
def test_your_own_stages_become_a_costs_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real process; a single rank exchanges no messages, and so says nothing of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "own.py").write_text(STAGES)
    line = "profile zb1p P=1 M=2 --stages own.py --steps 1 --skip 1 --batch 3 -o own.toml"
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, result.output
    assert "steps timed: 1, skipped before: 1" in result.stdout and "own.toml" in result.stdout
    file = pipec.load_costs("own.toml")
    assert {"F", "B", "W"} == set(file.costs.times) and not file.costs.pairs
    assert file.memory and file.memory.size("parameters", 0) == 4 * (16 + 4)
    assert file.memory.size("stash", 0) == 4 * 12  # the gradient: the input is the batch's
