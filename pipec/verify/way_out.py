"""The way out of a deadlock: what is known to cure it, tried before it is said."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipec.findings import Finding
from pipec.program.effects import Kind
from pipec.program.graph import Channels, event_graph
from pipec.program.launches import glued
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.deadlock import stuck_events
from pipec.verify.matching import in_order
from pipec.verify.place import place

MOST_TRIES = 24
LARGEST = 100_000
"""Rows of a program in which exchanges are tried; each try verifies it anew."""


@dataclass(frozen=True)
class Safety:
    """Whether a topology is safe with 0 credits, and how many credits make it so, if any do."""

    safe: bool
    credits_needed: int | None


def way_out(
    program: Program, channels: Channels, safety: Mapping[str, Safety], deadlock: Finding
) -> str | None:
    """An exchange of two messages, credits, another topology, a launch; None if nothing helps."""
    pairs = list(_neighbours(program, deadlock))[:MOST_TRIES]
    if len(program) > LARGEST or channels.topology == "tagged":
        pairs = []
    words = "issue {0} and {1} of rank {rank} in one launch"
    ways = (
        _first(program, channels, pairs, _exchanged, "issue {1} before {0} on rank {rank}")
        or _first(program, channels, pairs, _together, words),
        _other_channels(channels, safety),
    )
    return "; or: ".join(way for way in ways if way) or None


def _other_channels(channels: Channels, safety: Mapping[str, Safety]) -> str | None:
    needed = safety[channels.topology].credits_needed
    if needed:
        each = "1 credit" if needed == 1 else f"{needed} credits"
        return f"with {each} per directed pair it is safe under `{channels.topology}`"
    others = [f"`{name}`" for name, verdict in safety.items() if verdict.safe]
    return f"it is safe under {', '.join(others)}" if others else None


def _neighbours(program: Program, deadlock: Finding) -> Iterator[tuple[int, int]]:
    """Messages of the circle, each with the one before and behind it on its rank."""
    wired = (program.kind == Kind.SEND) | (program.kind == Kind.RECV)
    wired &= ~(glued(program) | np.append(glued(program)[1:], False))
    seen = set()
    for where in deadlock.places:
        row = int(program.start[where.rank]) + where.index
        for first in (row, row - 1):
            inside = program.start[where.rank] <= first < program.start[where.rank + 1] - 1
            if inside and wired[first] and wired[first + 1] and first not in seen:
                seen.add(first)
                yield first, first + 1


def _first(
    program: Program,
    channels: Channels,
    pairs: list[tuple[int, int]],
    change: Callable[[Program, int, int], Program],
    words: str,
) -> str | None:
    """The first change of two rows that lets the program run through, in words."""
    for first, second in pairs:
        changed = change(program, first, second)
        links = Links(changed)
        if not in_order(changed, links):
            continue
        if not len(stuck_events(event_graph(changed, links, channels))):
            one, two = place(program, first), place(program, second)
            return words.format(f"`{one.instruction}`", f"`{two.instruction}`", rank=one.rank)
    return None


def _exchanged(program: Program, first: int, second: int) -> Program:
    rows = np.arange(len(program))
    rows[[first, second]] = second, first
    columns = ("kind", "operation", "peer", "tie", "nowait", "part", "origin")
    return replace(program, **{name: getattr(program, name)[rows] for name in columns})


def _together(program: Program, first: int, second: int) -> Program:
    tie = program.tie.copy()
    tie[second] = True
    return replace(program, tie=tie)
