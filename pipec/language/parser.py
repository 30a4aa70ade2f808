"""Text -> syntax tree. Each line is parsed alone, so all mistakes of a file are found at once."""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lark.exceptions import UnexpectedInput

from pipec.findings import Finding, Rejecting
from pipec.language import syntax as s
from pipec.language.build import Builder
from pipec.language.complaint import complaint
from pipec.language.layout import Block, Layout, blocks, layout
from pipec.language.tables import parser
from pipec.source import Source, Span

MOST_FINDINGS = 50

_Lines = list[tuple[Any, Block]]


def parse(source: Source) -> tuple[s.File, list[Finding]]:
    """Read a text. Where findings are returned, the tree holds `Broken` nodes and is fit for
    checking only.
    """
    lines = layout(source)
    tree = _Assembly(source, lines).file(blocks(lines))
    lines.findings.sort(key=lambda finding: finding.span or Span(0, 0))
    return tree, lines.findings[:MOST_FINDINGS]


def parse_expression(source: Source) -> tuple[s.Expression | None, list[Finding]]:
    """Read a text that is one expression; None where it cannot be read."""
    findings: list[Finding] = []
    try:
        tree = parser().parse(source.text, start="expression")
        return Builder(0, findings, set()).transform(tree), findings
    except UnexpectedInput as error:
        return None, [*findings, complaint(error, source.text, 0)]


class _Assembly:
    """Puts the lines of nested blocks together; knows which line may stand where."""

    def __init__(self, source: Source, lines: Layout):
        self._text = source.text
        self._findings = lines.findings
        self._reject = Rejecting("syntax", lines.findings)
        self._marked = [finding.span for finding in lines.findings if finding.span]
        self._sure = lines.sure
        self._refused: set[str] = set()

    def file(self, found: tuple[Block, ...]) -> s.File:
        return s.File(self._nodes(self._lines(found), "file"), Span(0, len(self._text)))

    def _lines(self, found: Iterable[Block]) -> _Lines:
        return [(self._line(block), block) for block in found]

    def _nodes(self, lines: _Lines, place: str) -> tuple[Any, ...]:
        """The nodes of lines that stand side by side."""
        nodes: list[Any] = []
        rest = deque(lines)
        while rest:
            node, block = rest.popleft()
            if not isinstance(node, (*_PLACES[place], s.Broken)):
                nodes.append(self._misplaced(node, block, place))
                continue
            later = re.match(r"\w*", self._code(block))
            inner = [] if later and later[0] in s.LATER else self._lines(block.inner)
            body = _BODIES.get(type(node))
            if body and not inner and not getattr(node, "body", ()):
                while rest and isinstance(rest[0][0], _PLACES[body]):
                    inner.append(rest.popleft())  # meant to be indented: one mistake, not many
            nodes.append(self._node(node, block, inner))
        return self._joined(nodes)

    def _node(self, node: Any, block: Block, inner: _Lines) -> Any:
        """The node of a line together with what stands indented below it."""
        match node:
            case s.Broken():
                return replace(node, body=self._nodes(inner, "anywhere"))
            case s.ScheduleItem():
                self._needs_block(block, "the schedule")
                return replace(node, items=self._nodes(inner, "schedule"))
            case s.Greedy():
                self._needs_block(block, "this line")
                return replace(node, body=self._nodes(inner, "policy"))
            case s.Every():
                self._needs_block(block, "this line")
                return replace(node, body=self._nodes(inner, "slots"))
            case s.Pattern():
                self._needs_block(block, "this line")
                return replace(node, body=self._nodes(inner, "pattern"))
            case s.OnRank() | s.Repeat() | s.For() | s.Branch():
                return self._with_body(node, block, inner)
        if block.inner and self._sure:
            self._reject(
                "this line is indented, but the line above begins no block",
                block.inner[0].line.code,
                f"the indentation of the line above: {block.line.indent} spaces",
                f"{block.inner[0].line.indent}",
                "a line that begins a block ends in `:`",
            )
        return node

    def _joined(self, nodes: list[Any]) -> tuple[Any, ...]:
        """Join `if`, `elif` and `else` lines that follow each other."""
        joined: list[Any] = []
        for node in nodes:
            if not isinstance(node, s.Branch):
                joined.append(node)
                continue
            last = joined[-1] if joined else None
            if node.word == "if":
                joined.append(s.If((node,), node.span))
            elif isinstance(last, s.If) and last.branches[-1].word != "else":
                joined[-1] = s.If((*last.branches, node), last.span)
            elif not isinstance(last, s.Broken) and self._sure:
                self._without_if(node, last)
                joined.append(s.Broken((), node.body, node.span))
        return tuple(joined)

    def _without_if(self, node: s.Branch, last: Any) -> None:
        ended = isinstance(last, s.If)
        self._reject(
            f"`{node.word}` after `else`" if ended else f"`{node.word}` without an `if`",
            Span(node.span.start, node.span.start + len(node.word)),
            "`else` as the last of its `if`"
            if ended
            else "an `if` directly above, as far indented",
            f"`{node.word}` after it" if ended else "none",
        )

    def _with_body(self, node: Any, block: Block, inner: _Lines) -> Any:
        if node.body and block.inner:
            self._reject(
                "this line has a body already",
                block.inner[0].line.code,
                "either operations behind the `:` or a block below",
                "both",
            )
        self._inner_loops(node, block)
        if not node.body:
            self._needs_block(block, "this line")
            return replace(node, body=self._nodes(inner, "body"))
        return node

    def _inner_loops(self, node: Any, block: Block) -> None:
        """A loop behind the `:` of another has its operations on the same line."""
        loop = node
        while loop.body and isinstance(loop.body[0], s.Repeat | s.For):
            loop = loop.body[0]
        if loop is not node and not loop.body and not block.inner:
            self._reject(
                "the body of the inner loop is missing",
                loop.span,
                "operations on the same line",
                "none",
                "put it there, or the inner loop on a line of its own, indented below",
            )

    def _needs_block(self, block: Block, what: str) -> None:
        if not block.inner and self._sure:
            end = block.line.code.end
            self._reject(
                f"the body of {what} is missing",
                Span(end - 1, end),
                "lines below it that are indented deeper",
                "none",
            )

    def _line(self, block: Block) -> Any:
        code, span = self._code(block), block.line.code
        if any(span.start <= marked.start < span.end for marked in self._marked):
            return s.Broken(_bound(code), (), span)
        found: list[Finding] = []
        try:
            builder = Builder(span.start, found, self._refused)
            node = builder.transform(parser().parse(code, start="line"))
        except UnexpectedInput as error:
            found.append(complaint(error, code, span.start))
        self._findings += found
        return s.Broken(_bound(code), (), span) if found else node

    def _misplaced(self, node: Any, block: Block, place: str) -> s.Broken:
        what, hint = _ELSEWHERE[type(node)]
        what = f"`{node.word}`" if isinstance(node, s.Settings | s.Branch) else what
        if self._sure:
            expected = _DESCRIPTIONS[place]
            self._reject(f"{what} cannot stand here", block.line.code, expected, what, hint)
        body = self._nodes(self._lines(block.inner), "anywhere")
        return s.Broken(_bound(self._code(block)), body, block.line.code)

    def _code(self, block: Block) -> str:
        return self._text[block.line.code.start : block.line.code.end]


