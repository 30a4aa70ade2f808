"""Pictures of parts: both lanes, every part once, and the stretch of time that is asked for."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from click.testing import CliRunner

from pipec.cli import main
from pipec.compiler import Settings, build, layers_of
from pipec.program.costs import Costs, durations
from pipec.program.effects import COMPUTE, EXPERTS
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.simulate.timeline import Timeline, simulate
from pipec.view.lanes import lanes
from pipec.view.parts_svg import parts_svg
from pipec.view.parts_text import parts_text

LAYERS = "2 x attention dispatch mlp combine"
COSTS = {"dispatch": "1.5", "combine": "1.5"} | {
    f"{kind}.{part}": 1 for kind in "FBW" for part in ("attention", "mlp")
}
SVG = "{http://www.w3.org/2000/svg}"


def timeline(name: str = "dualpipe") -> Timeline:
    settings = Settings(Costs.of(COSTS), layers=layers_of(LAYERS))
    compiled = build(name, {"P": 4, "M": 8}, settings)
    graph = event_graph(compiled.program, Links(compiled.program), Channels())
    return simulate(graph, durations(compiled.program, compiled.costs)).timeline


def test_every_part_is_on_its_lane() -> None:
    """Each row that takes time is one stroke, and the strokes of a lane do not overlap."""
    time = timeline()
    kinds = time.table.kind[time.end > time.begin]
    drawn = lanes(time)
    assert sum(len(both[0]) for both in drawn) == COMPUTE[kinds].sum()
    assert sum(len(both[1]) for both in drawn) == EXPERTS[kinds].sum()
    for both in drawn:
        for lane in both:
            assert all(one.end <= two.begin for one, two in pairwise(lane))


def test_picture_is_well_formed() -> None:
    """One box with its details for each part, inside the picture."""
    time = timeline()
    root = ET.fromstring(parts_svg(time, "a <title>", costs="F=1 & more " * 400))
    words = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert words[0] == "a <title>" and words[1].startswith("costs F=1 & more")
    assert words[1].endswith("…")
    boxes = [box for box in root.iter(f"{SVG}rect") if box.find(f"{SVG}title") is not None]
    assert len(boxes) == sum(len(lane) for both in lanes(time) for lane in both)
    for box in boxes:
        assert float(box.get("x", 0)) + float(box.get("width", 0)) <= float(root.get("width", 0))


@pytest.mark.parametrize("width", [40, 100, 237])
def test_lines_are_as_wide_as_asked(width: int) -> None:
    """Two lines a rank and an axis, each of the same width, whatever stretch is drawn."""
    time = timeline()
    for window in (None, (0, 20 * time.scale), (7, 8)):
        lines = parts_text(time, width, window).plain.split("\n")
        assert len(lines) == 2 * 4 + 1
        assert {len(line) for line in lines} == {width}


def test_the_overlap_of_figure_4_can_be_read() -> None:
    """Compute of one half stands above the all-to-all of the other."""
    args = ["show", "dualpipe", "P=4", "M=8", "--layers", LAYERS, "--parts", "--time", "36..49"]
    costs = [word for key, value in COSTS.items() for word in ("--cost", f"{key}={value}")]
    shown = CliRunner().invoke(main, [*args, *costs], env={"COLUMNS": "150"})
    assert shown.exit_code == 0
    assert "B0 mlp" in shown.output and "all-to-all" in shown.output


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--parts"], "says of none"),
        (["--time", "1..2"], "goes with --parts"),
        (["--parts", "--layers", LAYERS, "--time", "2..1"], "a range of time"),
        (["--parts", "--layers", LAYERS, "--time", "x"], "a range of time"),
        (["--parts", "--listing"], "cannot be shown at once"),
        (["--parts", "--format", "json"], "is a picture"),
    ],
)
def test_what_cannot_be_drawn(args: list[str], what: str) -> None:
    """Each mistake is said, and nothing is drawn."""
    shown = CliRunner().invoke(main, ["show", "1f1b", "P=2", "M=2", *args])
    assert shown.exit_code == 2
    assert what in shown.output
