"""What instructions cost: time per kind and stage, as exact numbers.

Costs are rationals and are counted in whole ticks of one common size, so that a makespan is never
79.35000000000001.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from math import ceil, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.amounts import written
from pipec.findings import Finding, PipecError, listed, nearest
from pipec.program.columns import look_up, narrow
from pipec.program.effects import COMPUTE, EFFECTS, EXPERTS, Kind
from pipec.program.pairs import REST, Pair, Pairs, by_pair, put_pairs, stated_pairs
from pipec.program.parts import OUT, Layout, Part
from pipec.program.program import Table

Array = NDArray[Any]
PerStage = Fraction | tuple[Fraction, ...]

PAIR = "F&B"
SERIAL = "serial"
PART_KEY = re.compile(r"(F|B|W|BW)\.[A-Za-z_]\w*")
"""The cost of one part of an opened chunk: `F.attention`."""
KEYS = (*dict.fromkeys(effect.cost for effect in EFFECTS.values()), PAIR)
UNITS = ("s", "ms", "us", "ns")
"""What times may be said to be counted in."""
FINEST = 10**6
"""Where no common tick is as coarse, times are rounded to this share of the largest one."""

LARGEST, _LEAST = 10**12, Fraction(1, 10**18)
"""The largest time, and the smallest difference of two times."""

_NUMBER = re.compile(
    r"(\d{1,13}(\.\d{1,30})?|\.\d{1,30})([eE][+-]?\d{1,2})?|\d{1,31}/0*[1-9]\d{0,18}", re.ASCII
)


@dataclass(frozen=True)
class Costs:
    """Time per cost key (`F`, `B`, `W`, `BW`, `send`, `sum`, `F&B`), one number or one per stage.

    Unless stated, BW costs B + W, and an overlapped pair F&B costs F plus its backward. A pair is
    one unit: it begins when both inputs are there and both results exist at its end, which is how
    bubbles are published. With `F&B=serial` the forward runs first and its result leaves at once,
    which is how the runtime executes chunks that have no parts.

    `pairs` are messages from one rank to another that cost something else than `send`; `unit` is
    what times are counted in, where that was said.
    """

    times: Mapping[str, PerStage] = field(default_factory=dict)
    serial: bool = False
    pairs: Pairs = field(default_factory=dict)
    unit: str = ""

    @classmethod
    def of(cls, times: Mapping[str, Any]) -> "Costs":
        """Costs from numbers (or texts such as `"1.2"`, or a list with one number per stage).

        `send` may also be a matrix (`send[from][to]`) or a table (`{"0->1": 0.05, "rest": 0.4}`).
        Raises `PipecError` for an unknown key or a value that is not a number of 0 or more.
        """
        serial = times.get(PAIR) == SERIAL
        stated = {key: value for key, value in times.items() if not (serial and key == PAIR)}
        pairs: Pairs = {}
        if by_pair(stated.get("send")):
            between, rest = stated_pairs(stated.pop("send"))
            pairs = {pair: _time("send", time) for pair, time in between.items()}
            stated |= {"send": rest[REST]} if rest else {}
        return cls({_key(key): _times(key, value) for key, value in stated.items()}, serial, pairs)

    def override(self, other: "Costs") -> "Costs":
        """These costs, with everything that `other` states taking its place."""
        sends = bool(other.pairs) or "send" in other.times
        gone = {*((PAIR,) if other.serial else ()), *(("send",) if sends else ())}
        kept = {key: time for key, time in self.times.items() if key not in gone}
        serial = other.serial or (self.serial and PAIR not in other.times)
        pairs = other.pairs if sends else self.pairs
        return Costs({**kept, **other.times}, serial, pairs, other.unit or self.unit)

    def time(self, key: str, stage: int) -> Fraction:
        """The time of one instruction in a stage; for a pair, None stands for `not stated`."""
        stated = self.times.get(key)
        if stated is None:
            return self.time("B", stage) + self.time("W", stage) if key == "BW" else _DEFAULT[key]
        return stated[min(stage, len(stated) - 1)] if isinstance(stated, tuple) else stated

    def message(self, source: int, target: int) -> Fraction:
        """The time of a message from one rank to another, where `send` does not differ by stage."""
        return self.pairs.get((source, target), self.time("send", 0))

    @property
    def differ(self) -> bool:
        """Whether some time differs from stage to stage."""
        return any(isinstance(time, tuple) for time in self.times.values())

    @cached_property
    def by_kind(self) -> tuple[Array, int]:
        """`per_stage` where stages are alike and no chunk is opened, in a narrow column."""
        ticks, scale = per_stage(self, 1)
        return ticks.astype(narrow(_most(self, scale)), copy=False), scale

    def part(self, key: str, part: Part, stage: int, parts: Layout) -> Fraction:
        """The time of one compute part: as stated, or an equal share of the chunk's time.

        The part `out` has no share. Unless stated, a part's BW costs its B and its W.
        """
        stated = self.times.get(f"{key}.{part.name}")
        if stated is not None:
            return stated[min(stage, len(stated) - 1)] if isinstance(stated, tuple) else stated
        if key == "BW" and "BW" not in self.times:
            return sum((self.part(one, part, stage, parts) for one in ("B", "W")), Fraction(0))
        return Fraction(0) if part.name == OUT else self.time(key, stage) / _sharing(parts)

    def __str__(self) -> str:
        parts = [
            f"{key}={_text(self.times.get(key, _DEFAULT.get(key)))}" for key in ("F", "B", "W")
        ]
        parts += [f"{key}={_text(self.times[key])}" for key in self._beside() if key in self.times]
        parts += [f"{PAIR}={SERIAL}"] if self.serial else []
        parts += [f"{key}={_text(self.times[key])}" for key in self.times if "." in key]
        parts.append(f"send={self._send()}")
        return ", ".join(parts) + (f", in {self.unit}" if self.unit else "")

    def _send(self) -> str:
        if not self.pairs:
            return _text(self.times.get("send", Fraction(0)))
        rest = [self.time("send", 0)] if "send" in self.times else []
        return f"{_range([*self.pairs.values(), *rest])} by pair"

    @staticmethod
    def _beside() -> tuple[str, ...]:
        return ("BW", PAIR, "sum", "dispatch", "combine")


def _key(key: str) -> str:
    plain = PAIR if key.replace(" ", "") in (PAIR, "F&BW") else key
    if plain not in KEYS and not PART_KEY.fullmatch(plain):
        finding = Finding("usage", f"there is no cost `{key}`", None, listed(KEYS), f"`{key}`")
        raise PipecError([replace(finding, hint=nearest(key, KEYS))])
    return plain


def _times(key: str, value: Any) -> PerStage:
    if isinstance(value, list | tuple) and value:
        return tuple(_time(key, part) for part in value)
    return _time(key, value)


def _time(key: str, value: Any) -> Fraction:
    text = written(value)
    number = value if isinstance(value, int) else _NUMBER.fullmatch(text) and Fraction(text)
    if number and number > LARGEST:
        expected = f"at most {LARGEST:,}"
        raise PipecError(
            [Finding("usage", f"the cost of `{key}` is too large", None, expected, text)]
        )
    if not _NUMBER.fullmatch(text):
        expected = "a number of 0 or more, such as 1 or 0.25"
        expected += f", or `{SERIAL}`" if key == PAIR else ""
        raise PipecError(
            [Finding("usage", f"the cost of `{key}` is not a number", None, expected, text)]
        )
    exact = Fraction(text)
    return exact if exact.denominator <= 1 / _LEAST else Fraction(round(exact / _LEAST)) * _LEAST


_SHOWN = 8
"""Times of so many stages are shown one by one."""

_DEFAULT = {key: Fraction(int(key in ("F", "B", "W"))) for key in KEYS}


def _text(time: PerStage | None) -> str:
    if isinstance(time, tuple):
        each = ", ".join(f"{float(one):g}" for one in time)
        return f"[{each}]" if len(time) <= _SHOWN else f"{_range(time)} by stage"
    return "?" if time is None else f"{float(time):g}"


def _range(times: Sequence[Fraction]) -> str:
    least, most = min(times), max(times)
    return f"{float(least):g}" + (f" to {float(most):g}" if most > least else "")


@dataclass(frozen=True)
class Durations:
    """Ticks per row of a table; a tick is `1 / scale` of the unit. A pair's time is on its first
    row.
    """

    ticks: Array
    scale: int
    serial: bool


def durations(table: Table, costs: Costs, serial: bool | None = None) -> Durations:
    """The time of every row of a table. `serial` overrides how pairs run."""
    serial = costs.serial if serial is None else serial
    layouts = table.placement.layouts
    if costs.differ:
        by_kind, scale = per_stage(costs, int(table.placement.stages.max()), layouts)
        ticks = by_kind[table.kind, _stages(table, costs)]
    else:
        by_kind, scale = per_stage(costs, 1, layouts) if layouts else costs.by_kind
        ticks = look_up(by_kind.ravel(), table.kind)
    if costs.pairs:
        put_pairs(table, *between(costs, scale), ticks)
    if layouts:
        _open(table, costs, scale, ticks)
    elif not serial:
        _pair_up(table, costs, scale, ticks)
    return Durations(ticks, scale, serial)


def _most(costs: Costs, scale: int) -> int:
    """More ticks than a row can have: an OVERLAP takes as long as F, B and W at most."""
    return 4 * (ceil(max([Fraction(1), *_stated(costs)])) * scale + 1)


def _stages(table: Table, costs: Costs) -> Array:
    """The stage of each row that computes; and, where their times differ, of the operation that a
    message is for, and of a gradient sum.
    """
    stage, rows = np.zeros(len(table), np.int64), table.compute
    if isinstance(costs.times.get("send"), tuple):
        rows = np.flatnonzero(COMPUTE[table.kind] | np.isin(table.kind, (Kind.SEND, Kind.RECV)))
    stage[rows] = table.placement.stage_of(table.operation[rows])
    if isinstance(costs.times.get("sum"), tuple):
        sums = table.kind == Kind.SUM
        stage[sums] = table.operation[sums]
    return stage


def between(costs: Costs, scale: int) -> tuple[list[Pair], list[int]]:
    """The pairs of ranks with a time of their own, and these times in ticks."""
    return [*costs.pairs], whole("costs", [*costs.pairs.values()], scale)


def per_stage(costs: Costs, stages: int, layouts: tuple[Layout, ...] = ()) -> tuple[Array, int]:
    """`[kind, stage]`: the ticks of one instruction, and how many ticks a unit has."""
    scale, told = _scale(costs, layouts), stages if costs.differ else 1
    exact = [costs.time(EFFECTS[kind].cost, stage) for kind in Kind for stage in range(told)]
    ticks = np.array(whole("costs", exact, scale), np.int64).reshape(len(Kind), told)
    return (ticks if told == stages else ticks.repeat(stages, axis=1)), scale


def _open(table: Table, costs: Costs, scale: int, ticks: Array) -> None:
    """The times of parts and of all-to-alls."""
    placement = table.placement
    rows = np.flatnonzero(COMPUTE[table.kind] | EXPERTS[table.kind])
    stage = placement.stage_of(table.operation[rows])
    times = np.zeros((len(Kind), len(placement.layouts), placement.widest), np.int64)
    for number, parts in enumerate(placement.layouts):
        for place, part in enumerate(parts):
            for kind in Kind:
                key = EFFECTS[kind].cost
                if COMPUTE[kind]:
                    exact = costs.part(key, part, number, parts)
                    times[kind, number, place] = whole("costs", [exact], scale)[0]
                elif EXPERTS[kind]:
                    exact = costs.time(key, number)
                    times[kind, number, place] = whole("costs", [exact], scale)[0]
    ticks[rows] = times[table.kind[rows], stage, table.part[rows]]


MOST_TICKS = 2**61


def whole(what: str, amounts: Sequence[Fraction], scale: int) -> list[int]:
    """Amounts in whole ticks. Raises `PipecError` where one needs more than 61 bits."""
    ticks = [_ticks(amount, scale) for amount in amounts]
    if max(map(abs, ticks), default=0) >= MOST_TICKS:
        raise too_large(what)
    return ticks


def _ticks(amount: Fraction, scale: int) -> int:
    ticks, rest = divmod(amount.numerator * scale, amount.denominator)
    return round(amount * scale) if rest else ticks


def too_large(what: str) -> PipecError:
    """Costs or amounts that add up to more than 63 bits."""
    message = f"these {what} are too large or too fine for a program of this size"
    return PipecError([Finding("value", message, hint="state fewer digits")])


def _pair_up(table: Table, costs: Costs, scale: int, ticks: Array) -> None:
    """Put the time of each OVERLAP on its first row."""
    first, second = table.pairs
    if not len(first):
        return
    ticks[first] = ticks.take(first) + ticks.take(second)
    ticks[second] = 0
    if PAIR in costs.times:
        times = [costs.time(PAIR, stage) for stage in range(int(table.placement.stages.max()))]
        pair = np.array(whole("costs", times, scale), np.int64)
        forward = np.where(table.kind.take(first) == Kind.F, first, second)
        ticks[first] = pair.take(table.placement.stage_of(table.operation.take(forward)))


def _sharing(parts: Layout) -> int:
    """How many parts of a chunk share the time of an operation; at least 1."""
    return max(sum(part.wire is None and part.name != OUT for part in parts), 1)


def _stated(costs: Costs) -> list[Fraction]:
    """Every time that is stated."""
    stated = [*costs.pairs.values()]
    for times in costs.times.values():
        stated += times if isinstance(times, tuple) else (times,)
    return stated


def _scale(costs: Costs, layouts: tuple[Layout, ...] = ()) -> int:
    """The smallest number of ticks in a unit with which every stated time is whole.

    Times that have no common tick, or too fine a one (measured ones), are rounded to six digits of
    the largest.
    """
    stated = _stated(costs)
    implied = [time for key, time in _DEFAULT.items() if key not in costs.times]
    shares = {_sharing(parts) for parts in layouts}
    stated += [time / share for time in (*stated, *implied) for share in shares]
    exact = lcm(1, *(time.denominator for time in stated))
    if exact == 1:
        return 1
    largest = max(time for time in [*stated, *implied, _LEAST] if time)
    return min(exact, max(1, round(FINEST / min(largest, Fraction(1)))))
