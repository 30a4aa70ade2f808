"""The library as a table: what each schedule is, its bubble and its peak."""

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from pipec.library import Entry
from pipec.simulate.report import Report

_TEXTS = ("constraints", "what it is")
_FIGURES = ("schedule", "parameters", "bubble", "peak")
_AT_SIZE = ("schedule", "bubble", "=", "peak", "=")
_GAP, _LEAST = 3, 12
"""What stands between two columns; a text that is left less room than this is left out."""


def library_table(
    entries: Sequence[Entry], width: int, at_size: Mapping[str, Report] | None = None
) -> Table:
    """One line a schedule; what `width` leaves no room for is cut.

    at_size: the reports of those schedules that exist at a size, whose figures then stand beside
    the formulas.
    """
    heads = _FIGURES if at_size is None else _AT_SIZE
    rows = [_figures(entry, at_size) for entry in entries]
    texts = [("; ".join(entry.constraints), entry.summary) for entry in entries]
    taken = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    left = width - sum(taken) - _GAP * len(taken)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head == "=" else "left", no_wrap=True)
    widths = _widths([max(map(len, column)) for column in zip(_TEXTS, *texts, strict=True)], left)
    for head in _TEXTS[: len(widths)]:
        table.add_column(head, no_wrap=True)
    for row, text in zip(rows, texts, strict=True):
        table.add_row(*row, *(_cut(one, room) for one, room in zip(text, widths, strict=False)))
    table.columns[0].style = "bold"
    return table


def size_text(sizes: Mapping[str, int | bool], costs: str) -> str:
    """What the figures of the table hold for."""
    at = " ".join(f"{key}={value}" for key, value in sizes.items())
    return f"`=` is simulated at {at}, costs {costs}; a dash: not at this size\n"


def _figures(entry: Entry, at_size: Mapping[str, Report] | None) -> tuple[str, ...]:
    bubble, peak = _tight(entry.bubble), _tight(entry.peak)
    if at_size is None:
        return entry.name, ", ".join(entry.parameters), bubble, peak
    report = at_size.get(entry.name)
    if report is None:
        return entry.name, bubble, "-", peak, "-"
    idle = max(rank.bubble for rank in report.ranks)
    return entry.name, bubble, f"{float(idle):,.6g}", peak, report.peak_text


def _tight(formula: str | None) -> str:
    """A formula without spaces around its operators."""
    return re.sub(r" ([-+*/=%<>]+) ", r"\1", formula or "").replace(" where ", " if ")


def _widths(wanted: Sequence[int], left: int) -> list[int]:
    """How wide the texts are: the first as it wants to be, the next what is left."""
    widths: list[int] = []
    for want in wanted:
        room = min(want, left - _GAP * bool(widths))
        if room < _LEAST:
            break
        widths.append(room)
        left -= room + _GAP
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
