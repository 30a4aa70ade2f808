"""Expansion works on whole columns: it must equal a walk through the text, and stop in time."""

import operator
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.findings import PipecError, Stop
from pipec.language import read
from pipec.language import syntax as s
from pipec.library import only_schedule
from pipec.order.arrange import arrange
from pipec.order.expand import KIND, MICROBATCH, STAGE, expand
from pipec.order.schedule import Schedule, bind
from pipec.program.effects import Kind
from pipec.source import Source

RANKS, MICROBATCHES = 3, 5


def bound(body: str, item: str = "", **sizes: int) -> Schedule:
    """A schedule of two chunks a rank with the given program, bound to sizes."""
    text = (
        f"schedule s(P, M):\n    {item}\n"
        "    flow main(stages=2 * P, microbatches=M): rank = stage % P\n"
        f"    on rank r:\n" + "".join(f"        {line}\n" for line in body.strip("\n").split("\n"))
    )
    source = Source("s.pipe", text)
    schedule = only_schedule(read(source), source)
    return bind(schedule, {"P": RANKS, "M": MICROBATCHES, **sizes}, source)


def by_columns(schedule: Schedule, budget: int = 10_000) -> list[list[tuple[str, int, int]]]:
    """What each rank issues: kind, stage, and the microbatch that is said or -1."""
    run, _ = expand(schedule, budget)
    rows = zip(*run.rows[[KIND, STAGE, MICROBATCH]].tolist(), strict=True)
    issued = ((Kind(kind).name, stage, microbatch) for kind, stage, microbatch in rows)
    return [[next(issued) for _ in range(count)] for count in run.counts.tolist()]


# --- the walk: the language as one would write it down first --------------------------------------


class Refused(Exception):
    """The walk met an evaluation that has no value."""


def walked(schedule: Schedule) -> list[list[tuple[str, int, int]]]:
    """The same by walking the text, one rank and one turn after the other."""
    names = {"P": RANKS, "M": MICROBATCHES}
    return [list(_walk(schedule.program.body, {**names, "r": r})) for r in range(RANKS)]


