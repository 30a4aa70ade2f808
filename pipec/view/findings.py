"""Findings as a person reads them: place, source line, caret, expected, found, the way out."""

from collections.abc import Iterable

from rich.text import Text

from pipec.findings import Finding, PipecError, Place
from pipec.program.listing import text as instruction_text
from pipec.program.program import Table
from pipec.source import Source, Span

_AROUND = 1
"""Lines of listing shown before and after a place."""

_WIDEST = 160


def error_text(error: PipecError) -> Text:
    """All findings of an error."""
    return findings_text(error.findings, error.source)


def findings_text(
    findings: Iterable[Finding], source: Source | None, table: Table | None = None
) -> Text:
    """Findings one below the other; with a table, the listing around each place."""
    return Text("\n").join(_finding(finding, source, table) for finding in findings)


def _finding(finding: Finding, source: Source | None, table: Table | None) -> Text:
    text = Text()
    text.append(f"error[{finding.code}]", "bold red").append(f": {finding.message}\n", "bold")
    if source and finding.span:
        text.append(_excerpt(source, finding.span))
    for word, content in (("expected", finding.expected), ("found", finding.found)):
        if content:
            text.append(f"  {word}: ", "bold").append(f"{content}\n")
    for note in finding.notes:
        text.append("  - ", "bold").append(f"{note}\n")
    for place in finding.places:
        text.append(_window(place, source, table))
    if finding.hint:
        text.append("  hint: ", "bold cyan").append(f"{finding.hint}\n")
    return text


def _excerpt(source: Source, span: Span) -> Text:
    """The source line with a caret below what the span covers of it."""
    line, column = source.position(span.start)
    code = source.lines[line - 1]
    length = max(1, min(span.end - span.start, len(code) - column + 1))
    shift = max(0, column + min(length, 40) - _WIDEST)
    shown = code[shift : shift + _WIDEST].replace("\t", " ")
    gutter = f"{line:>5} | "
    text = Text().append(f"   --> {source.where(span)}\n", "blue")
    text.append(gutter, "blue").append(f"{shown}\n")
    caret = "^" * min(length, _WIDEST - (column - 1 - shift))
    blank = " " * (len(gutter) - 2) + "| " + " " * (column - 1 - shift)
    return text.append(blank, "blue").append(f"{caret}\n", "bold red")


def _window(place: Place, source: Source | None, table: Table | None) -> Text:
    """The instruction with its neighbours on the rank, and the text that made it."""
    origin = f"    {source.where(place.span)}" if source and place.span else ""
    if table is None:
        line = f"  rank {place.rank}, index {place.index}: {place.instruction}"
        return Text(line).append(f"{origin}\n", "blue")
    begin, stop = int(table.start[place.rank]), int(table.start[place.rank + 1])
    text = Text().append(f"  rank {place.rank}\n", "bold")
    row = begin + place.index
    for near in range(max(begin, row - _AROUND), min(stop, row + _AROUND + 1)):
        line = instruction_text(table.instruction(near))
        if near == row:
            text.append(f"  >{near - begin:>6}  {line}", "bold").append(f"{origin}\n", "blue")
        else:
            text.append(f"   {near - begin:>6}  {line}\n", "dim")
    return text
