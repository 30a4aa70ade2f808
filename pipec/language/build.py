"""Lark's tree of one line -> syntax nodes with spans in the whole text."""

import ast
from fractions import Fraction
from typing import Any

from lark import Token
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive, v_args

from pipec.amounts import SUFFIXES
from pipec.findings import Finding, Rejecting
from pipec.language import syntax as s
from pipec.source import Span

DEEPEST_EXPRESSION = 100


@v_args(meta=True)
class Builder(Transformer_NonRecursive[Token, Any]):
    """Builds the node of a line that begins at `base`; what it cannot accept goes to `findings`.

    `refused` holds the reserved words that were reported as names: once a text is enough.
    """

    def __init__(self, base: int, findings: list[Finding], refused: set[str]):
        super().__init__()
        self._base = base
        self._reject = Rejecting("syntax", findings)
        self._refused = refused
        self._depths: dict[int, int] = {}

    def _span(self, at: Meta | Token) -> Span:
        if isinstance(at, Token):
            start = at.start_pos or 0
            return Span(self._base + start, self._base + start + len(at))
        if at.empty:
            return Span(self._base, self._base)
        return Span(self._base + at.start_pos, self._base + at.end_pos)

    def _deep(self, node: Any, *children: Any) -> Any:
        """Remember how deep an expression is, so that nothing later recurses without a bound."""
        depth = 1 + max((self._depths.get(id(child), 0) for child in children), default=0)
        self._depths[id(node)] = depth
        if depth == DEEPEST_EXPRESSION + 1:
            self._reject(
                "this expression is too deep",
                node.span,
                expected=f"at most {DEEPEST_EXPRESSION} operators inside each other",
                found="more",
                hint="name a part of it with `let`",
            )
        return node

    def _name(self, token: Token) -> s.Name:
        """A name where one is bound or used; a reserved word is not one."""
        if token in s.RESERVED and token not in self._refused:
            self._refused.add(str(token))
            what = "an operation" if token in ("F", "B", "W", "BW") else "a word of the language"
            self._reject(
                f"`{token}` is {what}",
                self._span(token),
                expected="a name",
                found=f"`{token}`",
                hint="choose another name",
            )
        return s.Name(str(token), self._span(token))

    # --- lines ------------------------------------------------------------------------------------

    def docstring(self, meta: Meta, children: list[Any]) -> s.Docstring:
        return s.Docstring(str(children[0])[3:-3], self._span(meta))

    def schedule(self, meta: Meta, children: list[Any]) -> s.ScheduleItem:
        name, *parameters = children
        kept = tuple(parameter for parameter in parameters if parameter)
        return s.ScheduleItem(self._name(name), kept, (), self._span(meta))

    def parameter(self, meta: Meta, children: list[Any]) -> s.Parameter:
        return s.Parameter(self._name(children[0]), children[1], self._span(meta))

    def require(self, meta: Meta, children: list[Any]) -> s.Require:
        test, message = children
        return s.Require(test, self._text(message) if message else None, self._span(meta))

    def _text(self, token: Token) -> str:
        try:
            return str(ast.literal_eval(token))
        except (SyntaxError, ValueError):
            return token[1:-1]

    def flow(self, meta: Meta, children: list[Any]) -> s.FlowItem:
        name, *arguments, placement = children
        return s.FlowItem(self._name(name), tuple(arguments), placement, self._span(meta))

    def argument(self, meta: Meta, children: list[Any]) -> s.Argument:
        name = s.Name(str(children[0]), self._span(children[0]))
        return s.Argument(name, children[1], self._span(meta))

    def layers(self, meta: Meta, children: list[Any]) -> s.Layers:
        count, *parts = children
        return s.Layers(count, tuple(self._name(part) for part in parts), self._span(meta))

    def overlap(self, meta: Meta, children: list[Any]) -> s.Pattern:
        return s.Pattern(children[0], (), self._span(meta))

    def lane(self, meta: Meta, children: list[Any]) -> s.Lane:
        name, *parts = children
        return s.Lane(str(name), tuple(parts), self._span(meta))

    def part(self, meta: Meta, children: list[Any]) -> s.PartOf:
        kind, part = children
        return s.PartOf(str(kind), self._name(part), self._span(meta))

    def cost(self, meta: Meta, children: list[Any]) -> s.Settings:
        return s.Settings("cost", tuple(children), self._span(meta))

    def memory(self, meta: Meta, children: list[Any]) -> s.Settings:
        return s.Settings("memory", tuple(children), self._span(meta))

    def setting(self, meta: Meta, children: list[Any]) -> s.Setting:
        return s.Setting(children[0], children[1], self._span(meta))

    def limit(self, meta: Meta, children: list[Any]) -> s.Limit:
        return s.Limit(children[0], self._span(meta))

    def on_rank(self, meta: Meta, children: list[Any]) -> s.OnRank:
        return s.OnRank(self._name(children[0]), _body(children[1]), self._span(meta))

    def greedy(self, meta: Meta, children: list[Any]) -> s.Greedy:
        return s.Greedy(self._name(children[0]), (), self._span(meta))

    def prefer(self, meta: Meta, children: list[Any]) -> s.Prefer:
        for sign in children[1::2]:
            if sign != ">":
                message, expected = "`prefer` puts the more urgent first", "`>`"
                self._reject(message, self._span(sign), expected, f"`{sign}`")
        return s.Prefer(tuple(children[::2]), self._span(meta))

    def every(self, meta: Meta, children: list[Any]) -> s.Every:
        return s.Every(children[0], self._name(children[1]), (), self._span(meta))

    def slot(self, meta: Meta, children: list[Any]) -> s.Slot:
        return s.Slot(children[0], children[1], self._span(meta))

    def let(self, meta: Meta, children: list[Any]) -> s.Let:
        return s.Let(self._name(children[0]), children[1], self._span(meta))

    def repeat(self, meta: Meta, children: list[Any]) -> s.Repeat:
        return s.Repeat(children[0], _body(children[1]), self._span(meta))

    def for_loop(self, meta: Meta, children: list[Any]) -> s.For:
        name, start, stop, body = children
        return s.For(self._name(name), start, stop, _body(body), self._span(meta))

    def if_branch(self, meta: Meta, children: list[Any]) -> s.Branch:
        return s.Branch("if", children[0], _body(children[1]), self._span(meta))

    def elif_branch(self, meta: Meta, children: list[Any]) -> s.Branch:
        return s.Branch("elif", children[0], _body(children[1]), self._span(meta))

    def else_branch(self, meta: Meta, children: list[Any]) -> s.Branch:
        return s.Branch("else", None, _body(children[0]), self._span(meta))

    # --- operations -------------------------------------------------------------------------------

    def units(self, meta: Meta, children: list[Any]) -> s.Units:
        return s.Units(tuple(children), self._span(meta))

    def unit(self, meta: Meta, children: list[Any]) -> s.Unit:
        return s.Unit(tuple(child for child in children if child), self._span(meta))

    def operation(self, meta: Meta, children: list[Any]) -> s.Operation:
        kind, first, second, microbatch = children
        selectors = tuple(selector for selector in (first, second) if selector is not None)
        node = s.Operation(str(kind), selectors, microbatch, self._span(meta))
        return self._deep(node, *selectors, microbatch)

    def memory_amount(self, meta: Meta, children: list[Any]) -> s.Name:
        return s.Name("memory", self._span(meta))

    # --- expressions ------------------------------------------------------------------------------

    def number(self, meta: Meta, children: list[Any]) -> s.Number:
        text, span = str(children[0]), self._span(meta)
        digits = text.rstrip("BKMGTi")
        bytes_each = SUFFIXES.get(text[len(digits) :], 1)
        if len(text) > 40 or Fraction(digits) * bytes_each > s.LARGEST_NUMBER:
            expected = f"at most {s.LARGEST_NUMBER:,}"
            self._reject(
                "this number is too large", span, expected, f"{text[:40]}{'...' * (len(text) > 40)}"
            )
            return s.Number(0, span)
        value = Fraction(digits) if "." in digits else int(digits)
        return s.Number(value * bytes_each, span, digits != text)

    def boolean(self, meta: Meta, children: list[Any]) -> s.Boolean:
        return s.Boolean(children[0] == "true", self._span(meta))

    def name(self, meta: Meta, children: list[Any]) -> s.Name:
        return self._name(children[0])

    def unary(self, meta: Meta, children: list[Any]) -> s.Unary:
        operator, operand = children
        return self._deep(s.Unary(str(operator), operand, self._span(meta)), operand)

    def binary(self, meta: Meta, children: list[Any]) -> s.Binary:
        left, operator, right = children
        return self._deep(s.Binary(str(operator), left, right, self._span(meta)), left, right)

    def comparison(self, meta: Meta, children: list[Any]) -> s.Comparison:
        operators = tuple(str(operator) for operator in children[1::2])
        operands = tuple(children[::2])
        return self._deep(s.Comparison(operators, operands, self._span(meta)), *operands)

    def conditional(self, meta: Meta, children: list[Any]) -> s.Conditional:
        chosen, test, other = children
        return self._deep(s.Conditional(test, chosen, other, self._span(meta)), *children)

    def call(self, meta: Meta, children: list[Any]) -> s.Call:
        function, *arguments = children
        kept = tuple(argument for argument in arguments if argument is not None)
        return self._deep(s.Call(str(function), kept, self._span(meta)), *kept)


def _body(inline: s.Statement | None) -> tuple[s.Statement, ...]:
    return () if inline is None else (inline,)
