"""What kind of value an expression has, and which names it may use: known before any size is."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from pipec.findings import Finding, listed, nearest
from pipec.language import syntax as s
from pipec.source import Span

Kind = Literal["an integer", "true or false", "a flow", "a decimal", None]
"""What a value is; None where a mistake that was reported already leaves it open."""

INT: Kind = "an integer"
BOOL: Kind = "true or false"
FLOW: Kind = "a flow"
DECIMAL: Kind = "a decimal"

Numbers = Literal["integers", "decimals", "bytes"]
"""The numbers that may stand somewhere; where bytes may, decimals may, too."""

INTEGERS: Numbers = "integers"
DECIMALS: Numbers = "decimals"
BYTES: Numbers = "bytes"


class Scope:
    """The names visible at one point of a schedule; mistakes go to `findings`.

    `elsewhere` holds the names that the schedule binds at any point, `parts` those of its layers.
    """

    def __init__(self, findings: list[Finding], elsewhere: frozenset[str] = frozenset()):
        self._findings = findings
        self._elsewhere = elsewhere
        self._names: dict[str, Kind] = {}
        self.parts: set[str] = set()
        self._numbers = INTEGERS
        self._unknown: set[str] = set()

    def bind(self, name: s.Name, kind: Kind) -> None:
        """Make a name visible from here on; a name is bound once."""
        if name.name in self._names:
            self._findings.append(bound_twice(name))
            kind = None
        elif name.name == "stage":
            self.add(
                "name",
                "`stage` is bound by the language",
                name.span,
                expected="another name",
                found="`stage`",
                hint="in `flow`, `cost` and `memory` it is the number of the stage",
            )
        self._names[name.name] = kind

    def assume(self, name: str, kind: Kind) -> None:
        """Let a name stand for a value of a kind, unless it is bound already."""
        self._names.setdefault(name, kind)

    def free(self, names: Iterable[str]) -> set[str]:
        """Those of some names that are not bound."""
        return {*names} - {*self._names}

    @contextmanager
    def inner(self, numbers: Numbers = INTEGERS) -> Iterator[None]:
        """A block, and the numbers that may stand in it: what is bound in it is forgotten after
        it.
        """
        outer = self._names, self._numbers
        self._names, self._numbers = dict(self._names), numbers
        yield
        self._names, self._numbers = outer

    def add(
        self,
        code: str,
        message: str,
        span: Span,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Report a mistake."""
        self._findings.append(Finding(code, message, span, expected, found, hint))

    def expect(self, expression: s.Expression, wanted: Kind, flow_hint: str | None = None) -> None:
        """Report an expression that is not of the wanted kind; of a flow, with a way out."""
        kind = self.kind(expression)
        if kind is None or wanted is None or kind == wanted or (kind, wanted) == (INT, DECIMAL):
            return
        expected = "a number" if wanted == DECIMAL else wanted
        hint = flow_hint if kind == FLOW else None
        self.add("kind", "this value cannot be used here", expression.span, expected, kind, hint)

    def kind(self, expression: s.Expression) -> Kind:
        """The kind of an expression, with all mistakes in it reported."""
        match expression:
            case s.Number():
                return self._number(expression)
            case s.Boolean():
                return BOOL
            case s.Name():
                return self._name(expression)
            case s.Unary(operator="not"):
                self.expect(expression.operand, BOOL)
                return BOOL
            case s.Unary():
                return self._numeric(expression.operand)
            case s.Binary(operator="and" | "or"):
                self.expect(expression.left, BOOL)
                self.expect(expression.right, BOOL)
                return BOOL
            case s.Binary():
                return self._widest(expression.operator, expression.left, expression.right)
            case s.Comparison():
                return self._comparison(expression)
            case s.Conditional():
                return self._conditional(expression)
            case s.Call():
                return self._call(expression)
            case s.Operation():
                self.add(
                    "kind",
                    f"`{expression.kind}` is an operation, not a value",
                    expression.span,
                    "a value",
                    f"`{expression.kind}`",
                )
                return None

    def _number(self, number: s.Number) -> Kind:
        if number.in_bytes:
            return self._bytes(number)
        if isinstance(number.value, int):
            return INT
        if self._numbers == INTEGERS:
            self.add(
                "kind",
                "a decimal cannot stand here",
                number.span,
                INT,
                "a decimal",
                "decimals are allowed in `cost`, `memory` and `limit memory` only",
            )
            return None
        return DECIMAL

    def _bytes(self, number: s.Number) -> Kind:
        if self._numbers == BYTES:
            return DECIMAL
        hint = "bytes are allowed in `memory` and `limit memory` only"
        message, found = "an amount of bytes cannot stand here", "an amount of bytes"
        expected = "an integer" if self._numbers == INTEGERS else "a number"
        self.add("kind", message, number.span, expected, found, hint)
        return None

    def _name(self, name: s.Name) -> Kind:
        if name.name in self._names:
            return self._names[name.name]
        if name.name in self._unknown:
            return None
        if name.name in s.RESERVED:
            self.add(
                "name", f"`{name.name}` is not a value here", name.span, "a value", f"`{name.name}`"
            )
            return None
        known = [known for known in self._names if known]
        self.add(
            "name",
            f"`{name.name}` is not bound here",
            name.span,
            listed(known[-8:]) or "a name bound above",
            f"`{name.name}`",
            self._unknown_hint(name.name, known),
        )
        self._unknown.add(name.name)
        return None

    def _unknown_hint(self, name: str, known: list[str]) -> str | None:
        if name in _SPECIAL:
            return _SPECIAL[name]
        if name in self._elsewhere:
            return "it is bound elsewhere: a name holds from there to the end of that block"
        return nearest(name, known) or nearest(name, ("true", "false"))

    def _numeric(self, operand: s.Expression) -> Kind:
        kind = self.kind(operand)
        if kind in (INT, DECIMAL, None):
            return kind
        self.add("kind", "this value cannot be used here", operand.span, INT, kind)
        return None

    def _widest(self, operator: str, left: s.Expression, right: s.Expression) -> Kind:
        kinds = (self._numeric(left), self._numeric(right))
        if operator == "**" and kinds[1] == DECIMAL:
            self.add("kind", "this power cannot be computed", right.span, INT, DECIMAL)
            return None
        if None in kinds:
            return None
        return (
            DECIMAL if DECIMAL in kinds or (operator == "/" and self._numbers != INTEGERS) else INT
        )

    def _comparison(self, comparison: s.Comparison) -> Kind:
        kinds = [self.kind(operand) for operand in comparison.operands]
        for operator, left, right, operand in zip(
            comparison.operators, kinds, kinds[1:], comparison.operands[1:], strict=False
        ):
            numeric = left in (INT, DECIMAL) and right in (INT, DECIMAL)
            if left is None or right is None or numeric:
                continue
            if left != right or operator not in ("==", "!="):
                self.add(
                    "kind",
                    f"`{operator}` cannot compare these",
                    operand.span,
                    left if operator in ("==", "!=") else INT,
                    right,
                )
        return BOOL

    def _conditional(self, expression: s.Conditional) -> Kind:
        self.expect(expression.test, BOOL)
        chosen, other = self.kind(expression.chosen), self.kind(expression.other)
        if chosen is None or other is None or chosen == other:
            return chosen
        if {chosen, other} == {INT, DECIMAL}:
            return DECIMAL
        self.add(
            "kind",
            "both sides of `if ... else` must be of one kind",
            expression.other.span,
            chosen,
            other,
        )
        return None

    def _call(self, call: s.Call) -> Kind:
        wanted, count = (
            ("one argument", 1) if call.function == "abs" else ("two arguments or more", 2)
        )
        if len(call.arguments) != 1 if count == 1 else len(call.arguments) < 2:
            self.add(
                "kind",
                f"`{call.function}` takes {wanted}",
                call.span,
                wanted,
                str(len(call.arguments)),
            )
        kinds = [self._numeric(argument) for argument in call.arguments]
        return None if None in kinds else DECIMAL if DECIMAL in kinds else INT


_SELECTORS = ((), (FLOW,), (INT,), (FLOW, INT))


def check_selectors(operation: s.Operation, scope: Scope) -> None:
    """Report square brackets that hold anything but a flow, a chunk, or both in this order."""
    selectors = tuple(scope.kind(selector) for selector in operation.selectors)
    if None not in selectors and selectors not in _SELECTORS:
        message = f"`{operation.kind}[...]` names a flow, a chunk, or both in this order"
        expected = "`[flow]`, `[chunk]` or `[flow, chunk]`"
        found = " and ".join(str(kind) for kind in selectors)
        scope.add("kind", message, operation.span, expected, found)


_SPECIAL = {
    "stage": "`stage` is known in the placement of a flow and in `cost` and `memory`, "
    "though not beside `rank` and `peer`",
    "rank": "the number of the rank is the name that `on rank` binds: `on rank r:`",
    "peer": "`peer` is known in `cost send`: the rank that receives",
}
"""Names that mean something, but not everywhere."""


def bound_twice(name: s.Name) -> Finding:
    """The finding for a name that is taken."""
    return Finding(
        "name",
        f"`{name.name}` is bound already",
        name.span,
        "a name not used above",
        f"`{name.name}`",
        "choose another name; names are bound once",
    )
