"""What people state about memory -> sizes: in one unit, without contradictions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipec.amounts import parse_amount, written
from pipec.findings import Finding, PipecError, listed, nearest
from pipec.program.costs import PerStage
from pipec.program.effects import Value

PARTS = ("parameters", "gradients", "optimizer")
CONSTANT = (*PARTS, "state")
"""What a held stage takes all the time; `state` stands for the other three together."""

SIZE_OF = {
    Value.SAVED: "activation",
    Value.STASH: "stash",
    Value.ACTIVATION: "message",
    Value.GRADIENT: "message",
}
"""The size of each value that passes between instructions (see `effects.py`)."""

KEPT = (Value.SAVED, Value.STASH)
"""Values that an operation makes and a later one of the same stage releases."""

BUFFER = "dispatch"
"""The size of what one all-to-all of experts sends or receives."""

SIZES = (*CONSTANT, *dict.fromkeys(SIZE_OF.values()), BUFFER)
CHANGES = ("F", "B", "W", "BW")
KEYS = (*SIZES, *CHANGES)
"""What may be stated: sizes, or what operations take and give back."""

RIVALS = {"state": PARTS, **dict.fromkeys(PARTS, ("state",))}
"""What a size says in other words."""


@dataclass(frozen=True)
class Stated:
    """A size or a change as stated."""

    amount: PerStage
    in_bytes: bool = False


@dataclass(frozen=True)
class Settled:
    """Sizes per key of `SIZES`; or what is wrong with the statements, each with its key."""

    sizes: Mapping[str, PerStage]
    in_bytes: bool
    wrong: tuple[tuple[str, Finding], ...] = ()


def settle(stated: Mapping[str, Stated]) -> Settled:
    """The sizes that statements describe.

    Changes are another way to state sizes: `F = 2, B = -1` is an activation of 2 and a stash of 1.
    Fractions of a byte are rounded up.
    """
    in_bytes = any(one.in_bytes for one in stated.values())
    wrong = (*_doubled(stated), *_mixed(stated), *_negative(stated))
    if wrong:
        return Settled({}, in_bytes, wrong)
    amounts = {key: one.amount for key, one in stated.items()}
    sizes = {key: amounts[key] for key in SIZES if key in amounts}
    if any(key in amounts for key in CHANGES):
        forward = amounts.get("F", unstated("activation", in_bytes))
        sizes["activation"] = forward
        sizes["stash"] = _each(lambda f, b: f + b, forward, amounts.get("B", Fraction(0)))
        wrong = tuple(_unbalanced(amounts, sizes))
    if in_bytes:
        sizes = {key: _each(_rounded_up, size) for key, size in sizes.items()}
    return Settled(sizes, in_bytes, wrong)


def unstated(key: str, in_bytes: bool) -> Fraction:
    """The size of what has none stated."""
    return Fraction(int(key == "activation" and not in_bytes))


def _doubled(stated: Mapping[str, Stated]) -> list[tuple[str, Finding]]:
    """What is stated in two ways: `state` and a part of it, a size and a change."""
    found = []
    both = [key for key in stated if "state" in stated and "state" in RIVALS.get(key, ())]
    sizes = [key for key in stated if key in ("activation", "stash")]
    changes = [key for key in stated if key in CHANGES]
    if both:
        hint = f"`state` is {', '.join(f'`{part}`' for part in PARTS)} together"
        found.append((both[0], "state", hint))
    if sizes and changes:
        hint = "F takes an activation; B gives it back and keeps a stash, which W gives back"
        found.append((changes[0], sizes[0], hint))
    return [
        (
            key,
            Finding(
                "value",
                f"`{key}` and `{other}` state the same thing",
                expected="one of them",
                found="both",
                hint=hint,
            ),
        )
        for key, other, hint in found
    ]


def _mixed(stated: Mapping[str, Stated]) -> list[tuple[str, Finding]]:
    """Plain numbers beside bytes; 0 is 0 in any unit."""
    plain = [key for key, one in stated.items() if not one.in_bytes and any_of(one.amount)]
    other = next((key for key, one in stated.items() if one.in_bytes), None)
    if other is None or not plain:
        return []
    key = plain[0]
    message = f"`{key}` is a plain number, `{other}` is in bytes"
    value = next(filter(None, values(stated[key].amount)))
    expected, found = "an amount in bytes, such as `1.5GB` or `8B`", f"{float(value):,.6g}"
    return [(key, Finding("value", message, None, expected, found))]


def _negative(stated: Mapping[str, Stated]) -> list[tuple[str, Finding]]:
    """Sizes are 0 or more, and so is what F takes."""
    return [
        (key, _off(f"`{key}` is negative", "0 or more", one.amount, stage))
        for key, one in stated.items()
        if key in (*SIZES, "F")
        for stage in _first(one.amount, lambda value: value < 0)
    ]


def _unbalanced(
    amounts: Mapping[str, PerStage], sizes: Mapping[str, PerStage]
) -> list[tuple[str, Finding]]:
    """What F takes is given back in full by B and W, and by BW."""
    activation, stash = sizes["activation"], sizes["stash"]
    for stage in _first(stash, lambda value: value < 0):
        least = f"{float(-at_stage(activation, stage)):,.6g} or more"
        message = "B gives back more than F took"
        return [("B", _off(message, least, amounts["B"], stage, activation))]
    wrong = []
    for key, size, words in (("W", stash, "F and B have left"), ("BW", activation, "F took")):
        given = amounts.get(key, _each(lambda kept: -kept, size))
        for stage in _first(_each(lambda one, kept: one + kept, given, size), bool):
            expected = f"{float(-at_stage(size, stage)):,.6g}"
            message = f"{key} does not give back what {words}"
            wrong.append((key, _off(message, expected, given, stage, size)))
    return wrong


def _off(
    message: str, expected: str, amount: PerStage, stage: int, other: PerStage = Fraction(0)
) -> Finding:
    """An amount that cannot be, at a stage if it (or the other) depends on that."""
    several = isinstance(amount, tuple) or isinstance(other, tuple)
    notes = (f"at stage = {stage}",) if several else ()
    found = f"{float(at_stage(amount, stage)):,.6g}"
    return Finding("value", message, None, expected, found, notes=notes)


def read_stated(key: str, value: Any) -> Stated:
    """A number, a text such as `"1.5GB"`, or a list with one per stage. Raises `PipecError`."""
    if key not in KEYS:
        message, hint = f"there is no memory `{key}`", nearest(key, KEYS)
        raise PipecError([Finding("usage", message, None, listed(KEYS), f"`{key}`", hint)])
    several = isinstance(value, list | tuple) and bool(value)
    amounts = [_amount(key, part) for part in (value if several else [value])]
    in_bytes = any(is_one for _, is_one in amounts)
    if mixed := [amount for amount, is_one in amounts if amount and is_one != in_bytes]:
        message, found = f"some of `{key}` is in bytes", f"{float(mixed[0]):,.6g}"
        raise PipecError([Finding("usage", message, None, "all of it in bytes", found)])
    parts = tuple(amount for amount, _ in amounts)
    return Stated(parts if several else parts[0], in_bytes)


def _amount(key: str, value: Any) -> tuple[Fraction, bool]:
    text = written(value).strip()
    sign = -1 if text.startswith("-") and key in CHANGES else 1
    amount = parse_amount(text[1:] if sign < 0 else text)
    if amount is None or isinstance(value, bool):
        expected = "an amount of 0 or more, such as `1.5GB`, `512MiB` or 2"
        message = f"the memory of `{key}` is not an amount"
        raise PipecError([Finding("usage", message, None, expected, text[:60])])
    return sign * amount[0], amount[1]


# --- one number or one per stage ------------------------------------------------------------------


def values(amount: PerStage) -> tuple[Fraction, ...]:
    """The numbers that were stated."""
    return amount if isinstance(amount, tuple) else (amount,)


def any_of(amount: PerStage) -> bool:
    """Whether it is not 0 in every stage."""
    return any(values(amount))


def at_stage(amount: PerStage, stage: int) -> Fraction:
    """The last number holds for all stages behind it."""
    return amount[min(stage, len(amount) - 1)] if isinstance(amount, tuple) else amount


def _each(function: Callable[..., Fraction], *amounts: PerStage) -> PerStage:
    """A function of amounts, stage by stage."""
    if not any(isinstance(amount, tuple) for amount in amounts):
        return function(*amounts)
    longest = max(len(values(amount)) for amount in amounts)
    return tuple(function(*(at_stage(one, stage) for one in amounts)) for stage in range(longest))


def _first(amount: PerStage, test: Callable[[Fraction], bool]) -> list[int]:
    """The first stage whose number passes a test, if there is one."""
    return [stage for stage, value in enumerate(values(amount)) if test(value)][:1]


def _rounded_up(amount: Fraction) -> Fraction:
    return Fraction(-(-amount.numerator // amount.denominator))
