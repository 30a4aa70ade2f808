"""On every rank, what an instruction needs stands before it, and what it sends was made."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding
from pipec.program.effects import TRAVELS, Kind, Step
from pipec.program.needs import ALL, inputs
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
    rows = _doubtful(program)
    if not len(rows):
        return []
    made, received, sent = program.exit, program.received, program.sent
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


def _doubtful(program: Program) -> Array:
    """The compute whose inputs are looked at row by row: all but what is clearly in order.

    That is an operation that runs once, on the rank of its stage, behind what it needs on that
    rank.
    """
    rows, entry = program.entries, program.entry
    opened = bool(program.placement.layouts)
    doubtful = []
    if np.count_nonzero(entry >= 0) < len(rows):
        doubtful.append(rows[entry[program.operation[rows]] != rows])
    for joint in program.placement.joints(ALL):
        if opened and joint.step is Step.WEIGHTS:  # each part of a W needs its own B: see `parts`
            continue
        local = (joint.takers == joint.makers)[:, None]
        ready = np.where(local, joint.makes(program.exit), joint.takes(program.received))
        here = joint.takes(entry)
        unclear = ~_follows(program, joint.takers, ready, here) & (here >= 0)
        if unclear.any():
            doubtful.append(here[unclear])
    if opened:
        doubtful = [some[program.kind[some] != Kind.W] for some in doubtful]
    return np.unique(np.concatenate(doubtful)) if doubtful else rows[:0]


def _follows(program: Program, ranks: Array, first: Array, second: Array) -> Array:
    """Whether rows stand on these ranks, one behind the other: `[stage, microbatch]`."""
    return (first < second) & _stand_on(program, ranks, first) & _stand_on(program, ranks, second)


def _stand_on(program: Program, ranks: Array, rows: Array) -> Array:
    """Whether rows stand on these ranks: `[stage, microbatch]`."""
    bounds = program.start.astype(rows.dtype)
    begin, end = bounds.take(ranks)[:, None], bounds.take(ranks + 1)[:, None]
    return np.asarray((rows >= begin) & (rows < end))


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
    rows = program.sends
    if _sent_when_made(program) == len(rows):
        return []
    producer = program.placement.sources(program.operation[rows])
    made = program.exit
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


def _sent_when_made(program: Program) -> int:
    """How many operations have what travels to them sent from where it was made before."""
    count = 0
    for joint in program.placement.joints(TRAVELS.items()):
        made, sent = joint.makes(program.exit), joint.takes(program.sent)
        count += int(np.count_nonzero(_follows(program, joint.makers, made, sent)))
    return count


def _receipts(program: Program) -> list[Finding]:
    """A RECV brings what its rank needs, once. One that no SEND answers is found by matching."""
    rows = program.recvs
    if _received_where_needed(program) == len(rows):
        return []
    size = program.placement.size
    sent = np.bincount(program.operation[program.sends], minlength=size)
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


def _received_where_needed(program: Program) -> int:
    """How many operations have what travels to them received on their rank."""
    count = 0
    for joint in program.placement.joints(TRAVELS.items()):
        received = joint.takes(program.received)
        count += int(np.count_nonzero(_stand_on(program, joint.takers, received)))
    return count


def _pairs(program: Program) -> list[Finding]:
    """An OVERLAP is one F and one B or BW, of which neither needs the other."""
    first, second = program.pairs
    if not len(first):
        return []
    one, other = program.kind.take(first), program.kind.take(second)
    forward = one == Kind.F
    backward = np.where(forward, other, one)
    good = (forward != (other == Kind.F)) & ((backward == Kind.B) | (backward == Kind.BW))
    good &= program.rank.take(first) == program.rank.take(second)
    good &= (first < second) & ~program.tie.take(first)
    one, other = program.operation.take(first), program.operation.take(second)
    one, other = np.where(forward, one, other), np.where(forward, other, one)
    placement = program.placement
    flow = placement.flow_of(other) if len(placement.flows) > 1 else 0
    good &= other - one != placement.distance(flow, 1, 0)
    findings = []
    for at in np.flatnonzero(~good)[:MOST].tolist():
        where = places(program, int(first[at]), int(second[at]))
        message = f"`{where[0].instruction}` and `{where[1].instruction}` cannot overlap"
        expected = "one F and one B or BW of different microbatches"
        findings.append(Finding("overlap", message, where[1].span, expected, None, None, where))
    return findings
