"""Parts in the terminal: two lines per rank, compute and all-to-all, time from left to right."""

from rich.text import Text

from pipec.simulate.timeline import Timeline
from pipec.view.colours import colour
from pipec.view.lanes import LANES, Stroke, lanes

Window = tuple[int, int]
"""From when to when, in ticks."""

_SMALLEST = 20


def parts_text(time: Timeline, width: int, window: Window | None = None) -> Text:
    """Both lanes of every rank in `width` columns: `F3 mlp` is the mlp of forward 3.

    window: the time that is drawn; all of it unless stated.
    """
    ranks = lanes(time)
    last = max((stroke.end for both in ranks for lane in both for stroke in lane), default=1)
    begin, end = window or (0, last)
    label = len(f"rank {len(ranks) - 1} {max(LANES, key=len)} ")
    columns = max(width - label, _SMALLEST)
    text = Text()
    for number, both in enumerate(ranks):
        for lane, (name, strokes) in enumerate(zip(LANES, both, strict=True)):
            head = f"rank {number}" if lane == 0 else ""
            text.append(head.ljust(label - len(name) - 1), "bold").append(f"{name} ", "dim")
            text.append(_line(strokes, begin, end, columns)).append("\n")
    right = f"{float(time.units(end)):g}"
    left = f"{float(time.units(begin)):g}"
    return text.append(" " * label + left + right.rjust(columns - len(left)), "dim")


def _line(strokes: list[Stroke], begin: int, end: int, columns: int) -> Text:
    text, place = Text(), 0
    for stroke in strokes:
        if stroke.end <= begin or stroke.begin >= end:
            continue
        left, right = (
            (min(max(at, begin), end) - begin) * columns // (end - begin)
            for at in (stroke.begin, stroke.end)
        )
        text.append("·" * (left - place), "dim")
        text.append(_cell(stroke, right - left), f"black on {colour(stroke.kind, stroke.shade)}")
        place = right
    return text.append("·" * (columns - place), "dim")


def _cell(stroke: Stroke, width: int) -> str:
    """As much of `F3 attention` as fits: the kind before all."""
    whole = f"{stroke.kind.name}{stroke.microbatch} {stroke.part}"
    if width > len(f"{stroke.kind.name}{stroke.microbatch}"):
        return whole[: width - 1].ljust(width)
    return stroke.kind.name[:width].ljust(width)
