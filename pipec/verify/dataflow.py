"""On every rank, what an instruction needs stands before it, and what it sends was made."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding
from pipec.program.effects import Kind, Step
from pipec.program.needs import inputs
from pipec.program.program import Program
from pipec.verify.place import places

Array = NDArray[Any]
MOST = 10


def dataflow(program: Program) -> list[Finding]:
    """Findings `too-early`, `not-received`, `not-made`, `not-needed`, `overlap`."""
    return [
        *_inputs(program),
        *_payloads(program),
        *_receipts(program),
        *_pairs(program),
    ]


def _inputs(program: Program) -> list[Finding]:
    """Compute comes after what it needs: made on its rank, or received there.

    What is never made, or made on a wrong rank, is found by completeness, and a message that is
    sent but not received by matching: neither is told again here.
    """
    made = _first_rows(program, program.exits)
    received = _first_rows(program, np.flatnonzero(program.kind == Kind.RECV))
    sent = _first_rows(program, np.flatnonzero(program.kind == Kind.SEND))
    rows = program.entries
    if program.placement.layouts:  # each part of a W needs its own B: see `parts`
        rows = rows[program.kind[rows] != Kind.W]
    findings = []
    for need, which, producer in inputs(program.placement, program.operation[rows]):
        here = rows[which]
        local = program.placement.home[producer] == program.rank[here]
        ready = np.where(local, made[producer], received[program.operation[here]])
        present = (ready >= 0) & (program.rank[ready] == program.rank[here])
        coming = sent[program.operation[here]]
        coming = (coming >= 0) & (program.peer[coming] == program.rank[here])
        elsewhere = local | (made[producer] < 0) | coming
        bad = np.where(present, ready > here, ~elsewhere)
        for at in np.flatnonzero(bad)[:MOST].tolist():
            late = int(ready[at]) if present[at] else -1
            findings.append(_unready(program, int(here[at]), late, need.value.value))
    return findings


def _unready(program: Program, row: int, late: int, value: str) -> Finding:
    where = places(program, row)
    what, rank = where[0].instruction, where[0].rank
    if late >= 0:
        where += places(program, late)
        message = f"rank {rank} runs `{what}` before `{where[1].instruction}`, which it needs"
        expected = f"index below {where[0].index}"
        found = f"index {where[1].index}"
        return Finding("too-early", message, where[0].span, expected, found, None, where)
    message = f"rank {rank} runs `{what}`, but its {value} is never received there"
    return Finding("not-received", message, where[0].span, "a RECV before it", "none", None, where)


def _payloads(program: Program) -> list[Finding]:
    """A SEND comes after the compute that makes its payload, on the same rank.

    A producer that is missing or misplaced is found by completeness and not told again. In a flow
    without a backward none is missing, and no gradient is made.
    """
    rows = np.flatnonzero(program.kind == Kind.SEND)
    producer = program.placement.sources(program.operation[rows])
    made = _first_rows(program, program.exits)
    source = np.where(producer >= 0, made[producer], -1)
    here = (source >= 0) & (program.rank[source] == program.rank[rows])
    foreign = (producer < 0) | (program.placement.home[producer] != program.rank[rows])
    bad = np.where(here, source > rows, foreign | _of_no_backward(program, rows))
    findings = []
    for row, at in zip(rows[bad][:MOST].tolist(), source[bad].tolist(), strict=False):
        where = places(program, row)
        rank, what = where[0].rank, where[0].instruction
        message, expected = f"rank {rank} sends `{what}`, which it never makes", "no such SEND"
        if at >= 0 and program.rank[at] == rank:
            where += places(program, at)
            message = f"rank {rank} sends `{what}` before `{where[1].instruction}` has made it"
            expected = "the SEND behind its producer"
        findings.append(Finding("not-made", message, where[0].span, expected, None, None, where))
    return findings


def _of_no_backward(program: Program, rows: Array) -> Array:
    """Whether each message is a gradient of a flow that has none."""
    trains = np.array([flow.backward for flow in program.placement.flows])
    if trains.all():
        return np.zeros(len(rows), bool)
    operation = program.operation[rows]
    backward = program.placement.step_of(operation) != Step.FORWARD
    return np.asarray(backward & ~trains[program.placement.flow_of(operation)])


def _receipts(program: Program) -> list[Finding]:
    """A RECV brings what its rank needs, once. One that no SEND answers is found by matching."""
    rows = np.flatnonzero(program.kind == Kind.RECV)
    sends = program.operation[program.kind == Kind.SEND]
    size = program.placement.size
    sent = np.bincount(sends, minlength=size)
    rows = rows[
        np.bincount(program.operation[rows], minlength=size)[program.operation[rows]]
        <= sent[program.operation[rows]]
    ]
    home = program.placement.home[program.operation[rows]]
    needed = (home == program.rank[rows]) & (
        program.placement.sources(program.operation[rows]) >= 0
    )
    stray, rows = rows[~needed], rows[needed]
    counts = np.bincount(program.operation[rows], minlength=size)
    findings = []
    for row in stray[:MOST].tolist():
        where = places(program, row)
        message = f"rank {where[0].rank} receives `{where[0].instruction}`, which it does not need"
        findings.append(
            Finding(
                "not-needed",
                message,
                where[0].span,
                "a RECV where the stage is held",
                None,
                None,
                where,
            )
        )
    for operation in np.flatnonzero(counts > 1)[:MOST].tolist():
        where = places(program, *rows[program.operation[rows] == operation].tolist())
        message = f"`{where[0].instruction}` is received {len(where)} times"
        findings.append(
            Finding("not-needed", message, where[-1].span, "once", str(len(where)), None, where)
        )
    return findings


def _pairs(program: Program) -> list[Finding]:
    """An OVERLAP is one F and one B or BW, of which neither needs the other."""
    first, second = program.pairs
    one, other = program.kind[first], program.kind[second]
    backward = np.isin(np.where(one == Kind.F, other, one), (Kind.B, Kind.BW))
    good = ((one == Kind.F) != (other == Kind.F)) & backward
    good &= (program.rank[first] == program.rank[second]) & (first < second) & ~program.tie[first]
    left = program.placement.split(program.operation[first])
    right = program.placement.split(program.operation[second])
    good &= ~(
        (left.flow == right.flow)
        & (left.stage == right.stage)
        & (left.microbatch == right.microbatch)
    )
    findings = []
    for at in np.flatnonzero(~good)[:MOST].tolist():
        where = places(program, int(first[at]), int(second[at]))
        message = f"`{where[0].instruction}` and `{where[1].instruction}` cannot overlap"
        expected = "one F and one B or BW of different microbatches"
        findings.append(Finding("overlap", message, where[1].span, expected, None, None, where))
    return findings


def _first_rows(program: Program, rows: Array) -> Array:
    """For each operation id the first of these rows that carries it, or -1."""
    table = np.full(program.placement.size, -1, np.int64)
    table[program.operation[rows[::-1]]] = rows[::-1]
    return table
