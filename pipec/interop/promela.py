"""A program as a model for the checker SPIN: a second opinion on deadlock, by another theory.

Nothing of the event graph is used: a rank is a process that issues its stream in order, a queue is
a process that completes what was posted to it one after the other, and a channel is a channel. The
members of a launch are processes of their own, which begin when all of them are posted and at the
head of their queues. The program is free of deadlock if and only if SPIN finds no invalid end
state:

    spin -a program.pml && cc -DSAFETY -o pan pan.c && ./pan
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from pipec.findings import Finding, PipecError
from pipec.program.effects import Kind
from pipec.program.graph import Channels
from pipec.program.launches import glued, launch_of
from pipec.program.listing import text
from pipec.program.program import Instruction, Program

MOST_ROWS = 2000
MOST_PROCESSES = 250
"""What SPIN can hold; far beyond what it can explore."""

Queue = tuple[int | str, ...]


def write_promela(program: Program, channels: Channels) -> str:
    """The model of a small program. Raises `PipecError` where it is too large for SPIN."""
    queues = _queues(program, channels)
    launches = {} if channels.topology == "tagged" else _launches(program)
    processes = len(queues) + program.ranks + len(launches)
    if len(program) > MOST_ROWS or processes > MOST_PROCESSES:
        message = f"a model checker cannot hold {len(program)} instructions"
        hint = "use smaller P and M"
        raise PipecError([Finding("export", message, None, f"at most {MOST_ROWS}", None, hint)])
    lines = [
        f"/* channels {channels.topology}, {channels.credits} credits: "
        "free of deadlock if every process ends */",
        f"bit posted[{len(program)}];",
        f"bit done[{len(program)}];",
        *([f"bit head[{len(program)}];"] if launches else []),
        *_channels(program, channels),
    ]
    for rank in range(program.ranks):
        lines += [
            "",
            f"active proctype rank{rank}() {{",
            *_host(program, rank, channels, launches),
            "}",
        ]
    for queue, rows in queues.items():
        name = "_".join(map(str, queue))
        lines += ["", f"active proctype {name}() {{", *_serve(program, rows, launches), "}"]
    for row, members in launches.items():
        begin = f"({' && '.join(f'posted[{one}] && head[{one}]' for one in members)})"
        lines += ["", f"active proctype member{row}() {{", _move(program, row, begin), "}"]
    return "\n".join(lines) + "\n"


def _queues(program: Program, channels: Channels) -> dict[Queue, list[int]]:
    """The rows of each queue, in the order in which they are posted."""
    queues: dict[Queue, list[int]] = defaultdict(list)
    for row in range(len(program)):
        kind, rank, peer = Kind(program.kind[row]), int(program.rank[row]), int(program.peer[row])
        if kind is Kind.SUM:
            queues["sums", rank].append(row)
        elif kind in (Kind.SEND, Kind.RECV) and channels.topology != "tagged":
            keys: dict[str, Queue] = {
                "rank": ("queue", rank),
                "pair": ("queue", rank, peer),
                "directed": (kind.name.lower(), rank, peer),
            }
            queues[keys[channels.topology]].append(row)
    return queues


def _launches(program: Program) -> dict[int, list[int]]:
    """For each row that is launched with others, all rows of its launch."""
    number = launch_of(program)
    rows = np.flatnonzero(glued(program) | np.append(glued(program)[1:], False))
    return {row: rows[number[rows] == number[row]].tolist() for row in rows.tolist()}


def _channels(program: Program, channels: Channels) -> Iterator[str]:
    """One channel per directed pair of ranks, as deep as the credits; one per pair that sums."""
    names = set()
    for row in range(len(program)):
        kind, rank, peer = Kind(program.kind[row]), int(program.rank[row]), int(program.peer[row])
        if kind is Kind.SUM:
            names.add(f"chan sum_{min(rank, peer)}_{max(rank, peer)} = [0] of {{ bit }};")
        elif kind in (Kind.SEND, Kind.RECV) and channels.topology != "tagged":
            source, target = (rank, peer) if kind is Kind.SEND else (peer, rank)
            names.add(f"chan wire_{source}_{target} = [{channels.credits}] of {{ bit }};")
    yield from sorted(names)


def _host(
    program: Program, rank: int, channels: Channels, launches: dict[int, list[int]]
) -> Iterator[str]:
    """The stream of a rank: compute waits for what it receives, everything else is only posted."""
    arrivals = _arrivals(program, rank, channels)
    begin = int(program.start[rank])
    for row, instruction in enumerate(program[rank], begin):
        if instruction.peer is not None:
            yield _line(f"posted[{row}] = 1; {_sent(instruction, row, channels)}", instruction)
            continue
        waits = [arrivals[row]] if row in arrivals else []
        other = _second_half(program, row)
        waits += [arrivals[other]] if other in arrivals else []
        waits = [member for wait in waits for member in launches.get(wait, [wait])]
        yield _line(
            "".join(f"(done[{wait}]); " for wait in waits) + f"done[{row}] = 1;", instruction
        )


def _sent(instruction: Instruction, row: int, channels: Channels) -> str:
    """Where messages have tags nothing queues: what was posted arrives."""
    tagged = channels.topology == "tagged" and instruction.kind is Kind.SEND
    return f"done[{row}] = 1;" if tagged else ""


def _second_half(program: Program, row: int) -> int:
    """The other half of an OVERLAP that begins at a row, or -1."""
    first, second = program.pairs
    return dict(zip(first.tolist(), second.tolist(), strict=True)).get(row, -1)


def _arrivals(program: Program, rank: int, channels: Channels) -> dict[int, int]:
    """For each compute row of a rank the row whose completion brings what travels to it."""
    tagged = channels.topology == "tagged"
    brings = Kind.SEND if tagged else Kind.RECV
    bringer = {
        int(program.operation[row]): row
        for row in range(len(program))
        if program.kind[row] == brings
        and rank == (program.peer[row] if tagged else program.rank[row])
    }
    rows = range(int(program.start[rank]), int(program.start[rank + 1]))
    return {
        row: bringer[int(program.operation[row])]
        for row in rows
        if program.peer[row] < 0
        and program.kind[row] != Kind.W
        and not program.nowait[row]
        and int(program.operation[row]) in bringer
    }


def _serve(program: Program, rows: list[int], launches: dict[int, list[int]]) -> Iterator[str]:
    """A queue: each message when it was posted, and not before the one ahead of it is through.

    A launch is through when all its members are, those in other queues, too.
    """
    for row in rows:
        if row not in launches:
            yield _move(program, row, f"(posted[{row}])")
            continue
        wait = " && ".join(f"done[{member}]" for member in launches[row])
        own = [member for member in launches[row] if member in rows]
        wait = f" ({wait});" if row == own[-1] else ""
        yield _line(f"head[{row}] = 1;{wait}", program.instruction(row))


def _move(program: Program, row: int, begin: str) -> str:
    """A message or a sum, when it may begin: it meets its other end, or takes room of its wire."""
    instruction = program.instruction(row)
    rank, peer = int(program.rank[row]), int(program.peer[row])
    if instruction.kind is Kind.SUM:
        meet = f"sum_{min(rank, peer)}_{max(rank, peer)}{'!1' if rank < peer else '?_'}"
    elif instruction.kind is Kind.SEND:
        meet = f"wire_{rank}_{peer}!1"
    else:
        meet = f"wire_{peer}_{rank}?_"
    return _line(f"{begin}; {meet}; done[{row}] = 1;", instruction)


def _line(code: str, instruction: Instruction) -> str:
    return f"    {code.strip():<56} /* {text(instruction)} */"
