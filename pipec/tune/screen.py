"""Policies, all at once and roughly: which knobs are worth compiling."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
from pipec.tune.batch import NEVER, Bench, Choices
from pipec.tune.shop import UNLIMITED, Shop
from pipec.tune.texts import Knobs

Array = NDArray[Any]


@dataclass(frozen=True)
class Sketch:
    """What a policy makes without the compiler's finer choices: in ticks, and ticks of memory."""

    knobs: Knobs
    makespan: int
    peak: int


PATIENCE = (Fraction(0), Fraction(1, 2))
"""The fractions of its time that a W waits for something better: each policy is run with both."""


def screened(shop: Shop, knobs: Sequence[Knobs]) -> list[Sketch]:
    """Run policies; those that get stuck are left out."""
    bench = Bench(shop)
    found: dict[Knobs, Sketch] = {}
    for patience in PATIENCE:
        outcome = bench.run(_choices(shop, knobs, patience))
        base = np.array(shop.base)
        for one, end, peak in zip(knobs, outcome.ends, outcome.peak, strict=True):
            known = found.get(one)
            if end < NEVER and (known is None or end < known.makespan):
                found[one] = Sketch(one, int(end), int((peak + base).max()))
    return list(found.values())


def _choices(shop: Shop, knobs: Sequence[Knobs], patience: Fraction) -> Choices:
    lines = shop.lines.lines
    count, numbers = len(knobs), max(line.total for line in lines)
    stages = len(lines) + 1
    key = np.empty((count, len(lines), numbers), np.int64)
    caps = np.full((count, len(lines)), UNLIMITED)
    most = np.empty((count, shop.ranks), np.int64)
    number = np.arange(numbers) * stages
    places = _places(shop)
    for at, one in enumerate(knobs):
        group = _groups(one.prefer)
        for line_at, line in enumerate(lines):
            tie = line.stage if line.kind == Kind.B else stages - 1 - line.stage
            key[at, line_at] = group[line.kind] * stages * numbers + number + tie
            if line.kind == Kind.F and one.caps:
                start, slope = one.caps[places[line_at]]
                caps[at, line_at] = max(start + slope * line.rank, 1) if slope else start
        for rank, own in enumerate(shop.on):
            most[at, rank] = one.held * max(shop.keep[line] for line in own)
    wait = np.array(
        [int(patience * time) if line.kind == Kind.W else 0 for line, time in _timed(shop)]
    )
    return Choices(key, caps, most, np.repeat(wait[None], count, axis=0))


def _timed(shop: Shop) -> list[tuple[Any, int]]:
    return list(zip(shop.lines.lines, shop.times.duration, strict=True))


def _groups(prefer: str) -> dict[Kind, int]:
    """Where a kind stands among what is preferred; the W of a BW comes right behind its B."""
    words = prefer.split(" > ")
    if "BW" in words:
        return {Kind.F: 1 + words.index("F"), Kind.B: 1 + words.index("BW"), Kind.W: 0}
    return {kind: words.index(kind.name) for kind in (Kind.F, Kind.B, Kind.W)}


def _places(shop: Shop) -> list[int]:
    """Per line which chunk of its rank, or which flow, its stage is."""
    several = len(shop.placement.flows) > 1
    seen: dict[tuple[int, int], dict[int, int]] = {}
    found = []
    for line in shop.lines.lines:
        chunks = seen.setdefault((line.flow, line.rank), {})
        chunk = chunks.setdefault(line.stage, len(chunks))
        found.append(line.flow if several else chunk)
    return found
