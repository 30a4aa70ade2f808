"""Members of an expert group: programs whose ranks issue the same all-to-alls in the same order.

Where they are not the same program that is not enough: one may come to an all-to-all only behind
another one that the other program has behind it.
"""

from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Severity
from pipec.program.effects import EXPERTS
from pipec.program.events import Graph
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.listing import text
from pipec.program.program import Program
from pipec.program.sweep import NEVER, sweep
from pipec.verify.place import places

Array = NDArray[Any]
_HINT = "all members of an expert group execute the same plan"


def members(
    program: Program, other: Program, name: str, channels: Channels | None = None
) -> list[Finding]:
    """Findings `expert-order`: for each rank the first all-to-all that is not that of the other's;
    or all-to-alls that are never through, since the two programs wait for each other.

    Rank r of a program is in one expert group with rank r of the other one, which is called `name`.
    """
    findings = []
    for rank in range(max(program.ranks, other.ranks)):
        rows, theirs = _wires(program, rank), _wires(other, rank)
        for row, its in zip_longest(rows, theirs):
            mine = None if row is None else text(program.instruction(row))
            instead = None if its is None else text(other.instruction(its))
            if mine != instead:
                findings.append(_finding(program, rank, row, mine, instead, name))
                break
    if findings or program.same(other):
        return findings
    stuck = _never(program, other, channels or Channels())
    return [_waiting(program, stuck, name)] if len(stuck) else []


def _never(program: Program, other: Program, channels: Channels) -> Array:
    """The all-to-alls that are never through where each is one with that of the other program."""
    mine, theirs = _graph(program, channels), _graph(other, channels)
    if mine is None or theirs is None:
        return np.empty(0, np.int64)
    rows, wires = np.flatnonzero(EXPERTS[program.kind]), np.flatnonzero(EXPERTS[other.kind])
    shared, count = mine.event[rows], len(mine) + len(theirs)
    number = np.append(len(mine) + np.arange(len(theirs)), count)
    number[theirs.event[wires]] = shared
    waits = np.full((4, count), count)
    waits[:, number[:-1]] = number[theirs.waits]
    compute = waits[0, shared]
    waits[:, : len(mine)] = np.where(mine.waits == len(mine), count, mine.waits)
    waits[2, shared] = compute
    ends = sweep(waits, np.ones(count, np.int64), np.arange(count))
    return rows[ends[shared] >= NEVER]


def _graph(program: Program, channels: Channels) -> Graph | None:
    """What a program's events wait for; nothing where its messages do not match in number."""
    links = Links(program)
    messages = links.by_operation if channels.topology == "tagged" else links.messages
    if len(messages.unmatched) or len(links.sums.unmatched):
        return None
    return event_graph(program, links, channels)


def _waiting(program: Program, stuck: Array, name: str) -> Finding:
    """The first all-to-all of each rank that is never through."""
    _, firsts = np.unique(program.rank[stuck], return_index=True)
    where = places(program, *stuck[firsts].tolist())
    ranks = ", ".join(str(place.rank) for place in where)
    message = (
        f"the all-to-alls are those of {name}, and yet both wait for each other: "
        f"{'ranks' if len(where) > 1 else 'rank'} {ranks} would wait forever"
    )
    expected = "all-to-alls that both programs can come to in one sequence"
    return Finding(
        "expert-order",
        message,
        where[0].span,
        expected,
        None,
        _HINT,
        where,
        severity=Severity.DEADLOCK,
    )


def _wires(program: Program, rank: int) -> list[int]:
    """The rows of a rank's all-to-alls."""
    if rank >= program.ranks:
        return []
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    return (begin + np.flatnonzero(EXPERTS[program.kind[begin:end]])).tolist()


def _finding(
    program: Program, rank: int, row: int | None, mine: str | None, instead: str | None, name: str
) -> Finding:
    where = () if row is None else places(program, row)
    return Finding(
        "expert-order",
        f"rank {rank} would meet rank {rank} of {name} in another all-to-all",
        where[0].span if where else None,
        f"`{instead}`, as there" if instead else "no further all-to-all, as there",
        f"`{mine}`" if mine else "no further all-to-all",
        _HINT,
        where,
        severity=Severity.DEADLOCK,
    )
