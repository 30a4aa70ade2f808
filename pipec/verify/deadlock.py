"""Deadlock: a cycle in the event graph, told as a story of who waits for whom."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Place, Severity
from pipec.program.effects import COMPUTE, Kind
from pipec.program.graph import Channels, Graph, event_graph
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.program.sweep import NEVER, sweep
from pipec.verify.place import place

Array = NDArray[Any]

_CYCLES = "pipec.verify.cycle"
"""Imported when a deadlock is to be explained; see there."""


def stuck_events(graph: Graph) -> Array:
    """The events of a graph that can never happen."""
    ends = sweep(graph.waits, np.ones(len(graph), np.int64), graph.lane)
    return np.flatnonzero(ends >= NEVER)


def deadlock(
    program: Program, links: Links, channels: Channels, everywhere: bool = False
) -> list[Finding]:
    """Finding `deadlock` with the shortest cycle under these channels, or nothing.

    everywhere: the program is stuck under all channels, so the cycle is shown without any queues,
    where only what instructions need is left of it.
    """
    everywhere = everywhere and not len(links.by_operation.unmatched)
    graph = event_graph(program, links, Channels("tagged") if everywhere else channels)
    stuck = stuck_events(graph)
    if not len(stuck):
        return []
    cycle = importlib.import_module(_CYCLES).shortest_cycle(graph, stuck)
    return [_story(graph, links, None if everywhere else channels, cycle)]


def credits_needed(program: Program, links: Links, topology: Any) -> int | None:
    """The smallest number of credits per directed pair with which a topology is safe, or None.

    More credits never hurt, so the number is found by bisection. Under `directed` and `tagged`
    credits change nothing: there the answer is 0 or None.
    """
    if not len(stuck_events(event_graph(program, links, Channels(topology)))):
        return 0
    if topology in ("directed", "tagged"):
        return None
    _, messages = np.unique(links.messages.channel, return_counts=True)
    least, most = 0, int(messages.max(initial=1))
    if len(stuck_events(event_graph(program, links, Channels(topology, most)))):
        return None
    while most - least > 1:
        middle = (least + most) // 2
        stuck = stuck_events(event_graph(program, links, Channels(topology, middle)))
        least, most = (middle, most) if len(stuck) else (least, middle)
    return most


# --- the story ------------------------------------------------------------------------------------


def _story(graph: Graph, links: Links, channels: Channels | None, cycle: list[int]) -> Finding:
    program = graph.table
    assert isinstance(program, Program)
    sender = dict(zip(links.messages.second.tolist(), links.messages.first.tolist(), strict=True))
    rows = _joints(program, [int(graph.row[event]) for event in cycle])
    notes = [
        _wait(program, sender, row, after)
        for row, after in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    shown: dict[int, Place] = {}
    for row in rows:
        for end in (sender.get(row), row):
            if end is not None:
                shown.setdefault(end, place(program, end))
    ranks = sorted({where.rank for where in shown.values()})
    who = f"ranks {', '.join(map(str, ranks))} wait for each other"
    who = who if len(ranks) > 1 else f"rank {ranks[0]} waits for itself"
    message = f"deadlock under {_model(channels)}: {who}"
    first = next((where.span for where in shown.values() if where.span), None)
    where, told = tuple(shown.values()), tuple(notes)
    return Finding("deadlock", message, first, None, None, None, where, told, Severity.DEADLOCK)


def _joints(program: Program, rows: list[int]) -> list[int]:
    """The cycle without compute that stands in it only between other compute of its rank."""
    kept = [
        row
        for before, row, after in zip([rows[-1], *rows], rows, [*rows[1:], rows[0]], strict=False)
        if not COMPUTE[program.kind[[before, row, after]]].all()
        or len({int(rank) for rank in program.rank[[before, row, after]]}) > 1
    ]
    return kept or rows


def _model(channels: Channels | None) -> str:
    """The channel model of a finding; None stands for all of them."""
    if channels is None:
        return "all channels, since the order itself is a circle"
    credits = f" with {channels.credits} credits" if channels.topology in ("rank", "pair") else ""
    return f"channels `{channels.topology}`{credits}"


def _wait(program: Program, sender: dict[int, int], row: int, after: int) -> str:
    """One edge of the cycle in words: what waits, for what, and why."""
    here, there = place(program, row), place(program, after)
    late = f"`{there.instruction}` of rank {there.rank}"
    if COMPUTE[program.kind[row]]:
        why = "needs what is brought by" if not COMPUTE[program.kind[after]] else "comes after"
        return f"rank {here.rank}: `{here.instruction}` {why} {late}"
    message = _message(program, sender, row)
    if COMPUTE[program.kind[after]]:
        return f"{message} is posted on rank {there.rank} only after `{there.instruction}`"
    return f"{message} stands in a queue behind {_message(program, sender, after)}"


def _message(program: Program, sender: dict[int, int], row: int) -> str:
    """A completed message as people say it: from whom, to whom, what."""
    here = place(program, row)
    if program.kind[row] == Kind.SUM:
        return f"the gradient sum `{here.instruction}` of rank {here.rank}"
    if row not in sender:
        return f"`{here.instruction}` of rank {here.rank}"
    sent = place(program, sender[row])
    if sent.instruction.split()[1:5] == here.instruction.split()[1:5]:
        return f"the message `{sent.instruction}` from rank {sent.rank}"
    met = f"met by `{here.instruction}` of rank {here.rank},"
    return f"`{sent.instruction}` of rank {sent.rank}, {met}"
