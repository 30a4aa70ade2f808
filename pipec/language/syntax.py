"""The syntax tree, named like the grammar's rules. Equality ignores where a node stood."""

from dataclasses import dataclass, field
from fractions import Fraction

from pipec.source import Span

LARGEST_NUMBER = 2**63 - 1
"""Numbers are 64-bit integers."""

LATER = frozenset("def layer".split())
"""Words that begin lines of a later version of the language."""

RESERVED = LATER | frozenset(
    "F B W BW schedule require flow layers overlap let cost memory limit on greedy prefer every at "
    "repeat for in if elif else and or not true false min max abs".split()
)
"""Words that no parameter, flow or name may take."""


def _span() -> Span:
    return field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """`3`, `0.25` where decimals are allowed, or `1.5GB` (in bytes) where memory is meant."""

    value: int | Fraction
    span: Span = _span()
    in_bytes: bool = False


@dataclass(frozen=True, slots=True)
class Boolean:
    """`true` or `false`."""

    value: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name:
    """A parameter, a flow, or a name bound by `let`, `for` or `on rank`."""

    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` or `not x`."""

    operator: str
    operand: "Expression"
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """`x + y` and the like; also `and`, `or`, which leave the right side alone if they can."""

    operator: str
    left: "Expression"
    right: "Expression"
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Comparison:
    """`a < b <= c`: each neighbouring pair is compared."""

    operators: tuple[str, ...]
    operands: tuple["Expression", ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Conditional:
    """`chosen if test else other`; what is not chosen is not evaluated."""

    test: "Expression"
    chosen: "Expression"
    other: "Expression"
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    """`min(a, b)`, `max(a, b)`, `abs(a)`."""

    function: str
    arguments: tuple["Expression", ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Operation:
    """`F`, `F[near]`, `F[1]`, `F[near, 1](i)`: one compute operation, or a count of them in a
    `limit`.
    """

    kind: str
    selectors: tuple["Expression", ...]
    microbatch: "Expression | None"
    span: Span = _span()


Expression = Number | Boolean | Name | Unary | Binary | Comparison | Conditional | Call | Operation


@dataclass(frozen=True, slots=True)
class Unit:
    """One operation, or two run as an overlapped pair: `F & BW`."""

    operations: tuple[Operation, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Units:
    """A line of operations, run from left to right."""

    units: tuple[Unit, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Let:
    """`let name = value`."""

    name: Name
    value: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Repeat:
    """`repeat times: body`."""

    times: Expression
    body: tuple["Statement", ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class For:
    """`for name in start .. stop: body`, half open."""

    name: Name
    start: Expression
    stop: Expression
    body: tuple["Statement", ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Branch:
    """One arm of an `if`; the `else` arm has no test."""

    word: str
    test: Expression | None
    body: tuple["Statement", ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class If:
    """`if`, any number of `elif`, perhaps `else`."""

    branches: tuple[Branch, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that could not be read, with the names it may have bound; only in trees that come with
    findings.
    """

    names: tuple[str, ...]
    body: tuple["Statement", ...]
    span: Span = _span()


Statement = Units | Let | Repeat | For | If | Broken


@dataclass(frozen=True, slots=True)
class Docstring:
    """`\"\"\"text\"\"\"` before a schedule, or as its first line."""

    text: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Parameter:
    """`M` or `v=2`. The first parameter is the number of ranks."""

    name: Name
    default: Expression | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Require:
    """`require test, "message"`."""

    test: Expression
    message: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Argument:
    """`stages=P` in the head of a flow."""

    name: Name
    value: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class FlowItem:
    """`flow name(stages=.., microbatches=..): rank = placement`, in terms of `stage`."""

    name: Name
    arguments: tuple[Argument, ...]
    placement: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Layers:
    """`layers count: attention dispatch mlp combine`: parts of every chunk, in terms of `stage`."""

    count: Expression
    parts: tuple[Name, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class PartOf:
    """`F.attention`: what one kind of operation does in a part."""

    kind: str
    part: Name
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Lane:
    """`compute: F.attention B.mlp` or `wire: ...`: what a lane runs, in issue order."""

    name: str
    parts: tuple[PartOf, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Pattern:
    """`overlap F & BW:` and its lanes: how the parts of such pairs are issued."""

    pair: Unit
    body: tuple[Lane | Broken, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Setting:
    """`F = 1`, `F & BW = 3`, `F.mlp = 1`, `send = 0.1`: a cost or an amount of memory."""

    pattern: Unit | PartOf | Name
    value: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Settings:
    """`cost ...` or `memory ...`: defaults, which the command line may override."""

    word: str
    settings: tuple[Setting, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Limit:
    """`limit memory <= ...`: checked on every rank; in a policy also `limit F - W <= ...`."""

    test: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class OnRank:
    """`on rank r:` and the program that each rank runs."""

    name: Name
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Prefer:
    """`prefer F > B > W`: what a free rank takes first."""

    operations: tuple[Operation, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Greedy:
    """`greedy on rank r:` and the policy by which each rank takes what is ready."""

    name: Name
    body: tuple[Let | Prefer | Limit | Broken, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Slot:
    """`F[0] at 2 * r`: the slot of microbatch 0; microbatch i has the one i periods later."""

    operation: Operation
    value: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Every:
    """`every period on rank r:` and the slots of one microbatch."""

    period: Expression
    name: Name
    body: tuple[Let | Slot | Broken, ...]
    span: Span = _span()


Block = OnRank | Greedy | Every
"""The three ways to decide an order."""

Item = Docstring | Let | Require | FlowItem | Layers | Pattern | Settings | Limit | Block | Broken


@dataclass(frozen=True, slots=True)
class ScheduleItem:
    """`schedule name(parameters):` and its items."""

    name: Name
    parameters: tuple[Parameter, ...]
    items: tuple[Item, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class File:
    """A whole text."""

    items: tuple[Docstring | ScheduleItem | Broken, ...]
    span: Span = _span()


def names_in(expression: Expression) -> set[str]:
    """The names that occur in an expression."""
    match expression:
        case Name():
            return {expression.name}
        case Unary():
            return names_in(expression.operand)
        case Binary():
            return names_in(expression.left) | names_in(expression.right)
        case Comparison():
            return set().union(*map(names_in, expression.operands))
        case Conditional():
            sides = (expression.test, expression.chosen, expression.other)
            return set().union(*map(names_in, sides))
        case Call():
            return set().union(*map(names_in, expression.arguments))
    return set()
