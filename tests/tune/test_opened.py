"""Schedules whose chunks have parts are compared as they are."""

import pytest
from click.testing import CliRunner

import pipec
from pipec.cli import main
from pipec.findings import PipecError
from pipec.program.costs import Costs
from pipec.program.cut import cut_layers
from pipec.program.memory import Memory
from pipec.program.parts import layout_text, parse_layout
from pipec.tune.points import points
from pipec.tune.search import Budget, search
from pipec.tune.setting import Setting

LAYERS = "2 x attention dispatch mlp combine"
PARTS = {f"{kind}.{part}": 1 for kind in "FBW" for part in ("attention", "mlp")}
COSTS = Costs.of({**PARTS, "dispatch": 1, "combine": 1, "send": "0.1"})
OPENED = Setting(4, 8, COSTS, Memory(), layers=parse_layout(LAYERS))


def test_a_library_schedule_is_what_the_compiler_makes_of_it() -> None:
    """The same makespan as under `layers`; bounds are below it; only texts are compared."""
    state = list(search(OPENED, ("linear", "bidirectional"), Budget(120)))[-1]
    plan = pipec.compile("dualpipe", P=4, M=8, costs=COSTS, layers=LAYERS)
    own = [one for one in state.trials if one.recipe.name == "dualpipe"]
    assert [float(one.makespan) for one in own] == [plan.certificate["makespan"]]
    assert own[0].opened
    proved = points(state.front, OPENED)
    assert all(0 < point.bound <= point.trial.makespan for point in proved)
    assert {one.recipe.origin for one in state.trials} <= {"library", "policy"}


def test_stages_have_their_share_of_the_layers() -> None:
    """Half a piece has half the layers, two pieces have them all; others are not alike."""
    parts = parse_layout("2 x attention dispatch mlp combine")
    assert layout_text(cut_layers(parts, 4, 8)) == "attention dispatch mlp combine | out"
    assert layout_text(cut_layers(parts, 4, 2)) == "4 x attention dispatch mlp combine | out"
    assert cut_layers(parts, 4, 4) == parts
    for text, stages in ((LAYERS, 12), ("attention mlp | head", 8)):
        with pytest.raises(ValueError, match="do not make"):
            cut_layers(parse_layout(text), 4, stages)
    with pytest.raises(PipecError, match="8 layers do not make 12 stages"):
        OPENED.layers_of(12)


def test_what_is_left_out_is_said() -> None:
    """The searches that know no parts; a part that there is not is refused."""
    words = ["tune", "P=2", "M=4", "--candidates", "80", "--placements", "linear"]
    opened = [*words, "--layers", "attention dispatch mlp combine"]
    shown = CliRunner().invoke(main, [*opened, "--cost", "F.mlp=2,dispatch=1"])
    assert shown.exit_code == 0, shown.output
    assert "cycles, moved orders and the solver are left out" in shown.stdout
    wrong = CliRunner().invoke(main, [*opened, "--cost", "F.mpl=2"])
    assert wrong.exit_code != 0 and "no chunk has a part `mpl`" in wrong.output
    closed = CliRunner().invoke(main, [*words, "--cost", "F.mlp=2"])
    assert closed.exit_code != 0 and "no chunk has a part `mlp`" in closed.output
