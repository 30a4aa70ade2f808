"""Messages that cost differently from pair to pair of ranks: inside a node, between nodes."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, PipecError, listed
from pipec.program.effects import Kind
from pipec.program.placement import Placement
from pipec.program.program import Table

Array = NDArray[Any]
Pair = tuple[int, int]
Pairs = Mapping[Pair, Fraction]
"""(from, to) -> the time of a message."""

REST = "rest"
"""In a table of pairs: all that are not named."""

_PAIR = re.compile(r"(\d{1,5})\s*(<?->)\s*(\d{1,5})", re.ASCII)


def by_pair(value: Any) -> bool:
    """Whether a cost is stated as a matrix or as a table of pairs."""
    rows = value if isinstance(value, list | tuple) else ()
    return isinstance(value, Mapping) or any(isinstance(row, list | tuple) for row in rows)


def stated_pairs(value: Any) -> tuple[dict[Pair, Any], dict[str, Any]]:
    """What a matrix (`value[from][to]`) or a table (`{"0->1": 1, "1<->2": 2, "rest": 3}`) says of
    each pair, and of the rest.

    Raises `PipecError` where it is neither.
    """
    if len(value) < (1 if isinstance(value, Mapping) else 2):
        expected = "a matrix of 2 or more ranks, or a table with pairs or `rest`"
        raise _wrong("the cost of `send` names no two ranks", expected, str(value))
    if isinstance(value, Mapping):
        pairs = [
            (pair, time) for key, time in value.items() if key != REST for pair in _pairs(str(key))
        ]
        named: set[Pair] = set()
        for pair, _ in pairs:
            if pair in named:
                found = f"`{pair[0]}->{pair[1]}` again"
                raise _wrong("the cost of a message is given twice", "each pair once", found)
            named.add(pair)
        return dict(pairs), {key: time for key, time in value.items() if key == REST}
    for number, row in enumerate(value):
        if not isinstance(row, list | tuple) or len(row) != len(value):
            expected = f"{len(value)} rows of {len(value)} numbers: row FROM, column TO"
            found = f"{len(row)} in row {number}" if isinstance(row, list | tuple) else str(row)
            raise _wrong("the cost of `send` is no square matrix", expected, found)
    return {
        (source, target): time
        for source, row in enumerate(value)
        for target, time in enumerate(row)
        if source != target
    }, {}


def _pairs(key: str) -> list[Pair]:
    match = _PAIR.fullmatch(key.strip())
    if not match or match[1] == match[3]:
        expected = f"two ranks, such as `0->1`, or `0<->1` for both ways, or {listed([REST])}"
        raise _wrong("this is no pair of ranks", expected, f"`{key}`")
    source, target = int(match[1]), int(match[3])
    both = [(target, source)] if match[2] == "<->" else []
    return [(source, target), *both]


def _wrong(message: str, expected: str, found: str) -> PipecError:
    return PipecError([Finding("usage", message, None, expected, found)])


def unknown_pair(pairs: Pairs, placement: Placement) -> Finding | None:
    """The finding for two ranks that exchange messages at no known cost."""
    for source, target in placement.neighbours:
        if (source, target) not in pairs:
            known = 1 + max(max(pair) for pair in pairs)
            message = f"there is no cost of a message from rank {source} to rank {target}"
            expected, found = f'`"{source}->{target}"`', f"costs of {len(pairs)} other pairs"
            hint = f"the costs know {known} ranks, the schedule has {placement.ranks}"
            if placement.ranks <= known:
                hint = f"`{REST} = ...` says it for all pairs that are not named"
            return Finding("usage", message, None, expected, found, hint)
    return None


def put_pairs(table: Table, pairs: Sequence[Pair], times: Sequence[int], ticks: Array) -> None:
    """Give each SEND and RECV between two of these ranks its time in place of the one it has."""
    rows = np.flatnonzero((table.kind == Kind.SEND) | (table.kind == Kind.RECV))
    here, there = table.rank[rows].astype(np.int64), table.peer[rows].astype(np.int64)
    sends = table.kind[rows] == Kind.SEND
    key = np.where(sends, here * table.ranks + there, there * table.ranks + here)
    inside = [at for at, pair in enumerate(pairs) if max(pair) < table.ranks]
    if not inside:
        return
    known = np.array([pairs[at][0] * table.ranks + pairs[at][1] for at in inside], np.int64)
    by_key = np.argsort(known)
    known, time = known[by_key], np.array([times[at] for at in inside], np.int64)[by_key]
    place = np.minimum(np.searchsorted(known, key), len(known) - 1)
    hit = known[place] == key
    ticks[rows[hit]] = time[place[hit]]
