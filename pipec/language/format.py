"""The formatter: one way to write a text. It moves white space only, so the meaning cannot change.

Indentation is four spaces a level; what stands behind a `:` in neighbouring lines of one sort, the
`=` of neighbouring `let`s and neighbouring comments are aligned.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipec.findings import PipecError
from pipec.language.layout import Block, Line, blocks, layout
from pipec.language.parser import parse
from pipec.source import Source, Span

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|\n|\d+(?:\.\d+)?(?:[KMGT]?i?B)?(?!\w)|\w+|\.\.|\*\*|//'
    r"|<=|>=|==|!=|[^\s]",
    re.DOTALL,
)
_KINDS = frozenset(("F", "B", "W", "BW"))
_WORDS = frozenset("if else and or not in".split())
_BEFORE_VALUE = frozenset("( [ , = < > <= >= == != + - * / // % ** .. : &".split())
_TIGHT = frozenset(("/", "."))
_LANES = ("compute", "wire")
_INLINE = {"repeat": "repeat", "for": "for", "if": "if", "elif": "if", "else": "if"}
_BEFORE_OPERATIONS = frozenset((*_INLINE, *_LANES, "on"))
"""Lines that have operations behind their `:`."""


def format_text(source: Source) -> str:
    """The text in its one form. Raises `PipecError` if it cannot be read."""
    _, findings = parse(source)
    if findings:
        raise PipecError(findings, source)
    lines = layout(source)
    rows: list[_Row] = []
    _collect(source, blocks(lines), 0, rows)
    inside = [span for span in lines.comments if _within(span, lines.lines)]
    rows += _own_comments(source, [span for span in lines.comments if span not in inside], rows)
    rows.sort(key=lambda row: row.at)
    return _joined(_aligned_comments(_aligned_tails(_separated(source, rows))))


@dataclass(frozen=True)
class _Row:
    """One line to be written: `head` and `tail` are padded apart where neighbours align."""

    at: int
    until: int
    depth: int
    head: str
    tail: str = ""
    comment: str = ""
    sort: str = ""
    """Lines of one sort that follow each other align their tails."""
    apart: bool = False
    """Whether a blank line stands before it."""

    @property
    def code(self) -> str:
        return self.head + self.tail


def _collect(source: Source, found: Sequence[Block], depth: int, rows: list[_Row]) -> None:
    for block in found:
        rows.append(_row(source, block.line, depth))
        _collect(source, block.inner, depth + 1, rows)


def _row(source: Source, line: Line, depth: int) -> _Row:
    tokens = _TOKEN.findall(source.text, line.code.start, line.code.end)
    words = _spaced(tokens, depth)
    comment = source.text[line.comment.start : line.comment.end].rstrip() if line.comment else ""
    until = line.comment.end if line.comment else line.code.end
    row = _Row(line.code.start, until, depth, "".join(words), comment=comment)
    if "\n" in row.head:
        return row
    first = tokens[0]
    cut = None
    if first in _INLINE:
        ends = _header_end(tokens)
        cut = ends + 1 if ends is not None and ends + 1 < len(tokens) else None
    elif first == "let" or first == "flow" or first in _LANES:
        cut = 2
    if cut is None:
        return row
    head, tail = "".join(words[:cut]), "".join(words[cut:])
    return replace(
        row, head=head, tail=tail, sort=_INLINE.get(first, "lane" if first in _LANES else first)
    )


def _header_end(tokens: list[str]) -> int | None:
    """The place of the `:` that ends the header of a line."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += (token in "([") - (token in ")]")
        if token == ":" and depth == 0:
            return place
    return None


def _spaced(tokens: list[str], depth: int) -> list[str]:
    """The tokens, each with the white space before it."""
    brackets: list[str] = []
    operations = tokens[0] in _KINDS
    written: list[str] = []
    before = ""
    fresh = False
    for place, token in enumerate(tokens):
        if token == "\n":
            fresh = True
            continue
        closing = token in (")", "]")
        if closing and brackets:
            brackets.pop()
        if fresh:
            space = "\n" + "    " * (depth + (0 if closing and not brackets else 1))
        else:
            unary = before == "-" and _is_unary(tokens, place - 1)
            space = _space(before, token, unary, bool(brackets), operations)
        written.append(space + (token.rstrip() if token.startswith("#") else token))
        if token in ("(", "["):
            brackets.append(token)
        if token == ":" and not brackets and tokens[0] in _BEFORE_OPERATIONS:
            operations = True
        fresh = False
        before = token
    return written


