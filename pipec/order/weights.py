"""W is a queue: a bare W takes the oldest pending B of its rank, `W[c]` of that chunk or flow."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop
from pipec.order.expand import FLOW, KIND, MICROBATCH, ORIGIN, STAGE
from pipec.program.effects import Kind
from pipec.program.program import Origins

Array = NDArray[Any]
Queue = OrderedDict[int, list[int]]
"""The pending B of one stage: microbatch -> its rows, oldest first."""


def match_weights(rows: Array, start: Array, origins: Origins) -> None:
    """Say for every W which B it completes. Raises `Stop` where none is pending."""
    (taking,) = (rows[KIND] == Kind.W).nonzero()
    if not len(taking):
        return
    (given,) = (rows[KIND] == Kind.B).nonzero()
    first_given, first_taking = given.searchsorted(start), taking.searchsorted(start)
    counts, taken = first_taking[1:] - first_taking[:-1], first_taking[:-1]
    plain = _before_picky(rows, taking, taken, counts)
    source = np.arange(len(taking)) + (first_given[:-1] - taken).repeat(counts)
    pending = np.append(given, len(rows[KIND])).take(np.minimum(source, len(given))) < taking
    pending &= source < first_given[1:].repeat(counts)
    _refuse(taking[plain & ~pending], rows, start, origins)
    takes, gives = taking[plain], given.take(source[plain])
    for column in (FLOW, STAGE, MICROBATCH):
        rows[column, takes] = rows[column].take(gives)
    matched = np.add.reduceat(np.append(plain, False), taken, dtype=np.int64) * (counts > 0)
    for rank in (matched < counts).nonzero()[0].tolist():
        oldest = given[first_given[rank] + matched[rank] : first_given[rank + 1]]
        rest = taking[first_taking[rank] + matched[rank] : first_taking[rank + 1]]
        _walk(rows, oldest, rest, start, origins)


def _before_picky(rows: Array, taking: Array, first: Array, counts: Array) -> Array:
    """Whether each W comes before the first of its rank that chooses."""
    picky = np.zeros(len(taking), bool)
    for column in (FLOW, STAGE, MICROBATCH):
        picky |= rows[column].take(taking) >= 0
    if not picky.any():
        return ~picky
    chosen = picky.cumsum()
    before = np.append(0, chosen).take(first)
    return np.asarray(chosen == before.repeat(counts))


def _walk(rows: Array, given: Array, taking: Array, start: Array, origins: Origins) -> None:
    """Go through the B and W of one rank in order, from the first W that chooses."""
    queues: dict[tuple[int, int], Queue] = {}
    events = np.sort(np.concatenate([given, taking]))
    columns = rows[KIND : MICROBATCH + 1, events].tolist()
    matched = []
    for row, kind, flow, stage, microbatch in zip(events.tolist(), *columns, strict=True):
        if kind == Kind.B:
            queues.setdefault((flow, stage), OrderedDict()).setdefault(microbatch, []).append(row)
            continue
        found = _oldest(queues, flow, stage, microbatch)
        if found is None:
            _refuse([row], rows, start, origins)
        else:
            matched.append(found)
    rows[FLOW : MICROBATCH + 1, taking] = np.array(matched).T


def _oldest(
    queues: dict[tuple[int, int], Queue], flow: int, stage: int, microbatch: int
) -> tuple[int, int, int] | None:
    """Take the oldest pending B that fits; -1 fits everything."""
    candidates = [
        (queue[fitting][0], fitting, key)
        for key, queue in queues.items()
        if flow in (-1, key[0]) and stage in (-1, key[1]) and queue
        if (fitting := microbatch if microbatch >= 0 else next(iter(queue))) in queue
    ]
    if not candidates:
        return None
    _, taken, key = min(candidates)
    queue = queues[key]
    queue[taken].pop(0)
    if not queue[taken]:
        del queue[taken]
    return key[0], key[1], taken


def _refuse(taking: Iterable[int], rows: Array, start: Array, origins: Origins) -> None:
    for row in taking:
        rank = int(np.searchsorted(start, row, side="right")) - 1
        before = rows[KIND, start[rank] : row]
        given, taken = int((before == Kind.B).sum()), int((before == Kind.W).sum())
        found = f"{given} B before it, and {taken} W that complete them" if given else "no B"
        found = f"{given - taken} pending, but not that one" if given > taken else found
        hint = "BW is B and W in one: it needs no W" if np.any(before == Kind.BW) else None
        message = f"this W has nothing to complete on rank {rank}"
        span = origins.span(int(rows[ORIGIN, row]))
        raise Stop(Finding("order", message, span, "a B before it that is pending", found, hint))
