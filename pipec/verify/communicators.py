"""Communicators: two ranks that share several of them use them in one order.

Messages and gradient sums go through communicators of their own, and the channel models let them
pass each other. A device that runs them one at a
time, as an accelerator may, is stuck where two ranks begin with different ones, though each of them
alone is in order. So a sum stands between the same messages on both of its ranks. The all-to-alls
of a rank are shared with its replicas only, which run the same stream: their order is always one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Severity
from pipec.program.columns import look_up
from pipec.program.effects import Kind
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.place import places

Array = NDArray[Any]
MOST = 10


def communicators(program: Program, links: Links) -> list[Finding]:
    """Warning `communicator-order`, for programs whose SENDs, RECVs and SUMs all meet."""
    if not len(program.sums):
        return []
    ends = links.messages
    here, there = _sums_before(program, ends.first), _sums_before(program, ends.second)
    wrong = np.flatnonzero(here != there)
    if not len(wrong):
        return []
    pair = np.minimum(program.rank[ends.first], program.peer[ends.first]).astype(np.int64)
    pair = pair * program.ranks + np.maximum(program.rank[ends.first], program.peer[ends.first])
    _, firsts = np.unique(pair[wrong], return_index=True)
    return [
        _crossing(program, int(ends.first[at]), int(ends.second[at]), int(here[at] > there[at]))
        for at in wrong[firsts][:MOST].tolist()
    ]


def _sums_before(program: Program, rows: Array) -> Array:
    """How many SUMs with the other end of each message its rank issues before it."""
    count = len(program)
    sums = np.sort(_between(program, program.sums) * count + program.sums)
    pair = _between(program, rows) * count
    return sums.searchsorted(pair + rows) - sums.searchsorted(pair)


def _between(program: Program, rows: Array) -> Array:
    """The rank and the peer of rows, as one number."""
    pair = look_up(program.rank, rows).astype(np.int64)
    return pair * program.ranks + look_up(program.peer, rows)


def _crossing(program: Program, sent: int, received: int, late: int) -> Finding:
    """A message and the nearest sum that stands before it on one of its ranks alone."""
    behind, other = (sent, received) if late else (received, sent)
    rank, peer = int(program.rank[behind]), int(program.peer[behind])
    sums = np.flatnonzero(
        (program.kind == Kind.SUM) & (program.rank == rank) & (program.peer == peer)
    )
    where = places(program, int(sums[sums < behind][-1]), behind, other)
    summed, message, there = (f"`{one.instruction}`" for one in where)
    text = (
        f"rank {rank} issues {summed} before {message}, and rank {peer} issues {there} before its "
        "end of that sum: a device that runs one communication at a time would be stuck"
    )
    hint = "let both ranks issue the message and the sum in the same order"
    expected, found = "one order of communicators on both ranks", "two orders"
    return Finding(
        "communicator-order",
        text,
        where[0].span,
        expected,
        found,
        hint,
        where,
        severity=Severity.WARNING,
    )
