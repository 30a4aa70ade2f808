"""What a search finds is certified, within its bounds, and the same whenever it is run."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from pipec.cli import main, tuning
from pipec.program.costs import Costs
from pipec.program.memory import Limit, Memory
from pipec.program.plan import load_plan
from pipec.tune.blocks import Block, block_recipe, blocks
from pipec.tune.jobs import Compile
from pipec.tune.points import Point, points
from pipec.tune.recipe import PLACEMENTS, Trial, tried
from pipec.tune.rounds import _blocks
from pipec.tune.search import Budget, State, search
from pipec.tune.setting import Setting
from pipec.tune.texts import library

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


def test_what_belongs_to_a_boundary_is_not_shared() -> None:
    """A stage of two pieces gets the message of its first; one of half a piece all of it."""
    sizes = Memory.of({"message": [1, 2, 3, 4]})
    setting = Setting(2, 4, Costs.of({"send": [1, 2, 3, 4]}), sizes, cut=4)
    assert setting.costs_of(2).times["send"] == setting.memory_of(2).sizes["message"] == (1, 3)
    assert setting.costs_of(8).times["send"] == (1, 1, 2, 2, 3, 3, 4, 4)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    """The plan is the shortest schedule; the picture and the text are written beside it."""
    plan, text, picture = tmp_path / "b.plan", tmp_path / "b.txt", tmp_path / "b.svg"
    words = ["tune", "P=2", "M=4", "--candidates", "200", "-o", str(plan), "--text", str(text)]
    result = CliRunner().invoke(main, [*words, "--svg", str(picture)])
    assert result.exit_code == 0, result.output
    assert load_plan(plan).certificate["ok"]
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert text.read_text()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["P=2"], 2, "say how many ranks and microbatches"),
        (["P=2", "M=4", "v=2"], 2, "a search has no size 'v'"),
        (["P=2", "M=4", "--costs", "long.toml"], 2, "say `--cut 3`"),
        (["P=4", "M=4", "--costs", "pair.toml"], 2, "from rank 1 to rank 2"),
        (["P=2", "M=4", "--time", "soon"], 2, "--time is given as 60s"),
        (["P=2", "M=4", "--placements", "w"], 2, "there is no placement 'w'"),
        (["P=2", "M=4", "--candidates", "9", "--memory-limit", "0.1"], 1, "no schedule was found"),
        (["P=2", "M=4", "--time", "1e-9"], 1, "give it more time"),
    ],
)
def test_mistakes_are_told(
    words: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong command and an impossible limit are findings, not tracebacks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.toml").write_text("[memory]\nmessage = [1, 2, 3]")
    (tmp_path / "pair.toml").write_text("[send]\n'0<->1' = 1")
    result = CliRunner().invoke(main, ["tune", *words])
    assert result.exit_code == status
    assert said in result.output


def test_blocks_hold_about_what_they_were_chosen_for() -> None:
    """Blocks have no collisions: each compiles, is certified, and holds about what was foreseen."""
    setting = Setting(4, 8)
    chosen = blocks(4, 10)
    assert len(chosen) > 200
    for block in chosen[::60]:
        trial = tried(block_recipe(block, 4, 8), setting)
        assert isinstance(trial, Trial)
        assert trial.peak <= block.held / 2 + 1.5


def test_blocks_that_hold_more_than_the_limit_are_not_compiled() -> None:
    """Within 2 activations at P=4 every block that is compiled fits, and there are some."""
    setting = Setting(4, 8, memory=Memory(limit=Limit.of(2)))
    jobs = [job for job in _blocks(setting) if isinstance(job, Compile)]
    assert jobs
    for job in jobs[:: max(1, len(jobs) // 6)]:
        assert not job.run(setting).refused


def test_a_block_with_free_slots_is_shorter_where_memory_is_short() -> None:
    """At P=8 within 3 activations a period of 8 slots is shorter than anything of the library."""
    setting = Setting(8, 24, memory=Memory(limit=Limit.of(3)))
    block = Block(8, (1, 1, 1, 1, 3, 1, 3), 6, 0)
    trial = tried(block_recipe(block, 8, 24), setting)
    best = tried(next(one for one in library(8, 24) if one.title == "zbv-greedy most=6"), setting)
    assert isinstance(trial, Trial) and isinstance(best, Trial)
    assert trial.makespan == 94 < best.makespan


def test_what_could_not_be_written_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is missing, one file for two results, what is read: nothing is searched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipec.cli.tuning.search", lambda *_: pytest.fail("searched"))
    (tmp_path / "costs.toml").write_text("F = 2")
    for words, said in [
        ("-o none/best.plan", "there is no folder for none/best.plan"),
        ("--text .", ". is a folder"),
        ("-o best --svg best", "best is named twice"),
        ("--costs costs.toml -o costs.toml", "costs.toml is the costs file itself"),
        ("--memory costs.toml --svg costs.toml", "costs.toml is the memory file itself"),
    ]:
        result = CliRunner().invoke(main, ["tune", "P=2", "M=4", *words.split()])
        assert result.exit_code == 2 and said in result.stderr
    assert (tmp_path / "costs.toml").read_text() == "F = 2"


def test_all_may_cost_nothing() -> None:
    """Then every schedule is as short as the best."""
    words = "tune P=2 M=2 --cost F=0,B=0,W=0 --candidates 5 --placements linear"
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 0, result.output
    assert "longer" not in result.stdout


def test_a_signal_ends_the_search_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found until then is printed and written, also when it is asked to end twice."""

    def asked_to_end(*given: Any) -> Iterator[State]:
        try:
            for state in search(*given):
                yield state
                if state.front:
                    os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("pipec.cli.tuning.search", asked_to_end)
    plan, before = tmp_path / "best.plan", multiprocessing.active_children()
    result = CliRunner().invoke(main, ["tune", "P=2", "M=2", "-o", str(plan)])
    assert result.exit_code == 0, result.output
    assert "interrupted: what was found until now follows" in result.stderr
    assert "every line is certified" in result.stdout and load_plan(plan).certificate["ok"]
    assert set(multiprocessing.active_children()) <= set(before)


def test_an_interrupt_loses_nothing(monkeypatch: pytest.MonkeyPatch, found: State) -> None:
    """Ctrl-C ends the search, and what was found until then is certified and printed; another one
    while that is done changes nothing.
    """

    def interrupted(*_: object) -> Iterator[State]:
        yield found
        os.kill(os.getpid(), signal.SIGINT)

    def again(*given: Any) -> list[Point]:
        os.kill(os.getpid(), signal.SIGINT)
        return points(*given)

    monkeypatch.setattr(tuning, "search", interrupted)
    monkeypatch.setattr(tuning, "points", again)
    words = ["tune", "P=2", "M=3", "--cost", "F=1,B=1.2,W=0.8,send=0.05"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "interrupted" in result.output
    assert f"{float(found.front[0].makespan):g}" in result.output
