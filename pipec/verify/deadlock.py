"""Deadlock: a cycle in the event graph, told as a story of who waits for whom."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Place, Severity
from pipec.program.effects import COMPUTE, Kind
from pipec.program.events import Graph
from pipec.program.graph import Channels, event_graph
from pipec.program.launches import launch_of
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

    More credits never hurt, so the number is found by bisection. Under `tagged`, and under
    `directed` without grouped launches, credits change nothing: there the answer is 0 or None.
    """
    if not len(stuck_events(event_graph(program, links, Channels(topology)))):
        return 0
    if topology == "tagged" or (topology == "directed" and not program.grouped):
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
    events, together = _without_launches(graph, cycle)
    rows = _joints(program, [int(graph.row[event]) for event in events])
    notes = [
        _wait(program, sender, row, after) + _together(program, together.get(row, ()))
        for row, after in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    shown: dict[int, Place] = {}
    for row in rows:
        for end in (sender.get(row), row, *together.get(row, ())):
            if end is not None:
                shown.setdefault(end, place(program, end))
    ranks = sorted({where.rank for where in shown.values()})
    who = f"ranks {', '.join(map(str, ranks))} wait for each other"
    who = who if len(ranks) > 1 else f"rank {ranks[0]} waits for itself"
    message = f"deadlock under {_model(channels)}: {who}"
    first = next((where.span for where in shown.values() if where.span), None)
    where, told = tuple(shown.values()), tuple(notes)
    return Finding("deadlock", message, first, None, None, None, where, told, Severity.DEADLOCK)


def _without_launches(graph: Graph, cycle: list[int]) -> tuple[list[int], dict[int, list[int]]]:
    """A cycle without the starts and ends of launches, and behind which row it passed some.

    The members of a launch by which a wait goes on are given for the row that waits.
    """
    real = len(graph) - graph.launches
    turn = next((at for at, event in enumerate(cycle) if event < real), 0)
    events: list[int] = []
    together: dict[int, list[int]] = {}
    for event in cycle[turn:] + cycle[:turn]:
        if event < real:
            events.append(event)
        elif events:
            members = together.setdefault(int(graph.row[events[-1]]), [])
            members += [row for row in (int(graph.row[event]),) if row not in members]
    return events, together


def _together(program: Program, members: Sequence[int]) -> str:
    """The launches that a wait goes through, in words."""
    launch = launch_of(program)
    told = []
    for number in sorted({int(launch[row]) for row in members}):
        own = np.flatnonzero(launch == number).tolist()
        first, *others = (f"`{_plain(program, row)}`" for row in own)
        rank = place(program, own[0]).rank
        told.append(f"on rank {rank} {first} is launched together with {' and '.join(others)}")
    return f" ({'; '.join(told)})" if told else ""


def _plain(program: Program, row: int) -> str:
    return place(program, row).instruction.removeprefix("& ")


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
    text, taken = (end.instruction.removeprefix("& ") for end in (sent, here))
    if text.split()[1:5] == taken.split()[1:5]:
        return f"the message `{text}` from rank {sent.rank}"
    met = f"met by `{taken}` of rank {here.rank},"
    return f"`{text}` of rank {sent.rank}, {met}"
