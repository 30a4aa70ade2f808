"""Damage to good programs, of every kind that has been seen in schedules.

What it does to a program is found in `mutants.py`, by three judges that do not know the verifier.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from machine import shuffled

from pipec.program.effects import COMPUTE, EXPERTS, Kind
from pipec.program.graph import Channels, Topology
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import credits_needed
from pipec.verify.matching import in_order


@dataclass(frozen=True)
class Case:
    """A program, and what it has to hold under."""

    program: Program
    channels: Channels
    limit: Fraction


# --- damage ---------------------------------------------------------------------------------------


def _with(case: Case, rows: np.ndarray) -> Case:
    return replace(case, program=chosen(case.program, rows))


def drop(case: Case, draw: random.Random) -> Case | None:
    """An instruction is missing."""
    rows = np.arange(len(case.program))
    return _with(case, np.delete(rows, draw.randrange(len(rows))))


def duplicate(case: Case, draw: random.Random) -> Case | None:
    """An instruction stands twice on its rank."""
    row, begin, end = _anywhere(case.program, draw)
    rows = np.arange(len(case.program))
    return _with(case, np.insert(rows, draw.randint(begin, end), row))


def swap(case: Case, draw: random.Random) -> Case | None:
    """Two instructions of a rank are exchanged, neighbours most of the time."""
    row, begin, end = _anywhere(case.program, draw)
    other = draw.randrange(begin, end) if draw.random() < 0.4 else min(row + 1, end - 1)
    rows = np.arange(len(case.program))
    rows[[row, other]] = rows[[other, row]]
    return _with(case, rows)


def move(case: Case, draw: random.Random) -> Case | None:
    """An instruction stands elsewhere on its rank."""
    row, begin, end = _anywhere(case.program, draw)
    return _moved(case, row, draw.randrange(begin, end))


def elsewhere(case: Case, draw: random.Random) -> Case | None:
    """An instruction stands on another rank; the other end of a message knows nothing of it."""
    program = case.program
    row = draw.randrange(len(program))
    rank = draw.choice([one for one in range(program.ranks) if one != program.rank[row]])
    place = draw.randint(int(program.start[rank]), int(program.start[rank + 1]))
    place -= place > row
    rows = np.insert(np.delete(np.arange(len(program)), row), place, row)
    ranks, peer = program.rank[rows], program.peer[rows]
    peer[place] = ranks[place] if peer[place] == rank else peer[place]
    ranks[place] = rank
    return replace(case, program=replace(chosen(program, rows, ranks), peer=peer))


def retarget(case: Case, draw: random.Random) -> Case | None:
    """A message or a sum goes to another rank, or comes from another one."""
    program = case.program
    wired = np.flatnonzero(program.peer >= 0).tolist()
    if not wired or program.ranks < 3:
        return None
    row, peer = draw.choice(wired), program.peer.copy()
    others = set(range(program.ranks)) - {int(program.rank[row]), int(peer[row])}
    peer[row] = draw.choice(sorted(others))
    return replace(case, program=replace(program, peer=peer))


def microbatch(case: Case, draw: random.Random) -> Case | None:
    """An instruction names another microbatch."""
    return _renumbered(case, draw, "microbatch")


def stage(case: Case, draw: random.Random) -> Case | None:
    """An instruction names another stage."""
    return _renumbered(case, draw, "stage")


def reorder(case: Case, draw: random.Random) -> Case | None:
    """Two SENDs of one channel are exchanged, or two RECVs."""
    program = case.program
    wired = np.flatnonzero((program.kind == Kind.SEND) | (program.kind == Kind.RECV))
    channel = list(zip(program.rank[wired], program.peer[wired], program.kind[wired], strict=True))
    several = [at for at, one in enumerate(channel) if channel.count(one) > 1]
    if not several:
        return None
    at = draw.choice(several)
    alike = [other for other in several if channel[other] == channel[at] and other != at]
    rows, pair = np.arange(len(program)), [wired[at], wired[draw.choice(alike)]]
    rows[pair] = rows[pair[::-1]]
    return _with(case, rows)


def late_recv(case: Case, draw: random.Random) -> Case | None:
    """A RECV stands behind the operation that needs it."""
    program = case.program
    recvs = np.flatnonzero(program.kind == Kind.RECV).tolist()
    if not recvs:
        return None
    row = draw.choice(recvs)
    needing = program.compute[program.operation[program.compute] == program.operation[row]]
    end = int(program.start[program.rank[row] + 1])
    return _moved(case, row, draw.randrange(int(needing[0]), end))


def sums(case: Case, draw: random.Random) -> Case | None:
    """A gradient sum stands elsewhere on its rank."""
    rows = np.flatnonzero(case.program.kind == Kind.SUM).tolist()
    if not rows:
        return None
    row = draw.choice(rows)
    rank = case.program.rank[row]
    return _moved(case, row, draw.randrange(*case.program.start[rank : rank + 2].tolist()))


def limit(case: Case, draw: random.Random) -> Case | None:
    """The limit of memory is a little below the peak, or at it."""
    return replace(case, limit=case.limit - draw.choice((0, Fraction(1, 10**6), 1)))


def early_forward(case: Case, draw: random.Random) -> Case | None:
    """A forward stands earlier, with what it receives: the peak may rise over the limit."""
    program = case.program
    forwards = np.flatnonzero(program.kind == Kind.F).tolist()
    row = draw.choice(forwards)
    begin = int(program.start[program.rank[row]])
    to = draw.randint(begin, row)
    brought = (program.kind == Kind.RECV) & (program.operation == program.operation[row])
    rows = [one for one in np.flatnonzero(brought).tolist() if to < one < row]
    order = np.delete(np.arange(len(program)), [*rows, row])
    return _with(case, np.insert(order, to, [*rows, row]))


def credits(case: Case, draw: random.Random) -> Case | None:
    """The messages of a rank stray, and channels have one credit less than they then need."""
    for _ in range(20):
        program = shuffled(case.program, draw.randrange(10**6), draw.choice((0.5, 1.0, 2.0)))
        topology: Topology = draw.choice(("rank", "pair"))
        if needed := _needed(program, topology):
            fewer = needed - draw.choice((0, 1, 1))
            return Case(program, Channels(topology, fewer), case.limit)
    return None


def wait(case: Case, draw: random.Random) -> Case | None:
    """A row of compute goes on before what it would wait for; no later row waits in its place."""
    nowait = case.program.nowait.copy()
    nowait[draw.choice(case.program.compute.tolist())] = True
    return replace(case, program=replace(case.program, nowait=nowait))


def part(case: Case, draw: random.Random) -> Case | None:
    """A row of compute of an opened chunk names another part of it."""
    program = case.program
    row, parts = draw.choice(program.compute.tolist()), program.part.copy()
    stage = int(program.placement.split(program.operation[row]).stage)
    alike = np.flatnonzero(program.placement.wires[stage] == -1).tolist()
    parts[row] = draw.choice([one for one in alike if one != parts[row]])
    return replace(case, program=replace(program, part=parts))


def group(case: Case, draw: random.Random) -> Case | None:
    """An all-to-all or a gradient sum of a rank is issued behind the next one, or before it."""
    program = case.program
    sorts = (EXPERTS[program.kind], program.kind == Kind.SUM)
    found = [
        np.flatnonzero(sort & (program.rank == rank)).tolist()
        for sort in sorts
        for rank in range(program.ranks)
    ]
    pairs = [pair for rows in found for pair in itertools.pairwise(rows)]
    if not pairs:
        return None
    one, other = draw.choice(pairs)
    return draw.choice((_moved(case, one, other), _moved(case, other, one)))


def members(case: Case, draw: random.Random) -> Case | None:
    """Two neighbours in a launch change places."""
    launched = launch(case, draw)
    rows = np.flatnonzero(glued(launched.program)).tolist() if launched else []
    if not launched or not rows:
        return None
    kind, peer = launched.program.kind.tolist(), launched.program.peer.tolist()
    alike = [row for row in rows if kind[row] == kind[row - 1] and peer[row] == peer[row - 1]]
    row, order = draw.choice(alike or rows), np.arange(len(launched.program))
    order[[row - 1, row]] = row, row - 1
    made = chosen(launched.program, order)
    return replace(case, program=replace(made, tie=launched.program.tie))


def launch(case: Case, draw: random.Random) -> Case | None:
    """Messages that stand side by side are launched together, or no longer are.

    In a program whose messages have strayed: where they stand as lowered, any launch is safe.
    """
    for _ in range(20):
        program = shuffled(case.program, draw.randrange(10**6), draw.choice((1.0, 2.0, 4.0)))
        needed = _needed(program, case.channels.topology)
        if needed is not None and needed <= case.channels.credits:
            rows, tie = (np.flatnonzero(_beside(program)) + 1).tolist(), program.tie.copy()
            for row in draw.sample(rows, min(len(rows), draw.choice((1, 4, 100)))):
                tie[row] = not tie[row]
            return replace(case, program=replace(program, tie=tie)) if rows else None
    return None


DAMAGE: dict[str, Callable[[Case, random.Random], Case | None]] = {
    "drop": drop,
    "duplicate": duplicate,
    "swap": swap,
    "move": move,
    "another rank": elsewhere,
    "retarget": retarget,
    "microbatch": microbatch,
    "stage": stage,
    "part": part,
    "reorder a channel": reorder,
    "late RECV": late_recv,
    "move a wait": wait,
    "move a SUM": sums,
    "order of a group": group,
    "order in a launch": members,
    "other launches": launch,
    "shrink the limit": limit,
    "raise the peak": early_forward,
    "shrink a buffer": credits,
}


def _needed(program: Program, topology: Topology) -> int | None:
    """The credits that a program needs which is sound apart from deadlock; None if it is not."""
    links = Links(program)
    sound = not dataflow(program) and in_order(program, links)
    return credits_needed(program, links, topology) if sound else None


# --- rows -----------------------------------------------------------------------------------------


def _anywhere(program: Program, draw: random.Random) -> tuple[int, int, int]:
    """A row, and the bounds of its rank."""
    row = draw.randrange(len(program))
    rank = int(program.rank[row])
    return row, int(program.start[rank]), int(program.start[rank + 1])


def _moved(case: Case, row: int, place: int) -> Case:
    rows = np.arange(len(case.program))
    return _with(case, np.insert(np.delete(rows, row), place, row))


def _renumbered(case: Case, draw: random.Random, part: str) -> Case | None:
    """One row with another microbatch or another stage."""
    program = case.program
    row, kind = draw.randrange(len(program)), program.kind
    placement, operation = program.placement, program.operation.copy()
    if kind[row] == Kind.SUM:
        others = [one for one in range(int(placement.stages[0])) if one != operation[row]]
        if part == "microbatch" or not others:
            return None
        operation[row] = draw.choice(others)
        return replace(case, program=replace(program, operation=operation))
    where = placement.split(int(operation[row]))
    sizes = placement.stages if part == "stage" else placement.microbatches
    others = [one for one in range(int(sizes[where.flow])) if one != getattr(where, part)]
    if not others:
        return None
    operation[row] = placement.operation(*where._replace(**{part: draw.choice(others)}))
    return replace(case, program=replace(program, operation=operation))


def _beside(program: Program) -> np.ndarray:
    """Whether each row and the next are messages of one rank."""
    wired = (program.kind == Kind.SEND) | (program.kind == Kind.RECV)
    return np.asarray(wired[:-1] & wired[1:] & (program.rank[1:] == program.rank[:-1]))


def glued(program: Program) -> np.ndarray:
    """Whether each row is launched with the message in the row before."""
    return np.asarray(program.tie & np.append(False, _beside(program)))


def chosen(program: Program, rows: np.ndarray, ranks: np.ndarray | None = None) -> Program:
    """Rows of a program in a new order; ties that lose what they were tied to are cut.

    ranks: where the rows stand, if not where they stood.
    """
    rank = program.rank[rows] if ranks is None else ranks
    tie = program.tie[rows].copy()
    made = replace(
        program,
        start=np.searchsorted(rank, np.arange(program.ranks + 1)),
        kind=program.kind[rows],
        operation=program.operation[rows],
        peer=program.peer[rows],
        tie=np.zeros(len(rows), bool),
        nowait=program.nowait[rows],
        part=program.part[rows],
        origin=program.origin[rows],
    )
    compute = made.compute.tolist()
    for before, row in zip([None, *compute], compute, strict=False):
        alone = before is None or made.rank[before] != made.rank[row] or tie[before]
        tie[row] &= not alone
    made = replace(made, tie=tie)
    return replace(made, tie=tie & (COMPUTE[made.kind] | glued(made)))
