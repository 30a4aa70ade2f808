"""Costs of the model in so many pieces, for schedules that cut it otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pipec
from pipec.cli import main


@pytest.fixture
def costs(tmp_path: Path) -> str:
    """A file for two pieces, in the form that `pipec profile` writes."""
    path = tmp_path / "costs.toml"
    path.write_text("F = [1, 3]\n[memory]\nactivation = ['4B', '7B']\nmessage = '8B'\n")
    return str(path)


def run(line: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == status, result.output
    return result


def as_json(line: str, status: int = 0) -> Any:
    return json.loads(run(f"{line} --format json", status).stdout)


def test_stages_take_their_shares(costs: str) -> None:
    """Half a stage takes half: one model, one unit, and nothing is left to scale."""
    line = f"compare 1f1b zbv P=2 M=4 --costs {costs} --cut 2"
    whole, halves = as_json(line)
    assert whole["costs"].startswith("F=[1, 3], B=1, W=1,")
    assert halves["costs"].startswith("F=[0.5, 0.5, 1.5, 1.5], B=0.5, W=0.5,")
    assert whole["scale"] == halves["scale"] == 1
    assert "scaled" not in run(line).stdout


def test_without_a_cut_a_list_is_not_stretched(costs: str) -> None:
    """What it is too short for is left out where others have fewer stages; alone, it holds."""
    one, other = as_json(f"compare 1f1b zbv P=2 M=4 --costs {costs}", 2)
    assert one["ok"] and not other["ok"]
    (finding,) = other["findings"]
    assert "2 amounts of `F` for 4 stages" in finding["message"]
    assert "--cut 2" in finding["hint"] and ".toml:1:1" in finding["source"]
    assert as_json(f"compare zbv P=2 M=4 --costs {costs}")[0]["ok"]


def test_every_command_that_compiles_takes_a_cut(costs: str, tmp_path: Path) -> None:
    """A plan holds the costs of its own stages, in whole bytes."""
    plan = tmp_path / "x.plan"
    run(f"compile zbv P=2 M=4 --costs {costs} --cut 2 -o {plan}")
    made = pipec.load_plan(plan)
    assert made.memory.sizes["activation"] == (2, 2, 4, 4)
    assert made.memory.sizes["message"] == 8
    assert made.digests == pipec.compile("zbv", P=2, M=4, costs=costs, cut=2).digests
    proved = as_json(f"verify zbv P=2 M=4 --costs {costs} --cut 2")
    assert proved["makespan"] == made.certificate["makespan"]


def test_what_a_schedule_states_itself_is_for_its_own_stages(tmp_path: Path) -> None:
    """Only what the caller states is shared, and defaults do not go over the text's."""
    path = tmp_path / "own.pipe"
    path.write_text(
        "schedule own(P, M):\n    flow main(stages=2 * P, microbatches=M): rank = stage // 2\n"
        "    cost F = 5\n    memory activation = 3GB\n    on rank r:\n"
        "        repeat M: F[0] F[1] BW[1] BW[0]\n"
    )
    proved = as_json(f"verify {path} P=1 M=2 --cost B=4 --cut 1")
    assert proved["costs"].startswith("F=5, B=2, W=0.5,")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--cut 1", "2 amounts of `F` for 1 piece"),
        ("--cut 2 --layers 2*mlp", ""),
        ("--cut 2 --cost F.mlp=1", "no share of a piece"),
        ("--cut 0", "--cut"),
    ],
)
def test_what_cannot_be_shared_is_refused(costs: str, options: str, words: str) -> None:
    """More amounts than pieces, and the parts of opened chunks."""
    result = run(f"verify 1f1b P=2 M=4 --costs {costs} {options}", 2)
    assert words in result.stderr


def test_costs_of_parts_are_shown_where_they_stand(tmp_path: Path) -> None:
    """A search and a cut have no use for them, and say so in the file."""
    path = tmp_path / "parts.toml"
    path.write_text("F = 2\n[B]\nmlp = 1\n")
    for line in ("tune P=2 M=4 --time 1s", "verify 1f1b P=2 M=4 --cut 2"):
        assert "parts.toml:3:1" in run(f"{line} --costs {path}", 2).stderr
