"""Costs and sizes -> the text of a costs file, which reads back as the same costs and sizes."""

from collections.abc import Iterator, Mapping
from fractions import Fraction

from pipec.program.costs import PAIR, SERIAL, Costs, PerStage
from pipec.program.memory import Memory
from pipec.program.pairs import REST, Pairs

Notes = Mapping[str, str]

MOST_DIGITS = 30
"""Digits behind the point; what needs more is written as a fraction."""

WIDEST = 16
"""A matrix of more ranks is written as a table of pairs."""


def costs_text(costs: Costs, memory: Memory | None, notes: Notes, head: str) -> str:
    """The file, with comments above the keys that have notes."""
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    lines += [f'unit = "{costs.unit}"'] if costs.unit else []
    lines += _times(costs, notes)
    lines += _pairs(costs, notes) if costs.pairs else []
    if memory and memory.sizes:
        lines += ["", "[memory]"]
        for key, size in memory.sizes.items():
            lines += [*_note(notes, f"memory.{key}"), f"{key} = {_amounts(size, memory.in_bytes)}"]
    return "\n".join(lines) + "\n"


def _times(costs: Costs, notes: Notes) -> Iterator[str]:
    for key, time in costs.times.items():
        if key == "send" and costs.pairs:
            continue
        yield from _note(notes, key)
        bare = key if key.isidentifier() else f'"{key}"'
        yield f"{bare} = {_amounts(time)}"
    if costs.serial:
        yield f'"{PAIR}" = "{SERIAL}"'


def _pairs(costs: Costs, notes: Notes) -> Iterator[str]:
    """A matrix where every pair of few ranks is known, else a table."""
    ranks = _square(costs.pairs)
    if ranks and "send" not in costs.times:
        yield from (*_note(notes, "send"), "send = [")
        for source in range(ranks):
            row = (costs.pairs.get((source, target), Fraction(0)) for target in range(ranks))
            yield f"    [{', '.join(map(_number, row))}],"
        yield "]"
        return
    yield from ("", *_note(notes, "send"), "[send]")
    for (source, target), time in sorted(costs.pairs.items()):
        yield f'"{source}->{target}" = {_number(time)}'
    if "send" in costs.times:
        yield f"{REST} = {_amounts(costs.times['send'])}"


def _square(pairs: Pairs) -> int:
    """How many ranks there are if every one has a time to every other, else 0."""
    ranks = 1 + max(max(pair) for pair in pairs)
    return ranks if len(pairs) == ranks * (ranks - 1) and ranks <= WIDEST else 0


def _note(notes: Notes, key: str) -> list[str]:
    return [f"# {notes[key]}"] if key in notes else []


def _amounts(amount: PerStage, in_bytes: bool = False) -> str:
    if isinstance(amount, tuple):
        return f"[{', '.join(_amounts(one, in_bytes) for one in amount)}]"
    return f'"{amount}B"' if in_bytes else _number(amount)


def _number(value: Fraction) -> str:
    """A decimal if the value is one, else a fraction as text."""
    digits = 0
    while (value * 10**digits).denominator > 1:
        digits += 1
        if digits > MOST_DIGITS:
            return f'"{value}"'
    whole, rest = divmod(value.numerator * 10**digits // value.denominator, 10**digits)
    return f"{whole}.{rest:0{digits}}" if digits else f"{whole}"
