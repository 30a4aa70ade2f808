"""Pictures: well-formed, nothing outside of the frame, every operation drawn and told apart."""

import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from pipec.compiler import Settings, build
from pipec.program.costs import Costs, durations
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.simulate.report import report
from pipec.simulate.timeline import simulate
from pipec.simulate.usage import usage
from pipec.view.marks import breadth, ticks
from pipec.view.svg import timeline_svg

SVG = "{http://www.w3.org/2000/svg}"
CASES = [
    ("1f1b", {"P": 1, "M": 1}, {}),
    ("dualpipe", {"P": 4, "M": 8}, {"F&B": 3}),
    ("dualpipe", {"P": 4, "M": 8}, {"F&B": "serial"}),
    ("interleaved", {"P": 2, "M": 120, "v": 6}, {"F": "0.01"}),
    ("zbv", {"P": 12, "M": 24}, {"W": 0, "send": "0.2"}),
    ("forward", {"P": 3, "M": 2}, {}),
]


def drawn(name: str, sizes: dict[str, int], costs: dict[str, object], title: str) -> ET.Element:
    compiled = build(name, sizes, Settings(Costs.of(costs)))
    serial = compiled.costs.serial
    graph = event_graph(compiled.program, Links(compiled.program), Channels(), not serial)
    time = simulate(graph, durations(compiled.program, compiled.costs)).timeline
    used = usage(compiled.memory, time)
    caption = str(compiled.costs)
    return ET.fromstring(timeline_svg(time, report(time, used), title, used, caption))


@pytest.mark.parametrize(("name", "sizes", "costs"), CASES)
def test_everything_is_inside(name: str, sizes: dict[str, int], costs: dict[str, object]) -> None:
    """No box and no text, however long the title, reaches out of the picture."""
    picture = drawn(name, sizes, costs, f"<{name}> & " + "WiDe " * 400)
    width, height = float(picture.get("width", 0)), float(picture.get("height", 0))
    for box in picture.iter(f"{SVG}rect"):
        if box.get("class") == "back":
            continue
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert x >= 0 and x + float(box.get("width", 0)) <= width
        assert y >= 0 and y + float(box.get("height", 0)) <= height
    for text in picture.iter(f"{SVG}text"):
        left, right = _extent(text)
        assert left >= 0 and right <= width, text.text
        assert 0 < float(text.get("y", 0)) <= height


def _extent(text: ET.Element) -> tuple[float, float]:
    style = text.get("class", "").split()
    size = next(
        (s for name, s in (("title", 15), ("small", 9.5), ("half", 9)) if name in style), 11
    )
    x, taken = float(text.get("x", 0)), breadth(text.text or "", size)
    if "end" in style:
        return x - taken, x
    if {"middle", "cell"} & set(style):
        return x - taken / 2, x + taken / 2
    return x, x + taken


@pytest.mark.parametrize(("name", "sizes", "costs"), CASES)
def test_every_operation_is_drawn_once(
    name: str, sizes: dict[str, int], costs: dict[str, object]
) -> None:
    """There is one box with details for every compute operation."""
    picture = drawn(name, sizes, costs, name)
    hovers = [title.text or "" for title in picture.iter(f"{SVG}title")]
    operations = Counter(text.split(":")[0] for text in hovers if " microbatch " in text)
    count = len(build(name, sizes).program.compute)
    assert operations.total() == count
    unlike = {text.removesuffix(", in an OVERLAP") for text in operations}
    assert len(unlike) == count


def test_an_overlap_is_two_boxes_one_above_the_other() -> None:
    """The halves of an OVERLAP take the same time and differ in height and colour; a frame joins
    them.
    """
    picture = drawn("dualpipe", {"P": 4, "M": 8}, {}, "t")
    boxes = [b for b in picture.iter(f"{SVG}rect") if "OVERLAP" in "".join(b.itertext())]
    assert boxes
    for first, second in zip(boxes[::2], boxes[1::2], strict=True):
        assert first.get("x") == second.get("x") and first.get("width") == second.get("width")
        assert float(second.get("y", 0)) == float(first.get("y", 0)) + 14
        assert first.get("fill") != second.get("fill")
    frames = [b for b in picture.iter(f"{SVG}rect") if b.get("class") == "frame"]
    assert len(frames) == len(boxes) // 2 + 1  # and one in the legend


def test_kinds_and_flows_have_their_own_colours() -> None:
    """Every kind of every flow has a colour of its own."""
    picture = drawn("dualpipe", {"P": 8, "M": 20}, {}, "t")
    colours: dict[str, set[str]] = {}
    for box in picture.iter(f"{SVG}rect"):
        words = "".join(box.itertext()).split(",")[0]
        if " of flow " in words:
            colours.setdefault(words, set()).add(box.get("fill", ""))
    assert len(colours) == 8
    assert all(len(fills) == 1 for fills in colours.values())
    assert len(set().union(*colours.values())) == 8


@pytest.mark.parametrize("last", [0.003, 1, 26, 99.5, 4_000, 1e7])
def test_ticks_are_round_and_few(last: float) -> None:
    """Times on the axis have at most two digits that matter, and stay within the picture."""
    values = ticks(last, 10)
    assert values[0] == 0 and values[-1] <= last * (1 + 1e-9)
    assert 4 <= len(values) <= 11
    assert all(len(f"{value:.3e}".split("e")[0].rstrip("0").rstrip(".")) <= 4 for value in values)
