"""Lines and blocks: indentation is read here, so the grammar only ever sees one line.

A *logical line* ends at a newline that stands outside of brackets and strings. Because each line is
parsed alone, a mistake in one never hides a mistake in another.
"""

import re
from dataclasses import dataclass, field

from pipec.findings import Finding
from pipec.source import Source, Span

LARGEST_TEXT = 100_000
DEEPEST = 40

_TOKEN = re.compile(
    r'''(?P<doc>"""(?:[^\\]|\\.)*?""")
      | (?P<doc_cut>""".*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<string_cut>"[^\n]*)
      | (?P<comment>\#[^\n]*)
      | (?P<open>[(\[])
      | (?P<close>[)\]])
      | (?P<newline>\n)
      | (?P<space>[ \t\r]+)
      | (?P<other>[^"\#()\[\]\n \t\r]+)''',
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Line:
    """One logical line: its code (never empty) and the comment behind it, as spans."""

    indent: int
    code: Span
    comment: Span | None = None


@dataclass(frozen=True)
class Block:
    """A line and the lines that stand indented below it."""

    line: Line
    inner: "tuple[Block, ...]" = ()


@dataclass
class Layout:
    """The lines of a text in order, the comments that have a line of their own, and mistakes."""

    lines: list[Line] = field(default_factory=list)
    comments: list[Span] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    sure: bool = True
    """Whether the indentation can be trusted: with tabs in it, it may mean anything."""


def layout(source: Source) -> Layout:
    """Split a text into logical lines."""
    result = Layout()
    if len(source.text) > LARGEST_TEXT:
        result.findings.append(
            Finding(
                "syntax",
                "the text is too long",
                Span(LARGEST_TEXT, LARGEST_TEXT + 1),
                f"at most {LARGEST_TEXT:,} characters",
                f"{len(source.text):,}",
            )
        )
        return result
    brackets: list[re.Match[str]] = []
    first = last = -1
    comment: Span | None = None

    def end_line() -> None:
        nonlocal first, comment
        if brackets:
            result.findings.append(_unclosed(brackets.pop()))
            brackets.clear()
        if first >= 0:
            result.lines.append(_line(source, Span(first, last), comment, result.findings))
        elif comment:
            result.comments.append(comment)
        first, comment = -1, None

    for token in _TOKEN.finditer(source.text):
        match token.lastgroup:
            case "newline":
                if not brackets or not _continues(source, token.end(), first):
                    end_line()
                continue
            case "space":
                continue
            case "comment" if brackets:
                result.comments.append(Span(*token.span()))
                continue
            case "comment":
                comment = Span(*token.span())
                continue
            case "doc_cut" | "string_cut":
                result.findings.append(_unclosed_string(token))
                brackets.clear()
            case "open":
                brackets.append(token)
                if len(brackets) == DEEPEST:
                    result.findings.append(_too_deep("brackets", Span(*token.span())))
            case "close" if brackets:
                brackets.pop()
        first = token.start() if first < 0 else first
        last = token.end()
    end_line()
    result.sure = not any(finding.found == _TAB for finding in result.findings)
    return result


_TAB = "a tab"
_BEGIN = re.compile(r"([ \t]*)([^\s]?)")


def _continues(source: Source, next_line: int, first: int) -> bool:
    """Inside brackets a line goes on if the next one is blank, indented deeper, or begins with a
    bracket's end.
    """
    begin = _BEGIN.match(source.text, next_line)
    assert begin
    if not begin[2]:
        return begin.end() < len(source.text)
    column = first - source.text.rfind("\n", 0, first) - 1
    return begin[2] in ")]" or len(begin[1].expandtabs(4)) > column


def _line(source: Source, code: Span, comment: Span | None, findings: list[Finding]) -> Line:
    begin = source.text.rfind("\n", 0, code.start) + 1
    blank = source.text[begin : code.start]
    if "\t" in blank:
        at = begin + blank.index("\t")
        findings.append(
            Finding(
                "syntax",
                "a tab in the indentation",
                Span(at, at + 1),
                "spaces",
                _TAB,
                "indent by four spaces",
            )
        )
    return Line(len(blank.expandtabs(4)), code, comment)


def _unclosed_string(token: re.Match[str]) -> Finding:
    long = token.lastgroup == "doc_cut"
    message = "a docstring is not closed" if long else "a string is not closed"
    closing = 'a closing `"""`' if long else 'a closing `"` on the same line'
    found = "the end of the text" if long else "the end of the line"
    return Finding("syntax", message, Span(*token.span()), closing, found)


def _unclosed(bracket: re.Match[str]) -> Finding:
    closing = {"(": "`)`", "[": "`]`"}[bracket.group()]
    message, found = f"`{bracket.group()}` is not closed", "the end of the line"
    return Finding("syntax", message, Span(*bracket.span()), closing, found)


def _too_deep(what: str, span: Span) -> Finding:
    message = f"{what} stand too deep in each other"
    return Finding("syntax", message, span, f"fewer than {DEEPEST}", "more")


def blocks(layout: Layout) -> tuple[Block, ...]:
    """Nest the lines by indentation; an indentation that fits nowhere is a finding."""
    root: list[Block] = []
    open_blocks: list[tuple[int, Line | None, list[Block]]] = [(-1, None, root)]
    for line in layout.lines:
        while line.indent <= open_blocks[-1][0]:
            _close(open_blocks)
        siblings = open_blocks[-1][2]
        if layout.sure and siblings and line.indent != siblings[0].line.indent:
            layout.findings.append(_misplaced(line, siblings[0].line.indent))
        if len(open_blocks) > DEEPEST:
            layout.findings.append(_too_deep("blocks", line.code))
            break
        siblings.append(Block(line))
        open_blocks.append((line.indent, line, []))
    while len(open_blocks) > 1:
        _close(open_blocks)
    return tuple(root)


def _misplaced(line: Line, indent: int) -> Finding:
    return Finding(
        "syntax",
        "this indentation fits no line above",
        line.code,
        f"{indent} spaces",
        f"{line.indent}",
    )


def _close(open_blocks: list[tuple[int, Line | None, list[Block]]]) -> None:
    _, line, inner = open_blocks.pop()
    if line and inner:
        open_blocks[-1][2][-1] = Block(line, tuple(inner))
