"""What a search finds is certified, within its bounds, and the same whenever it is run."""

from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipec.cli import main
from pipec.program.costs import Costs
from pipec.program.memory import Limit, Memory
from pipec.program.plan import load_plan
from pipec.tune.blocks import block_recipe, blocks
from pipec.tune.points import points
from pipec.tune.recipe import PLACEMENTS, tried
from pipec.tune.search import Budget, State, search
from pipec.tune.setting import Setting

COSTS = Costs.of({"F": 1, "B": "1.2", "W": "0.8", "send": "0.05"})


def last(setting: Setting, placements: tuple[str, ...], candidates: int) -> State:
    return list(search(setting, placements, Budget(candidates)))[-1]


@pytest.fixture(scope="module")
def found() -> State:
    return last(Setting(2, 3, COSTS), ("linear", "v"), 5000)


def test_each_point_is_certified_and_above_its_bound(found: State) -> None:
    """The front is made again, proved again, and no point is shorter than its bound."""
    proved = points(found.front, Setting(2, 3, COSTS))
    assert len(proved) >= 3
    for point in proved:
        assert point.certificate.ok
        assert point.bound <= point.trial.makespan


def test_no_point_dominates_another(found: State) -> None:
    """Longer schedules are on the front only because they hold less."""
    spans = [trial.makespan for trial in found.front]
    peaks = [trial.peak for trial in found.front]
    assert spans == sorted(set(spans))
    assert peaks == sorted(set(peaks), reverse=True)


def test_a_seed_decides(found: State) -> None:
    """With a budget of candidates the same seed gives the same front."""
    again = last(Setting(2, 3, COSTS), ("linear", "v"), 5000)
    assert again.tried == found.tried
    assert [(one.rank, one.recipe) for one in again.front] == [
        (one.rank, one.recipe) for one in found.front
    ]


def test_a_limit_holds_in_bytes() -> None:
    """With sizes in bytes nothing is found that holds more than the limit."""
    memory = Memory.of({"activation": "1GB", "state": "2GB", "message": "10MB"})
    limited = Memory(memory.sizes, True, Limit.of("5GB"))
    state = last(Setting(2, 4, COSTS, limited), PLACEMENTS, 300)
    assert state.front
    assert all(trial.peak <= Fraction(5 * 10**9) for trial in state.front)


def test_costs_are_shared_among_stages() -> None:
    """Half a stage takes half its time; a message is whole; two pieces make a stage."""
    setting = Setting(2, 4, Costs.of({"F": [1, 2, 3, 4], "send": "0.5"}), cut=4)
    assert setting.costs_of(2).times["F"] == (3, 7)
    assert setting.costs_of(8).times["F"] == tuple(
        Fraction(part, 2) for part in (1, 1, 2, 2, 3, 3, 4, 4)
    )
    assert setting.costs_of(2).times["send"] == Fraction(1, 2)
    assert setting.memory_of(8).size("activation", 0) == Fraction(1, 2)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    """The plan is the shortest schedule; the picture and the text are written beside it."""
    plan, text, picture = tmp_path / "b.plan", tmp_path / "b.txt", tmp_path / "b.svg"
    words = ["tune", "P=2", "M=4", "--candidates", "200", "-o", str(plan), "--text", str(text)]
    result = CliRunner().invoke(main, [*words, "--svg", str(picture)])
    assert result.exit_code == 0, result.output
    assert load_plan(plan).certificate["ok"]
    assert picture.read_text().startswith("<svg")
    assert text.read_text()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["P=2"], 2, "say how many ranks and microbatches"),
        (["P=2", "M=4", "--time", "soon"], 2, "--time is given as 60s"),
        (["P=2", "M=4", "--placements", "w"], 2, "there is no placement 'w'"),
        (["P=2", "M=4", "--candidates", "9", "--memory-limit", "0.1"], 1, "no schedule was found"),
    ],
)
def test_mistakes_are_told(words: list[str], status: int, said: str) -> None:
    """A wrong command and an impossible limit are findings, not tracebacks."""
    result = CliRunner().invoke(main, ["tune", *words])
    assert result.exit_code == status
    assert said in result.output


def test_blocks_hold_about_what_they_were_chosen_for() -> None:
    """Blocks have no collisions: each compiles, is certified, and holds about what was foreseen."""
    setting = Setting(4, 8)
    chosen = blocks(4)
    assert len(chosen) > 50
    for block in chosen[::12]:
        trial = tried(block_recipe(block, 4, 8), setting)
        assert trial
        assert trial.peak <= block.held / 2 + 1