_BODY = (s.Let, s.Repeat, s.For, s.Branch, s.Units)
_PLACES: dict[str, tuple[type, ...]] = {
    "file": (s.Docstring, s.ScheduleItem),
    "schedule": (
        s.Docstring,
        s.Let,
        s.Require,
        s.FlowItem,
        s.Layers,
        s.Pattern,
        s.Settings,
        s.Limit,
        s.OnRank,
        s.Greedy,
        s.Every,
    ),
    "policy": (s.Let, s.Prefer, s.Limit),
    "slots": (s.Let, s.Slot),
    "pattern": (s.Lane,),
    "body": _BODY,
}
_BODIES: dict[type, str] = {
    s.ScheduleItem: "schedule",
    s.OnRank: "body",
    s.Greedy: "policy",
    s.Every: "slots",
    s.Pattern: "pattern",
}
"""What may have been meant as the body of a line that has none."""

_PLACES["anywhere"] = (*_PLACES["schedule"], *_BODY, s.Prefer, s.Slot, s.Lane)
_DESCRIPTIONS = {
    "file": "a docstring or a `schedule`",
    "schedule": "`require`, `flow`, `layers`, `overlap`, `let`, `cost`, `memory`, `limit` or how "
    "ranks order their work",
    "policy": "`prefer`, `limit` or `let`",
    "slots": "an operation `at` a slot, or `let`",
    "pattern": "`compute:` or `wire:`, and parts",
    "body": "operations, `let`, `repeat`, `for` or `if`",
    "anywhere": "a line of a schedule",
}
_IN_PROGRAM = "it stands inside `on rank r:`"
_IN_SCHEDULE = "it stands in the schedule, above `on rank`"
_ELSEWHERE: dict[type, tuple[str, str]] = {
    s.Docstring: (
        "a docstring",
        "it stands first in its file or schedule; comments begin with `#`",
    ),
    s.ScheduleItem: ("`schedule`", "it stands at the left margin"),
    s.Require: ("`require`", _IN_SCHEDULE),
    s.FlowItem: ("`flow`", _IN_SCHEDULE),
    s.Layers: ("`layers`", _IN_SCHEDULE),
    s.Pattern: ("`overlap`", _IN_SCHEDULE),
    s.Lane: ("a lane", "lanes stand inside `overlap F & BW:`"),
    s.Settings: ("a setting", _IN_SCHEDULE),
    s.Limit: ("`limit`", _IN_SCHEDULE),
    s.OnRank: ("`on rank`", "it stands directly in the schedule"),
    s.Greedy: ("`greedy`", "it stands directly in the schedule"),
    s.Every: ("`every`", "it stands directly in the schedule"),
    s.Prefer: ("`prefer`", "it stands inside `greedy on rank r:`"),
    s.Slot: ("a slot", "slots stand inside `every N on rank r:`"),
    s.Let: ("`let`", "it stands in a schedule"),
    s.Units: ("an operation", "operations stand inside `on rank r:`"),
    s.Repeat: ("`repeat`", _IN_PROGRAM),
    s.For: ("`for`", _IN_PROGRAM),
    s.Branch: ("`if`", f"{_IN_PROGRAM}; a condition on parameters is `require`"),
}
"""What a line is called, and where it belongs."""


def _bound(code: str) -> tuple[str, ...]:
    """The names that a broken line would have bound, so that their uses are not reported too."""
    if head := re.match(r"(?!flow\b)\w+\s+\w+\s*\(([^()]*)", code):
        return tuple(re.findall(r"(?:^|,)\s*([A-Za-z_]\w*)", head[1]))
    if name := re.match(
        r"(?:let|flow|for|(?:greedy\s+|every\b[^:]*?\s)?on\s+rank|on)\s+([A-Za-z_]\w*)", code
    ):
        return (name[1],)
    if name := re.match(r"([A-Za-z_]\w*)\s*=(?!=)", code):
        return (name[1],)
    return ()
