"""What is sent is received: every SEND meets a RECV, and the i-th of a channel meets its own.

Wires ignore tags: the i-th SEND of a directed pair of ranks meets the i-th RECV there. If that RECV
expected another message of the same shape, nothing hangs and the values are wrong.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Severity
from pipec.program.columns import look_up, rows_where
from pipec.program.effects import STEP, Kind, Step
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.place import places

Array = NDArray[Any]
MOST = 10


def matching(program: Program, links: Links, tagged: bool = False) -> list[Finding]:
    """Findings `unmatched`, `corruption` and `gradient-sum`.

    tagged: messages meet by what they carry, so their order is no matter.
    """
    corrupt = [] if tagged else _corruption(program, links)
    return [*_unmatched(program, links, tagged), *corrupt, *_sums(program, links)]


def in_order(program: Program, links: Links) -> bool:
    """Whether the i-th SEND of every channel meets its own RECV, as all but tags demand."""
    assert links.program is program
    return not len(links.wrong)


def _unmatched(program: Program, links: Links, tagged: bool) -> list[Finding]:
    """Messages with one end, in the channels where counts differ (with tags: in all of them)."""
    lonely = links.by_operation.unmatched
    if len(lonely) and not tagged:
        lonely = lonely[np.isin(_channel(program, lonely), _uneven(program, links))]
    findings = []
    for row in lonely[:MOST].tolist():
        where = places(program, row, *_other_end(program, row))
        rank, what, peer = where[0].rank, where[0].instruction, int(program.peer[row])
        other = "RECV" if program.kind[row] == Kind.SEND else "SEND"
        message = f"rank {rank} waits forever in `{what}`: rank {peer} has no {other} for it"
        expected = f"a {other} with the same payload on rank {peer}"
        span = where[0].span
        finding = Finding("unmatched", message, span, expected, "none", None, where)
        findings.append(replace(finding, severity=Severity.DEADLOCK))
    return findings


def _other_end(program: Program, row: int) -> list[int]:
    """The compute at the end that is missing: what needs a SEND's payload, or makes a RECV's."""
    operation = program.operation[row]
    if program.kind[row] == Kind.RECV:
        operation = program.placement.sources(program.operation[row : row + 1])[0]
    rows = program.compute[program.operation[program.compute] == operation]
    return rows[program.rank[rows] == program.peer[row]][:1].tolist()


def _channel(program: Program, rows: Array) -> Array:
    """The directed pair of each SEND or RECV, as one number."""
    rank, peer = program.rank[rows].astype(np.int64), program.peer[rows].astype(np.int64)
    sends = program.kind[rows] == Kind.SEND
    return np.where(sends, rank * program.ranks + peer, peer * program.ranks + rank)


def _uneven(program: Program, links: Links) -> Array:
    """The channels with more SENDs than RECVs, or fewer."""
    unmatched = links.messages.unmatched
    return np.unique(_channel(program, unmatched)) if len(unmatched) else unmatched


def _corruption(program: Program, links: Links) -> list[Finding]:
    """The first mismatch of each channel; what follows is mostly its consequence.

    Where counts differ, a message is missing, and the shift behind it says nothing more.
    """
    ends, wrong = links.messages, links.wrong
    if not len(wrong):
        return []
    wrong = wrong[~np.isin(ends.channel[wrong], _uneven(program, links))]
    _, firsts = np.unique(ends.channel[wrong], return_index=True)
    findings = []
    for at in wrong[firsts][:MOST].tolist():
        where = places(program, int(ends.first[at]), int(ends.second[at]))
        sent, taken = where[0].instruction, where[1].instruction
        number = int((ends.channel[:at] == ends.channel[at]).sum())
        source, target = where[0].rank, where[1].rank
        message = (
            f"message {number} from rank {source} to rank {target} is `{sent}`, "
            f"but rank {target} takes it for `{taken}`: "
            "if the shapes agree, values are silently wrong"
        )
        expected = f"`{sent}` received at this point"
        hint = f"let rank {target} receive in the order in which rank {source} sends"
        span = where[1].span
        finding = Finding("corruption", message, span, expected, f"`{taken}`", hint, where)
        findings.append(replace(finding, severity=Severity.CORRUPTION))
    return findings


def _sums(program: Program, links: Links) -> list[Finding]:
    """Both holders of a stage sum its gradients once, in one order, behind the last use."""
    findings = []
    for row in _lonely_sums(program, links)[:MOST].tolist():
        where = places(program, row)
        message = f"rank {where[0].rank} waits forever in `{where[0].instruction}`"
        expected = f"a SUM with it on rank {int(program.peer[row])}"
        finding = Finding("gradient-sum", message, where[0].span, expected, None, None, where)
        findings.append(replace(finding, severity=Severity.DEADLOCK))
    if findings:
        return findings
    ends = links.sums
    if not len(program.sums):
        return _sum_per_copy(program)
    wrong = program.operation[ends.first] != program.operation[ends.second]
    _, firsts = np.unique(ends.channel[wrong], return_index=True)
    for at in np.flatnonzero(wrong)[firsts][:MOST].tolist():
        where = places(program, int(ends.first[at]), int(ends.second[at]))
        message = (
            f"rank {where[0].rank} sums stage {int(program.operation[ends.first[at]])} while rank "
            f"{where[1].rank} sums stage {int(program.operation[ends.second[at]])}"
        )
        hint = "both ranks must issue their sums in the same order"
        finding = Finding("gradient-sum", message, where[1].span, None, None, hint, where)
        findings.append(replace(finding, severity=Severity.CORRUPTION))
    return findings or _sum_per_copy(program)


def _lonely_sums(program: Program, links: Links) -> Array:
    """If some SUM meets nobody: the SUMs of a stage that one of two ranks has more often."""
    if not len(links.sums.unmatched):
        return links.sums.unmatched
    rows = program.sums
    stage, rank, peer = (
        column[rows].astype(np.int64) for column in (program.operation, program.rank, program.peer)
    )
    own = (stage * program.ranks + rank) * program.ranks + peer
    other = (stage * program.ranks + peer) * program.ranks + rank
    known, counts = np.unique(own, return_counts=True)
    known, counts = np.append(known, np.iinfo(np.int64).max), np.append(counts, 0)
    at = np.searchsorted(known, other)
    answered = np.where(known[at] == other, counts[at], 0)
    return rows[counts[np.searchsorted(known, own)] > answered]


def _sum_per_copy(program: Program) -> list[Finding]:
    """Where a stage has two holders that train it, each has one SUM, after its last gradient.

    A stage that is trained has no third holder: a SUM joins two ranks.
    """
    placement, sums = program.placement, program.sums
    held = np.array([len(holders) for holders in placement.copies])
    if not len(sums) and held.max() == 1:
        return []
    trains = rows_where(program.computes & (look_up(STEP, program.kind) != Step.FORWARD))
    last = np.full((placement.stages[0], program.ranks), -1, np.int64)
    stage = placement.stage_of(look_up(program.operation, trains))
    last[stage, look_up(program.rank, trains)] = trains
    counts = np.zeros_like(last)
    np.add.at(counts, (program.operation[sums], program.rank[sums]), 1)
    expected = (last >= 0) & (held == 2)[:, None]
    crowded = (last >= 0).any(axis=1) & (held > 2)
    findings = []
    for stage in np.flatnonzero((counts != expected).any(axis=1) | crowded)[:MOST].tolist():
        own = sums[program.operation[sums] == stage]
        where = places(program, *own.tolist())
        holders = " and ".join(map(str, placement.copies[stage]))
        message = f"the gradients of stage {stage}, held by {holders}, are summed wrongly"
        wanted = "a SUM on each of the two holders" if expected[stage].any() else "no SUM"
        found = f"{len(own)} SUM" if len(own) else "none"
        if crowded[stage]:
            wanted, found = "at most two holders", str(held[stage])
        span = where[-1].span if where else None
        findings.append(Finding("gradient-sum", message, span, wanted, found, None, where))
    early = sums[sums < last[program.operation[sums], program.rank[sums]]]
    for row in early[:MOST].tolist():
        where = places(program, row, int(last[program.operation[row], program.rank[row]]))
        message = (
            f"`{where[0].instruction}` comes before `{where[1].instruction}`, which adds to it"
        )
        findings.append(Finding("gradient-sum", message, where[0].span, None, None, None, where))
    return findings
