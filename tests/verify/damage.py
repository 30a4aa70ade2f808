"""Damage to good programs, of every kind that has been seen in schedules, and what it does.

Whether damage changes behaviour is found without the verifier: the machine (`machine.py`) says
whether the program still runs to its end, the evaluator (`values.py`) whether every rank still does
the same work and ends up with the same outputs and gradients, and a walk over the rows counts what
is held. What a verdict says must be the same, both ways.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

import numpy as np
from machine import run, shuffled
from values import Wrong, results

from pipec.compiler import build
from pipec.findings import PipecError
from pipec.library import names
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.graph import Channels, Topology
from pipec.program.links import Links
from pipec.program.memory import Limit, Memory
from pipec.program.program import Instruction, Program
from pipec.verify.certificate import verify
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import credits_needed
from pipec.verify.matching import in_order

SIZES = ((2, 2), (2, 3), (2, 4), (2, 6), (3, 6), (3, 4), (3, 3))
UNTIED = {"overlap"}
"""Refused although it would run: an overlap that the runtime could not make one."""


@dataclass(frozen=True)
class Case:
    """A program, and what it has to hold under."""

    program: Program
    channels: Channels
    limit: Fraction


@cache
def library() -> tuple[tuple[str, int, int], ...]:
    """Every library schedule at two sizes, the first and the last legal one of `SIZES`."""
    cases = []
    for name in names():
        legal = [size for size in SIZES if good(name, *size) is not None]
        cases += [(name, *legal[0]), (name, *legal[-1])]
    return tuple(cases)


@cache
def good(name: str, ranks: int, microbatches: int) -> Program | None:
    """A library program, or None where a `require` refuses it."""
    try:
        return build(name, {"P": ranks, "M": microbatches}).program
    except PipecError:
        return None


def judged(name: str, ranks: int, microbatches: int, kind: str, seed: int) -> tuple[str, Case]:
    """Damage a library program; what became of it, and the mutant.

    `detected`: it behaves otherwise and is refused. `missed`: it is certified all the same.
    `harmless`: it behaves as before and is certified. `refused`: it behaves as before and is not.
    `none`: this seed finds nothing to damage in this way.
    """
    program = good(name, ranks, microbatches)
    assert program is not None
    draw = random.Random(f"{name} {ranks} {microbatches} {kind} {seed}")
    topology = draw.choice(("rank", "pair", "directed"))
    case = Case(program, Channels(topology, draw.choice((0, 1))), peak(program))
    mutant = DAMAGE[kind](case, draw)
    if mutant is None:
        return "none", case
    memory = Memory(limit=Limit(mutant.limit))
    certificate = verify(mutant.program, Costs(), memory, mutant.channels)
    same = behaves(program, mutant)
    if certificate.ok:
        return "harmless" if same else "missed", mutant
    untied = {finding.code for finding in certificate.findings} == UNTIED
    return "refused" if same and not untied else "detected", mutant


def behaves(program: Program, mutant: Case) -> bool:
    """Whether a mutant runs through, within its limit, to the same outputs and gradients."""
    try:
        whole = len(run(mutant.program, mutant.channels)) == len(mutant.program)
        fits = peak(mutant.program) <= mutant.limit
        return whole and fits and results(mutant.program) == results(program)
    except (Wrong, ValueError):  # ValueError: SENDs without RECVs
        return False


def peak(program: Program) -> Fraction:
    """The most that any rank holds: an activation from each F to the end of its W or BW."""
    most = 0
    keeps = {flow.name for flow in program.placement.flows if flow.backward}
    for stream in program:
        units: list[list[Instruction]] = []
        for row in stream:
            if row.peer is None:
                units = [*units[:-1], [*units[-1], row]] if row.tied else [*units, [row]]
        held = 0
        for unit in units:
            held += sum(row.kind is Kind.F for row in unit)
            most = max(most, held)
            held -= sum(row.kind in (Kind.W, Kind.BW) or row.flow not in keeps for row in unit)
    return Fraction(most)


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
        needed = None if dataflow(program) else credits_needed(program, Links(program), topology)
        if needed and in_order(program, Links(program)):
            fewer = needed - draw.choice((0, 1, 1))
            return Case(program, Channels(topology, fewer), case.limit)
    return None


DAMAGE: dict[str, Callable[[Case, random.Random], Case | None]] = {
    "drop": drop,
    "duplicate": duplicate,
    "swap": swap,
    "move": move,
    "retarget": retarget,
    "microbatch": microbatch,
    "stage": stage,
    "reorder a channel": reorder,
    "late RECV": late_recv,
    "move a SUM": sums,
    "shrink the limit": limit,
    "raise the peak": early_forward,
    "shrink a buffer": credits,
}

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


def chosen(program: Program, rows: np.ndarray) -> Program:
    """Rows of a program in a new order; ties that lose their first half are cut."""
    rank = program.rank[rows]
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
    return replace(made, tie=tie)
