"""A Pareto front for people: a table, and a picture for the terminal and as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor
from string import ascii_lowercase

from rich.table import Table
from rich.text import Text

from pipec.amounts import amount_text
from pipec.tune.points import Point
from pipec.tune.recipe import Trial
from pipec.view.marks import STYLE, ticks, word
from pipec.view.tables import plain_table

_WIDTH, _HEIGHT = 64, 14
"""Cells of the terminal's picture."""


def front_table(points: Sequence[Point]) -> Table:
    """One line a schedule, the shortest first; a letter says which mark of the picture it is."""
    table = plain_table("", "makespan", "bound", "gap", "peak memory", "parameters", "schedule")
    for number, point in enumerate(points):
        trial, report = point.trial, point.certificate.report
        assert report
        gap = "optimal" if point.gap < 1e-9 else f"{point.gap:.1%}"
        table.add_row(
            mark(number),
            f"{float(trial.makespan):,.6g}",
            f"{float(point.bound):,.6g}",
            Text(gap, "bold green" if gap == "optimal" else ""),
            report.peak_text,
            f"{trial.copies}x",
            Text(said(trial), "bold" if number == 0 else ""),
        )
    table.columns[-1].justify = "left"
    return table


def said(trial: Trial) -> str:
    """A schedule with where it comes from: `zbv most=12 (library, v)`."""
    return f"{trial.recipe.title} ({trial.recipe.origin}, {trial.placement})"


REASONS = {
    "memory-limit": "would hold more than the limit",
    "policy": "get stuck",
    "deadlock": "deadlock under the channels",
    "require": "are not made for this size",
    "value": "have a parameter that cannot be",
    "parts": "have stages that the layers do not divide among",
    "forward-only": "have no backward",
}
"""Why candidates come to nothing, by the code of the finding."""


def refused_text(refused: Mapping[str, int], most: int = 3) -> str:
    """The most frequent reasons for which candidates came to nothing: `12 get stuck, ...`."""
    counted = sorted(refused.items(), key=lambda one: (-one[1], one[0]))
    said = [f"{count:,} {REASONS.get(code, f'have a finding `{code}`')}" for code, count in counted]
    more = sum(count for _, count in counted[most:])
    return ", ".join([*said[:most], *([f"{more:,} for other reasons"] if more else [])])


def mark(number: int) -> str:
    """The letter of a point."""
    return ascii_lowercase[number] if number < len(ascii_lowercase) else "*"


def front_text(points: Sequence[Point], others: Sequence[Trial]) -> str:
    """Makespan over peak memory in characters: letters are the front, dots what was tried too."""
    shown = [_at(point.trial) for point in points]
    frame = _frame(shown)
    cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for trial in others:
        x, y = _place(frame, *_at(trial))
        if 0 <= x <= 1 and 0 <= y <= 1:
            cells[round((1 - y) * (_HEIGHT - 1))][round(x * (_WIDTH - 1))] = "·"
    for number, at in reversed(list(enumerate(shown))):
        x, y = _place(frame, *at)
        cells[round((1 - y) * (_HEIGHT - 1))][round(x * (_WIDTH - 1))] = mark(number)
    left, right, low, high = frame
    head = f"{high:>10,.6g} "
    rows = [
        f"{head if row == 0 else '':>11}|{''.join(line).rstrip()}" for row, line in enumerate(cells)
    ]
    rows[-1] = f"{low:>10,.6g} |{rows[-1].partition('|')[2]}"
    in_bytes = _in_bytes(points)
    ends = amount_text(left, in_bytes), amount_text(right, in_bytes)
    scale = f"{ends[0]}{ends[1]:>{_WIDTH - len(ends[0])}}"
    return "\n".join(
        ["  makespan", *rows, f"{'':11}+{'-' * _WIDTH}", f"{'':12}{scale}  peak memory"]
    )


def _in_bytes(points: Sequence[Point]) -> bool:
    report = points[0].certificate.report
    return bool(report and report.in_bytes)


def _at(trial: Trial) -> tuple[float, float]:
    """Where a schedule stands: its peak and its makespan."""
    return float(trial.peak), float(trial.makespan)


Frame = tuple[float, float, float, float]


def _frame(shown: Sequence[tuple[float, float]]) -> Frame:
    """Left, right, low and high of what is drawn."""
    peaks, times = [at[0] for at in shown], [at[1] for at in shown]
    return min(peaks), max(peaks), min(times), max(times)


def _place(frame: Frame, peak: float, time: float) -> tuple[float, float]:
    """Shares of the width and the height."""
    left, right, low, high = frame
    x = (peak - left) / (right - left) if right > left else 0.0
    return x, (time - low) / (high - low) if high > low else 0.0


def front_svg(points: Sequence[Point], others: Sequence[Trial], title: str) -> str:
    """The same picture as SVG; a line leads from each point of the front down to its bound."""
    shown = [_at(point.trial) for point in points]
    below = [(x, float(point.bound)) for (x, _), point in zip(shown, points, strict=True)]
    frame = _frame([*shown, *below])
    drawn = [*_axes(frame, _in_bytes(points))]
    for trial in others:
        x, y = _place(frame, *_at(trial))
        if 0 <= x <= 1 and 0 <= y <= 1:
            drawn.append(_dot(x, y, 2, "faint", said(trial)))
    for number, (point, at, bound) in enumerate(zip(points, shown, below, strict=True)):
        x, y = _place(frame, *at)
        drawn.append(
            f'<line class="grid" x1="{_x(x):.1f}" x2="{_x(x):.1f}" '
            f'y1="{_y(y):.1f}" y2="{_y(_place(frame, *bound)[1]):.1f}"/>'
        )
        figures = f"{at[1]:,.6g}, bound {bound[1]:,.6g}"
        drawn.append(_dot(x, y, 4.5, "point", f"{said(point.trial)}: {figures}"))
        drawn.append(word(_x(x) + 7, _y(y) - 5, mark(number), "small"))
    style = STYLE + " .point { fill: #1f77b4 } circle.faint { fill: #b8c0c8 }"
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" width="720" height="420" '
            'viewBox="0 0 720 420" role="img">',
            f"<title>{escape(title)}</title><style>{style}</style>",
            '<rect class="back" width="100%" height="100%" rx="6"/>',
            word(14, 24, title, "title"),
            word(14, 42, "makespan over peak memory; lines lead down to the bound", "faint"),
            *drawn,
            "</svg>\n",
        ]
    )


def _x(share: float) -> float:
    return 80 + share * 600


def _y(share: float) -> float:
    return 370 - share * 300


def _dot(x: float, y: float, size: float, style: str, hover: str) -> str:
    return (
        f'<circle class="{style}" cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="{size}">'
        f"<title>{escape(hover)}</title></circle>"
    )


def _axes(frame: Frame, in_bytes: bool) -> list[str]:
    left, right, low, high = frame
    drawn = []
    for mark in _round(low, high, 6):
        y = _y(_place(frame, left, mark)[1])
        drawn.append(f'<line class="grid" x1="80" x2="680" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(word(74, y + 4, f"{mark:g}", "faint small end"))
    for mark in _round(left, right, 8):
        x = _x(_place(frame, mark, low)[0])
        drawn.append(word(x, 390, amount_text(mark, in_bytes), "faint small middle"))
    drawn.append(word(680, 408, "peak memory", "faint small end"))
    drawn.append(word(74, 60, "makespan", "faint small end"))
    return drawn


def _round(low: float, high: float, count: int) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    known = list(ticks(high - low, count))
    step = known[1] - known[0] if len(known) > 1 else 0
    if not step:
        return [low]
    return [
        number * step for number in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    ]