def _walk(body: tuple[s.Statement, ...], names: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    names = dict(names)
    for statement in body:
        match statement:
            case s.Let():
                names[statement.name.name] = _value(statement.value, names)
            case s.Repeat():
                for _ in range(_times(_value(statement.times, names))):
                    yield from _walk(statement.body, names)
            case s.For():
                start, stop = _value(statement.start, names), _value(statement.stop, names)
                for turn in range(_times(stop - start)):
                    inner = {**names, statement.name.name: start + turn}
                    yield from _walk(statement.body, inner)
            case s.If():
                for branch in statement.branches:
                    if branch.test is None or _value(branch.test, names):
                        yield from _walk(branch.body, names)
                        break
            case s.Units():
                for unit in statement.units:
                    for operation in unit.operations:
                        yield _operation(operation, names)


def _operation(operation: s.Operation, names: dict[str, int]) -> tuple[str, int, int]:
    chunk = _value(operation.selectors[0], names)
    if not 0 <= chunk < 2:
        raise Refused
    microbatch = -1
    if operation.microbatch is not None:
        microbatch = _value(operation.microbatch, names)
        if not 0 <= microbatch < MICROBATCHES:
            raise Refused
    return operation.kind, names["r"] + chunk * RANKS, microbatch


def _times(times: int) -> int:
    if times < 0:
        raise Refused
    return times


def _value(node: s.Expression, names: dict[str, int]) -> int:
    match node:
        case s.Number() | s.Boolean():
            return node.value
        case s.Name():
            return names[node.name]
        case s.Unary(operator="not"):
            return not _value(node.operand, names)
        case s.Unary():
            return -_value(node.operand, names)
        case s.Binary(operator="and"):
            return _value(node.left, names) and _value(node.right, names)
        case s.Binary(operator="or"):
            return _value(node.left, names) or _value(node.right, names)
        case s.Binary():
            return _arithmetic(node.operator, _value(node.left, names), _value(node.right, names))
        case s.Comparison():
            values = [_value(operand, names) for operand in node.operands]
            compare = {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">": operator.gt}
            return all(map(lambda o, a, b: compare[o](a, b), node.operators, values, values[1:]))
        case s.Conditional():
            return _value(node.chosen if _value(node.test, names) else node.other, names)
        case s.Call():
            function = {"min": min, "max": max, "abs": abs}[node.function]
            return function(*(_value(argument, names) for argument in node.arguments))
    raise AssertionError(node)


def _arithmetic(sign: str, left: int, right: int) -> int:
    if sign in ("/", "//", "%") and right == 0:
        raise Refused
    exact = Fraction(left, right) if sign == "/" else Fraction(0)
    if exact.denominator != 1:
        raise Refused
    return {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: int(exact),
        "//": lambda: left // right,
        "%": lambda: left % right,
    }[sign]()


# --- random programs ------------------------------------------------------------------------------

NUMBERS = st.recursive(
    st.sampled_from(["r", "P", "M", "k", "0", "1", "2", "3"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+ - * / // %".split()), inner).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
        st.tuples(inner, inner, inner, inner).map("({0[0]} if {0[1]} < {0[2]} else {0[3]})".format),
        st.tuples(inner, inner).map("max({0[0]}, {0[1]})".format),
        inner.map("(-{})".format),
    ),
    max_leaves=4,
)
TRUTHS = st.one_of(
    st.tuples(NUMBERS, st.sampled_from(["<", "<=", "=="]), NUMBERS).map(
        "{0[0]} {0[1]} {0[2]}".format
    ),
    st.tuples(NUMBERS, NUMBERS, NUMBERS).map("{0[0]} < {0[1]} and 6 / {0[2]} == 3".format),
    st.tuples(NUMBERS, NUMBERS).map("not {0[0]} == 0 or {0[1]} % {0[0]} == 1".format),
)
COUNTS = st.one_of(st.sampled_from(["2", "r", "r % 2", "k", "M - r", "0"]), NUMBERS)


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Lines of a program in which `k` is always bound."""
    names = iter(f"n{number}" for number in range(1000))

    def body(depth: int, k: str) -> list[str]:
        lines = []
        for _ in range(draw(st.integers(1, 3))):
            lines += statement(depth, k)
        return lines

    def indented(lines: list[str]) -> list[str]:
        return [f"    {line}" for line in lines]

    def some(strategy: st.SearchStrategy[str], k: str) -> str:
        return draw(strategy).replace("k", k)

    def statement(depth: int, k: str) -> list[str]:
        match draw(st.sampled_from(["F", "F", "let", "repeat", "for", "if"] if depth else ["F"])):
            case "let":
                return [f"let {next(names)} = {some(NUMBERS, k)}"]
            case "repeat":
                return [f"repeat {some(COUNTS, k)}:", *indented(body(depth - 1, k))]
            case "for":
                name = next(names)
                head = f"for {name} in {some(COUNTS, k)} .. {some(COUNTS, k)}:"
                return [head, *indented(body(depth - 1, name))]
            case "if":
                lines = [f"if {some(TRUTHS, k)}:", *indented(body(depth - 1, k))]
                lines += [f"elif {some(TRUTHS, k)}:", *indented(body(depth - 1, k))]
                return [*lines, "else:", *indented(body(depth - 1, k))]
            case _:
                number = f"({some(NUMBERS, k)})" if draw(st.booleans()) else ""
                return [f"F[{some(st.sampled_from(['0', '1', 'k % 2']), k)}]{number}  BW[1]"]

    return "\n".join(["let k0 = P - r", *body(3, "k0")])


@settings(max_examples=120, deadline=None)
@given(programs())
def test_columns_equal_the_walk(body: str) -> None:
    """All ranks and turns at once issue what a walk issues, and refuse what a walk refuses."""
    schedule = bound(body)
    try:
        expected = walked(schedule)
    except Refused:
        with pytest.raises(Stop):
            by_columns(schedule)
        return
    if sum(map(len, expected)) < 2_000:
        assert by_columns(schedule, 1_000_000) == expected


@pytest.mark.parametrize(
    "body",
    [
        "repeat P - 1 - r:  F[0](r - 1 + P - r - r - r)",
        "repeat r:  F[0](r - 1)",
        "for k in 0 .. r:  F[0](M - 1 - k)\nfor k in 0 .. 0:  F[0](6 / (k - k))",
        "if r > 0:  F[0](6 / r - 2)",
        "let x = 6 / r if r > 0 else 0\nlet y = r > 0 and 6 / r > 3\nF[0]",
        "let z = r == 0 or 6 % r == 0\nF[0]",
        "repeat 0:  F[7]",
        "if r == 0:  F[0]\nelif 6 / r == 3:  F[1](r)\nelse:  F[0](r)",
    ],
)
def test_what_is_not_chosen_is_not_evaluated(body: str) -> None:
    """A branch not taken, a side not chosen and a loop of no turns may hold what has no value."""
    schedule = bound(body)
    assert by_columns(schedule) == walked(schedule)


@pytest.mark.parametrize(
    ("body", "message", "note"),
    [
        ("let x = (r + 3) / 3\nF[0]", "leaves a rest", "at r = 1"),
        ("for k in 0 .. M:  F[k / 2]", "leaves a rest", "at r = 0, k = 1"),
        ("for k in 0 .. 2 - r:  F[3 // (r - 1)]", "division by zero", "at r = 1, k = 0"),
        ("for k in r .. 1:  F[0]", "cannot go -1 times", "at r = 2"),
        ("repeat 1 - r:  F[0]", "cannot go -1 times", "at r = 2"),
        ("for k in -2**62 .. 2**62 * (r - 1):  F[0]", "too many", None),
        (
            "for k in 2**62 .. -2**62 - 2**61:  F[0]",
            "cannot go -11529215046068469760 times",
            "at r = 0",
        ),
        ("let x = 2 ** 62 * (r + 1)\nF[0]", "too large", None),
        ("for k in 0 .. M + 1:  F[0](k)", "no microbatch 5", "at r = 0, k = 5"),
        ("repeat M:  F[r]", "no chunk 2", "at r = 2"),
    ],
)
def test_values_that_do_not_exist(body: str, message: str, note: str | None) -> None:
    """Inexact divisions, negative counts and wrong numbers name the first rank and turn."""
    with pytest.raises(Stop, match=message) as caught:
        by_columns(bound(body))
    assert caught.value.finding.notes == ((note,) if note else ())


@pytest.mark.parametrize(
    "body",
    [
        "repeat 10**12:  F[0]",
        "repeat 10**9:\n    repeat 10**9:  F[0]",
        "for k in 0 .. 10**9:\n    for q in 0 .. 10**9:\n        F[0]",
        "for k in 0 .. 10**9:\n    let x = k",
        "for k in 0 .. 10**9:\n    repeat 0:  F[0]",
        "for a in 0 .. 999:\n  for b in 0 .. 999:\n    for c in 0 .. 999:\n      if c < 0: F[0]",
        "\n".join(["repeat 40000:  F[0]"] * 100),
        "\n".join(f"for k{n} in 0 .. 40000:\n    let x = k{n}" for n in range(100)),
        "for k in 0 .. 60000:\n" + "\n".join(f"    let x{n} = k + {n}" for n in range(300)),
        "repeat 3:\n" * 1 + "    repeat 2**62:  F[0]",
    ],
    ids=range(10),
)
def test_runaway_programs(body: str) -> None:
    """What would not end is refused before it is made: by its sum, not line by line."""
    tracemalloc.start()
    with pytest.raises(PipecError) as caught:
        arrange(bound(body), 1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.findings[0].code == "budget"
    assert peak < 100e6


def test_runaway_at_the_budget_that_is_given_out() -> None:
    """`repeat 10**12: F` takes no memory to speak of."""
    tracemalloc.start()
    with pytest.raises(PipecError, match="too many operations"):
        arrange(bound("repeat 10**12:  F[0]"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_sizes_beyond_the_budget() -> None:
    """A flow that no order within the budget could complete is refused before any table is made."""
    tracemalloc.start()
    with pytest.raises(PipecError, match="flow `main` makes too many operations"):
        arrange(bound("F[0]", M=10**8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


def test_repeating_nothing_costs_nothing() -> None:
    """A `repeat` is not walked, so one that issues nothing may go on for as long as it likes."""
    loops = "repeat 10**6:\n    repeat 10**6:\n        repeat 10**6:\n            if r > P:  F[0]\n"
    order = arrange(
        bound(loops + "repeat M:  F[0]  F[1]\nrepeat M:  BW[1]\nrepeat M:  BW[0]"), 1000
    )
    assert len(order) == 4 * RANKS * MICROBATCHES


FAR = st.sampled_from([-(2**63), 2**31, 2**32 + 1, 2**62, 2**63, 10**30])


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {name: st.one_of(st.integers(-2, 9), FAR, st.booleans()) for name in "PMv"},
        optional={"w": st.one_of(st.none(), st.text(), st.floats(), st.integers())},
    )
)
def test_any_sizes(sizes: dict[str, int]) -> None:
    """Sizes of any sort and magnitude give an order or findings."""
    text = """schedule s(P, M, v, w=true):
    flow main(stages=v * P, microbatches=M): rank = stage % P
    cost F = 1 + stage * M / (v + 1)
    on rank r:
        for k in M - v .. M + v:
            F[k % v](k)  BW[v - 1]
"""
    source = Source("s.pipe", text)
    schedule = only_schedule(read(source), source)
    try:
        arrange(bind(schedule, sizes, source), 10_000)
    except PipecError as error:
        assert all(finding.span for finding in error.findings)
