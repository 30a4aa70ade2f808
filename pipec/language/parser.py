"""Text -> syntax tree. Each line is parsed alone, so all mistakes of a file are found at once."""

import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark
from lark.exceptions import UnexpectedInput

from pipec.findings import Finding
from pipec.language import syntax as s
from pipec.language.build import Builder
from pipec.language.complaint import complaint
from pipec.language.layout import Block, Layout, blocks, layout
from pipec.source import Source, Span

MOST_FINDINGS = 50


def parse(source: Source) -> tuple[s.File, list[Finding]]:
    """Read a text. Where findings are returned, the tree holds `Broken` nodes and is fit for
    checking only.
    """
    lines = layout(source)
    tree = _Assembly(source, lines).file(blocks(lines))
    lines.findings.sort(key=lambda finding: finding.span or Span(0, 0))
    return tree, lines.findings[:MOST_FINDINGS]


@cache
def _lark() -> Lark:
    grammar = files(__package__).joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, start="line", parser="lalr", propagate_positions=True)


class _Assembly:
    """Puts the lines of nested blocks together; knows which line may stand where."""

    def __init__(self, source: Source, lines: Layout):
        self._text = source.text
        self._findings = lines.findings
        self._marked = [finding.span for finding in lines.findings if finding.span]

    def file(self, found: tuple[Block, ...]) -> s.File:
        items = [self._node(block, "file") for block in found]
        return s.File(tuple(items), Span(0, len(self._text)))

    def _node(self, block: Block, place: str) -> Any:
        """The node of a line with what stands indented below it."""
        node = self._line(block)
        if isinstance(node, s.Broken):
            inner = "schedule" if self._code(block).startswith("schedule") else "body"
            return replace(node, body=self._inner(block, inner))
        if not isinstance(node, _PLACES[place]):
            return self._out_of_place(node, block, place)
        match node:
            case s.ScheduleItem():
                self._needs_block(block, "a schedule")
                return replace(node, items=self._inner(block, "schedule"))
            case s.OnRank() | s.Repeat() | s.For() | s.Branch():
                return self._with_body(node, block)
        if block.inner:
            self._reject(
                "nothing can stand indented below this line",
                block.inner[0].line.code,
                "a line that begins a block, such as `repeat n:`",
            )
        return node

    def _inner(self, block: Block, place: str) -> tuple[Any, ...]:
        nodes = [self._node(inner, place) for inner in block.inner]
        return self._joined(nodes)

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
            elif not isinstance(last, s.Broken):
                first_word = Span(node.span.start, node.span.start + 4)
                self._reject(
                    f"`{node.word}` without an `if`", first_word, "an `if` line directly above"
                )
        return tuple(joined)

    def _with_body(self, node: Any, block: Block) -> Any:
        if node.body and block.inner:
            self._reject(
                "this line has a body already",
                block.inner[0].line.code,
                "either operations behind the `:` or a block below",
                "both",
            )
        if not node.body:
            self._needs_block(block, "a body")
            return replace(node, body=self._inner(block, "body"))
        return node

    def _needs_block(self, block: Block, what: str) -> None:
        if not block.inner:
            end = block.line.code.end
            self._reject(
                f"{what} is missing", Span(end - 1, end), "lines indented below this one", "nothing"
            )

    def _line(self, block: Block) -> Any:
        code, span = self._code(block), block.line.code
        if any(span.start <= marked.start < span.end for marked in self._marked):
            return s.Broken(_bound(code), (), span)
        found: list[Finding] = []
        try:
            node = Builder(span.start, found).transform(_lark().parse(code))
        except UnexpectedInput as error:
            found.append(complaint(error, code, span.start))
        self._findings += found
        return s.Broken(_bound(code), (), span) if found else node

    def _out_of_place(self, node: Any, block: Block, place: str) -> s.Broken:
        allowed, word = _DESCRIPTIONS[place], self._code(block).split(maxsplit=1)[0].strip(":")
        self._reject(
            f"a `{word}` line cannot stand here",
            block.line.code,
            allowed,
            None,
            _ELSEWHERE.get(type(node)),
        )
        return s.Broken(_bound(self._code(block)), (), block.line.code)

    def _reject(
        self,
        message: str,
        span: Span,
        expected: str,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        self._findings.append(Finding("syntax", message, span, expected, found, hint))

    def _code(self, block: Block) -> str:
        return self._text[block.line.code.start : block.line.code.end]


_BODY = (s.Let, s.Repeat, s.For, s.Branch, s.Units)
_PLACES: dict[str, tuple[type, ...]] = {
    "file": (s.Docstring, s.ScheduleItem),
    "schedule": (s.Docstring, s.Let, s.Require, s.FlowItem, s.Settings, s.Limit, s.OnRank),
    "body": _BODY,
}
_DESCRIPTIONS = {
    "file": "a docstring or a `schedule`",
    "schedule": "`require`, `flow`, `let`, `cost`, `memory`, `limit` or `on rank`",
    "body": "operations, `let`, `repeat`, `for` or `if`",
}
_ELSEWHERE: dict[type, str] = {
    s.Units: "operations stand inside `on rank r:`",
    s.Repeat: "`repeat` stands inside `on rank r:`",
    s.For: "`for` stands inside `on rank r:`",
    s.Branch: "`if` stands inside `on rank r:`; a condition on parameters is `require`",
    s.ScheduleItem: "`schedule` stands at the left margin",
    s.FlowItem: "`flow` stands in the schedule, above `on rank`",
    s.Require: "`require` stands in the schedule, above `on rank`",
    s.Settings: "`cost` and `memory` stand in the schedule, above `on rank`",
    s.Limit: "`limit` stands in the schedule, above `on rank`",
    s.OnRank: "`on rank` stands directly in the schedule",
}


def _bound(code: str) -> tuple[str, ...]:
    """The names that a broken line would have bound, so that their uses are not reported too."""
    if head := re.match(r"schedule\s+\w+\s*\((.*)", code, re.DOTALL):
        return tuple(re.findall(r"(?:^|,)\s*([A-Za-z_]\w*)", head[1]))
    if name := re.match(r"(?:let|flow|for|on\s+rank)\s+([A-Za-z_]\w*)", code):
        return (name[1],)
    return ()