def _is_unary(tokens: list[str], place: int) -> bool:
    earlier = [token for token in tokens[:place] if token != "\n" and not token.startswith("#")]
    return not earlier or earlier[-1] in _BEFORE_VALUE | _WORDS or not _is_value_end(earlier)


def _is_value_end(earlier: list[str]) -> bool:
    """Whether a value may end here, so that a `-` behind it is a subtraction."""
    last = earlier[-1]
    keyword = last in {"require", "repeat", "limit", "elif", "every", "at", "layers"}
    return bool(re.match(r"\w|[)\]]", last)) and not keyword


def _space(before: str, token: str, unary: bool, inside: bool, operations: bool) -> str:
    if not before:
        return ""
    if token.startswith("#"):
        return "  "
    if token in (")", "]", ",", ":") or before in ("(", "[") or unary:
        return ""
    if token in _TIGHT or before in _TIGHT:
        return ""
    if inside and (token == "=" or before == "="):
        return ""
    if token in ("(", "["):
        callee = before not in _WORDS and re.match(r"\w|\]", before) and before not in _HEADERS
        return "" if callee else " "
    if before == ":" and not inside:
        return "  " if operations else " "
    if operations and not inside and token in _KINDS and before != "&":
        return "  "
    return " "


_HEADERS = frozenset("require repeat for if elif in limit let every at layers".split())


# --- comments and blank lines ---------------------------------------------------------------------


def _within(span: Span, lines: Sequence[Line]) -> bool:
    return any(line.code.start <= span.start < line.code.end for line in lines)


def _own_comments(source: Source, spans: Sequence[Span], rows: Sequence[_Row]) -> list[_Row]:
    """A comment on a line of its own is indented like the line below it."""
    found = []
    for span in spans:
        after = [row for row in rows if row.at > span.start]
        depth = after[0].depth if after else 0
        text = source.text[span.start : span.end].rstrip()
        found.append(_Row(span.start, span.end, depth, text))
    return found


def _separated(source: Source, rows: Sequence[_Row]) -> list[_Row]:
    """Mark the rows that have a blank line above them."""
    ends = [0, *(row.until for row in rows)]
    return [
        replace(row, apart=end > 0 and source.text.count("\n", end, row.at) > 1)
        for row, end in zip(rows, ends, strict=False)
    ]


def _runs(rows: Sequence[_Row], key: Callable[[_Row], object]) -> list[list[_Row]]:
    """Rows that follow each other without a blank line and agree in `key`."""
    runs: list[list[_Row]] = []
    for row in rows:
        if runs and not row.apart and key(row) == key(runs[-1][-1]):
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _aligned_tails(rows: Sequence[_Row]) -> list[_Row]:
    aligned: list[_Row] = []
    for run in _runs(rows, lambda row: (row.sort, row.depth) if row.sort else row.at):
        widest = max(len(row.head) for row in run)
        aligned += [
            replace(row, head=row.head.ljust(widest) if row.tail else row.head) for row in run
        ]
    return aligned


def _aligned_comments(rows: Sequence[_Row]) -> list[_Row]:
    aligned: list[_Row] = []
    for run in _runs(rows, lambda row: row.depth):
        widest = max((len(row.code) for row in run if row.comment), default=0) + 2
        for row in run:
            code = row.code.ljust(widest) if row.comment else row.code
            aligned.append(replace(row, head=code, tail=""))
    return aligned


def _joined(rows: Sequence[_Row]) -> str:
    written: list[str] = []
    for row in rows:
        written += [""] if row.apart else []
        written.append("    " * row.depth + row.code + row.comment)
    return "\n".join(written) + "\n" if written else ""
