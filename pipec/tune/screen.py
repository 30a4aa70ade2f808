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
    """What a policy makes without the compiler's finer choices."""

    knobs: Knobs
    makespan: Fraction
    peak: Fraction


PATIENCE = (Fraction(0), Fraction(1, 2))
"""The fractions of its time that a W waits for something better: each policy is run with both."""


def screened(shop: Shop, knobs: Sequence[Knobs]) -> list[Sketch]:
    """Run policies, so many at once as fit in memory; those that get stuck are left out."""
    bench, base = Bench(shop), np.array(shop.base)
    found: dict[Knobs, tuple[int, int]] = {}
    at_once = shop.fitting(len(knobs))
    for begin in range(0, len(knobs), at_once):
        some = knobs[begin : begin + at_once]
        for patience in PATIENCE:
            outcome = bench.run(_choices(shop, some, patience))
            for one, end, peak in zip(some, outcome.ends, outcome.peak, strict=True):
                known = found.get(one)
                if end < NEVER and (known is None or end < known[0]):
                    found[one] = int(end), int((peak + base).max())
    return [
        Sketch(one, Fraction(end, shop.ticks), Fraction(peak, shop.scale))
        for one, (end, peak) in found.items()
    ]


ALIKE = 3
"""How many are compiled for each amount held, where messages wait for each other."""


def shortest(sketches: Sequence[Sketch], each: int = 1) -> list[Sketch]:
    """Those that fewer than `each` others are as good as, in time and in memory at once."""
    best: list[Sketch] = []
    for sketch in sorted(sketches, key=lambda one: (one.makespan, one.peak)):
        if sum(sketch.peak >= other.peak for other in best) < each:
            best.append(sketch)
    return best


def _choices(shop: Shop, knobs: Sequence[Knobs], patience: Fraction) -> Choices:
    lines = shop.lines.lines
    prefers = list(dict.fromkeys(one.prefer for one in knobs))
    keys = np.stack([_keys(shop, prefer) for prefer in prefers])
    key = keys[[prefers.index(one.prefer) for one in knobs]]
    largest = np.array([max((shop.keep[line] for line in own), default=0) for own in shop.on])
    most = np.array([one.held for one in knobs])[:, None] * largest
    wait = [int(patience * time) if line.kind == Kind.W else 0 for line, time in _timed(shop)]
    waits = np.broadcast_to(np.array(wait), (len(knobs), len(lines)))
    return Choices(key, _bounds(shop, knobs), most, waits)


def _keys(shop: Shop, prefer: str) -> Array:
    """`[line, number]`: what is preferred first, then by microbatch, then by stage."""
    lines, group = shop.lines.lines, _groups(prefer)
    stages, numbers = len(lines) + 1, max(line.total for line in lines)
    own = [
        group[line.kind] * stages * numbers
        + (line.stage if line.kind == Kind.B else stages - 1 - line.stage)
        for line in lines
    ]
    return np.array(own)[:, None] + np.arange(numbers) * stages


def _bounds(shop: Shop, knobs: Sequence[Knobs]) -> Array:
    """`[policy, line]`: for each F how many of its line may be in flight."""
    bounds = np.full((len(knobs), len(shop.lines.lines)), UNLIMITED)
    places = _places(shop)
    capped = [at for at, one in enumerate(knobs) if one.caps]
    if not capped:
        return bounds
    caps = np.array([knobs[at].caps for at in capped])
    for number, line in enumerate(shop.lines.lines):
        if line.kind == Kind.F:
            start, slope = caps[:, places[number]].T
            least = np.where(slope == 0, 0, 1)
            bounds[capped, number] = np.maximum(start + slope * line.rank, least)
    return bounds


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
