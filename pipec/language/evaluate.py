"""Expressions -> values, for many ranks and loop counters at once.

A *lane* is one evaluation: one rank, or one turn of a loop on one rank. A value that is the same in
all lanes is a plain Python number; one that differs is an array with one element per lane. So a
loop of a thousand turns on a thousand ranks is evaluated by a few array operations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.language import syntax as s
from pipec.language.syntax import LARGEST_NUMBER

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FlowValue:
    """A flow as a value: its number in the order of the text, per lane where lanes differ."""

    index: int | Array


Value = int | bool | Fraction | Array | FlowValue


@dataclass(frozen=True)
class Lanes:
    """The names visible in `count` evaluations that go on side by side."""

    names: dict[str, Value]
    count: int = 1
    counters: tuple[str, ...] = ()
    rational: bool = False
    """Whether `/` gives fractions (costs and memory) instead of demanding an exact integer."""

    def select(self, chosen: Array) -> "Lanes":
        """The lanes with the given numbers, in that order (a number may occur often)."""
        names = {name: _take(value, chosen) for name, value in self.names.items()}
        return Lanes(names, len(chosen), self.counters, self.rational)

    def bind(self, name: str, value: Value, counter: bool = False) -> "Lanes":
        """The same lanes with one more name."""
        counters = (*self.counters, name) if counter else self.counters
        return Lanes({**self.names, name: value}, self.count, counters, self.rational)

    def describe(self, lane: int) -> str:
        """`r = 3, k = 5`: which evaluation this is."""
        values = ((name, self.names[name]) for name in self.counters)
        return ", ".join(f"{name} = {_at(value, lane)}" for name, value in values)


def evaluate(expression: s.Expression, lanes: Lanes) -> Value:
    """The value of a checked expression. Raises `Stop` where it has none (3 / 2, overflow)."""
    match expression:
        case s.Number() | s.Boolean():
            return expression.value
        case s.Name():
            return lanes.names[expression.name]
        case s.Unary(operator="not"):
            truth = evaluate(expression.operand, lanes)
            return ~truth if isinstance(truth, np.ndarray) else not truth
        case s.Unary():
            return -_number(evaluate(expression.operand, lanes))
        case s.Binary(operator="and" | "or"):
            return _logic(expression, lanes)
        case s.Binary():
            left = _number(evaluate(expression.left, lanes))
            right = _number(evaluate(expression.right, lanes))
            return _arithmetic(expression, left, right, lanes)
        case s.Comparison():
            return _compare(expression, lanes)
        case s.Conditional():
            test = evaluate(expression.test, lanes)
            return _choose(test, expression.chosen, expression.other, lanes)
        case s.Call():
            values = [_number(evaluate(argument, lanes)) for argument in expression.arguments]
            return _call(expression.function, values)
    raise AssertionError(f"unchecked expression {expression!r}")


def spread(value: Value, count: int) -> Array:
    """A value as an array with one element per lane."""
    plain = value.index if isinstance(value, FlowValue) else value
    return plain if isinstance(plain, np.ndarray) else np.full(count, plain)


def failing(finding: Finding, bad: bool | Array, lanes: Lanes) -> None:
    """Raise `finding` if `bad` holds in any lane, with a note that names the first such lane."""
    if not np.any(bad):
        return
    where = lanes.describe(int(np.argmax(bad)))
    notes = (f"at {where}",) if where else ()
    raise Stop(Finding(**{**finding.__dict__, "notes": finding.notes + notes}))


def _number(value: Value) -> Any:
    assert not isinstance(value, FlowValue)
    return value


def _take(value: Value, chosen: Array) -> Value:
    if isinstance(value, FlowValue):
        index = value.index
        return FlowValue(index.take(chosen)) if isinstance(index, np.ndarray) else value
    return value.take(chosen) if isinstance(value, np.ndarray) else value


def _at(value: Value, lane: int) -> Any:
    return value[lane] if isinstance(value, np.ndarray) else value


def _choose(test: Value, chosen: s.Expression, other: s.Expression, lanes: Lanes) -> Value:
    """Evaluate each side only where it is wanted."""
    if not isinstance(test, np.ndarray):
        return evaluate(chosen if test else other, lanes)
    if test.all():
        return evaluate(chosen, lanes)
    if not test.any():
        return evaluate(other, lanes)
    where = (test.nonzero()[0], (~test).nonzero()[0])
    values = [
        evaluate(side, lanes.select(at)) for side, at in zip((chosen, other), where, strict=True)
    ]
    flat = [value.index if isinstance(value, FlowValue) else value for value in values]
    merged: Array = np.empty(
        lanes.count, bool if isinstance(flat[0], bool | np.bool_) else np.int64
    )
    if isinstance(flat[0], np.ndarray):
        merged = np.empty(lanes.count, flat[0].dtype)
    for at, value in zip(where, flat, strict=True):
        merged[at] = value
    return FlowValue(merged) if isinstance(values[0], FlowValue) else merged


def _logic(expression: s.Binary, lanes: Lanes) -> Value:
    """`and`, `or`: the right side is evaluated only in the lanes that the left leaves open."""
    left = evaluate(expression.left, lanes)
    if expression.operator == "and":
        return _choose(left, expression.right, s.Boolean(False, expression.span), lanes)
    return _choose(left, s.Boolean(True, expression.span), expression.right, lanes)


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _compare(expression: s.Comparison, lanes: Lanes) -> Value:
    values = [evaluate(operand, lanes) for operand in expression.operands]
    plain = [value.index if isinstance(value, FlowValue) else value for value in values]
    result: Any = True
    for operator, left, right in zip(expression.operators, plain, plain[1:], strict=False):
        result = result & _COMPARE[operator](left, right)
    return result if isinstance(result, np.ndarray) else bool(result)


def _call(function: str, values: list[Any]) -> Value:
    if function == "abs":
        return abs(values[0])
    pick, pick_each = (min, np.minimum) if function == "min" else (max, np.maximum)
    result = values[0]
    for value in values[1:]:
        arrays = isinstance(result, np.ndarray) or isinstance(value, np.ndarray)
        result = pick_each(result, value) if arrays else pick(result, value)
    return result


# --- arithmetic -----------------------------------------------------------------------------------


def _arithmetic(expression: s.Binary, left: Any, right: Any, lanes: Lanes) -> Value:
    operator, span = expression.operator, expression.span
    if operator in ("/", "//", "%"):
        _no_zero(expression, right == 0, lanes)
    if operator == "/":
        if lanes.rational:
            return Fraction(left) / Fraction(right)
        _exact(expression, left, right, lanes)
        return left // right
    if operator == "**":
        bad, expected = right < 0, "a power of 0 or more"
        found = f"{_at(right, int(np.argmax(bad)))}"
        negative = Finding("value", "a negative power", expression.right.span, expected, found)
        failing(negative, bad, lanes)
    if not _within(operator, left, right):
        message, expected = "this number is too large", f"at most {LARGEST_NUMBER:,}"
        found = f"up to {_largest(left)} {operator} {_largest(right)}"
        raise Stop(Finding("value", message, span, expected, found))
    return _OPERATORS[operator](left, right)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: a**b,
}


def _no_zero(expression: s.Binary, bad: bool | Array, lanes: Lanes) -> None:
    if bad is False or not np.any(bad):
        return
    span, expected = expression.right.span, "a divisor other than 0"
    failing(Finding("value", "division by zero", span, expected, "0"), bad, lanes)


def _within(operator: str, left: Any, right: Any) -> bool:
    """Whether no lane can leave the range of 64-bit integers, judged by the largest values."""
    a, b = _largest(left), _largest(right)
    if operator == "**":
        if isinstance(left, Fraction):
            a = max(abs(left.numerator), left.denominator)
        return a <= 1 or (b <= 64 and a**b <= LARGEST_NUMBER)
    reach = a * b if operator == "*" else a + b if operator in ("+", "-") else a
    return bool(reach <= LARGEST_NUMBER)


def _largest(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        reduced = (np.minimum.reduce(value), np.maximum.reduce(value)) if len(value) else (0,)
        return max(abs(int(one)) for one in reduced)
    return abs(value)


def _exact(expression: s.Binary, left: Any, right: Any, lanes: Lanes) -> None:
    rest = left % right
    bad = rest != 0
    if not np.any(bad):
        return
    lane = int(np.argmax(bad))
    failing(
        Finding(
            "value",
            "this division leaves a rest",
            expression.span,
            "an exact division",
            f"{_at(left, lane)} / {_at(right, lane)}",
            "`//` rounds down",
        ),
        bad,
        lanes,
    )
