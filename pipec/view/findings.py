"""Findings as a person reads them: place, source line, caret, expected, found, the way out."""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.text import Text

from pipec.findings import Finding, PipecError, Place, Severity
from pipec.program.listing import text as instruction_text
from pipec.program.program import Table
from pipec.source import Source, Span

_AROUND = 1
"""Lines of listing shown before and after a place."""

_WIDEST = 160

_COLOURS = {
    Severity.CORRUPTION: "bold white on red",
    Severity.DEADLOCK: "bold red",
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
}


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
    name, colour = finding.severity.name.lower(), _COLOURS[finding.severity]
    text.append(f"{name}[{finding.code}]", colour).append(f": {finding.message}\n", "bold")
    if source and finding.span:
        text.append(_excerpt(source, finding.span))
    for word, content in (("expected", finding.expected), ("found", finding.found)):
        if content:
            text.append(f"  {word}: ", "bold").append(f"{content}\n")
    for note in finding.notes:
        text.append("  - ", "bold").append(f"{note}\n")
    text.append(_windows(finding.places, source, table))
    if finding.hint:
        text.append("  hint: ", "bold cyan").append(f"{finding.hint}\n")
    return text


def _excerpt(source: Source, span: Span) -> Text:
    """The source line with a caret below what the span covers of it."""
    line, column = source.position(span.start)
    code = source.lines[line - 1]
    length = max(1, min(span.end - span.start, len(code) - column + 1))
    shift = max(0, column + min(length, 40) - _WIDEST)
    shown = _visible(code[shift : shift + _WIDEST])
    before, marked = shown[: column - 1 - shift], shown[column - 1 - shift :][:length]
    gutter = f"{line:>5} | "
    text = Text().append(f"   --> {source.where(span)}\n", "blue")
    text.append(gutter, "blue").append(f"{shown}\n")
    text.append(" " * (len(gutter) - 2) + "| " + " " * cell_len(before), "blue")
    return text.append(f"{'^' * max(1, cell_len(marked))}\n", "bold red")


def _visible(code: str) -> str:
    """Code as a terminal may show it: a tab is one space, control characters are boxes."""
    plain = code.replace("\t", " ").rstrip("\r")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in plain
    )


def _windows(places: Sequence[Place], source: Source | None, table: Table | None) -> Text:
    """The instructions with their neighbours, rank by rank, and the text that made each."""
    if table is None:
        lines = [f"  rank {at.rank}, index {at.index}: {at.instruction}" for at in places]
        origins = [_origin(place, source) for place in places]
        return Text("").join(
            Text(line).append(f"{origin}\n", "blue")
            for line, origin in zip(lines, origins, strict=True)
        )
    text = Text()
    for rank in sorted({place.rank for place in places}):
        here = {place.index: place for place in places if place.rank == rank}
        text.append(_stream(rank, here, source, table))
    return text


def _stream(rank: int, here: dict[int, Place], source: Source | None, table: Table) -> Text:
    """The places of one rank in its listing, with what stands around them."""
    begin, count = int(table.start[rank]), int(table.start[rank + 1] - table.start[rank])
    around = range(-_AROUND, _AROUND + 1)
    shown = {index + step for index in here for step in around if 0 <= index + step < count}
    text, before = Text().append(f"  rank {rank}\n", "bold"), min(shown) - 1
    for index in sorted(shown):
        if index != before + 1:
            text.append("      ...\n", "dim")
        line = instruction_text(table.instruction(begin + index))
        if index in here:
            origin = _origin(here[index], source)
            text.append(f"  >{index:>6}  {line}", "bold").append(f"{origin}\n", "blue")
        else:
            text.append(f"   {index:>6}  {line}\n", "dim")
        before = index
    return text


def _origin(place: Place, source: Source | None) -> str:
    return f"    {source.where(place.span)}" if source and place.span else ""
