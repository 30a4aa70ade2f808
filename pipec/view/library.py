"""The library as a table: what each schedule is, its bubble and its peak."""

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import JustifyMethod
from rich.table import Table

from pipec.findings import Finding
from pipec.library import Entry
from pipec.simulate.report import Report

_HEADS = ("schedule", "parameters", "bubble", "peak", "constraints", "what it is")
_FORMULAS = ("bubble as formula", "peak as formula")
_AT_SIZE = ("schedule", "bubble", "peak", *_FORMULAS, "constraints", "what it is")
_GAP, _LEAST, _EDGES = 3, 12, 2
"""What stands between two columns; a text that is left less room is left out; the two edges."""


def library_table(
    entries: Sequence[Entry], width: int, at_size: Mapping[str, Report | Finding] | None = None
) -> Table:
    """One line a schedule; what `width` leaves no room for is cut.

    at_size: the reports of all schedules at a size, which then stand before the formulas; or why
    one cannot be at that size, which stands in their place.
    """
    heads, firm = (_HEADS, 4) if at_size is None else (_AT_SIZE, 3)
    rows = [_row(entry, at_size) for entry in entries]
    wanted = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    left = width - sum(wanted[:firm]) - _GAP * firm - _EDGES
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    widths = [*wanted[:firm], *_widths(wanted[firm:], left)]
    figures = () if at_size is None else (1, 2)
    for number, head in enumerate(heads[: len(widths)]):
        justify: JustifyMethod = "right" if number in figures else "left"
        table.add_column(head, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_cut(one, room) for one, room in zip(row, widths, strict=False)))
    table.columns[0].style = "bold"
    return table


def size_text(sizes: Mapping[str, int | bool], costs: str) -> str:
    """What the figures of the table hold for."""
    at = " ".join(f"{key}={value}" for key, value in sizes.items())
    return f"simulated at {at}, costs {costs}; a dash: not at this size, and why\n"


def _row(entry: Entry, at_size: Mapping[str, Report | Finding] | None) -> tuple[str, ...]:
    formulas = _tight(entry.bubble), _tight(entry.peak)
    texts = "; ".join(entry.constraints), entry.summary
    if at_size is None:
        return entry.name, ", ".join(entry.parameters), *formulas, *texts
    report = at_size[entry.name]
    if isinstance(report, Finding):
        return entry.name, "-", "-", reason(report), "", *texts
    idle = max(rank.bubble for rank in report.ranks)
    return entry.name, f"{float(idle):,.6g}", report.peak_text, *formulas, *texts


def reason(finding: Finding) -> str:
    """Why a schedule is not at a size, in a few words."""
    if finding.code == "require" and finding.expected:
        return f"needs {_tight(finding.expected)}".replace("`", "")
    if finding.code == "memory-limit":
        return f"holds {finding.found}, expected {finding.expected}"
    return finding.message.replace("`", "")


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
