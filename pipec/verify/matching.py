"""What is sent is received: every SEND meets a RECV, and the i-th of a channel meets its own.

Wires ignore tags: the i-th SEND of a directed pair of ranks meets the i-th RECV there. If that RECV
expected another message of the same shape, nothing hangs and the values are wrong.
"""

import numpy as np

from pipec.findings import Finding
from pipec.program.effects import COMPUTE, STEP, Kind, Step
from pipec.program.links import Links
from pipec.program.program import Program
from pipec.verify.place import places

MOST = 10


def matching(program: Program, links: Links) -> list[Finding]:
    """Findings `unmatched`, `corruption` and `gradient-sum`."""
    return [*_unmatched(program, links), *_corruption(program, links), *_sums(program, links)]


def _unmatched(program: Program, links: Links) -> list[Finding]:
    findings = []
    for row in links.messages.unmatched[:MOST].tolist():
        where = places(program, row)
        rank, what = where[0].rank, where[0].instruction
        peer = int(program.peer[row])
        other = "RECV" if program.kind[row] == Kind.SEND else "SEND"
        message = f"rank {rank} waits forever in `{what}`: rank {peer} has no {other} for it"
        expected = (
            f"as many RECVs on one side as SENDs on the other, between ranks {rank} and {peer}"
        )
        findings.append(Finding("unmatched", message, where[0].span, expected, None, None, where))
    return findings


def _corruption(program: Program, links: Links) -> list[Finding]:
    """The first mismatch of each channel; what follows is mostly its consequence."""
    ends = links.messages
    wrong = np.flatnonzero(program.operation[ends.first] != program.operation[ends.second])
    _, firsts = np.unique(ends.channel[wrong], return_index=True)
    findings = []
    for at in wrong[firsts][:MOST].tolist():
        where = places(program, int(ends.first[at]), int(ends.second[at]))
        number = int((ends.channel[:at] == ends.channel[at]).sum())
        source, target = where[0].rank, where[1].rank
        message = (
            f"message {number} from rank {source} to rank {target} is `{where[0].instruction}`, "
            f"but rank {target} takes it for `{where[1].instruction}`: "
            "if the shapes agree, values are silently wrong"
        )
        hint = f"let rank {target} receive in the order in which rank {source} sends"
        findings.append(
            Finding(
                "corruption",
                message,
                where[1].span,
                f"`{where[0].instruction}` received at this point",
                f"`{where[1].instruction}`",
                hint,
                where,
            )
        )
    return findings


def _sums(program: Program, links: Links) -> list[Finding]:
    """Both holders of a stage sum its gradients once, in one order, behind the last use."""
    findings = []
    for row in links.sums.unmatched[:MOST].tolist():
        where = places(program, row)
        message = f"rank {where[0].rank} waits forever in `{where[0].instruction}`"
        expected = f"a SUM with it on rank {int(program.peer[row])}"
        findings.append(
            Finding("gradient-sum", message, where[0].span, expected, None, None, where)
        )
    ends = links.sums
    wrong = program.operation[ends.first] != program.operation[ends.second]
    for at in np.flatnonzero(wrong)[:MOST].tolist():
        where = places(program, int(ends.first[at]), int(ends.second[at]))
        message = (
            f"rank {where[0].rank} sums stage {int(program.operation[ends.first[at]])} while rank "
            f"{where[1].rank} sums stage {int(program.operation[ends.second[at]])}"
        )
        hint = "both ranks must issue their sums in the same order"
        findings.append(Finding("gradient-sum", message, where[1].span, None, None, hint, where))
    return findings or _sum_per_copy(program)


def _sum_per_copy(program: Program) -> list[Finding]:
    """Where a stage has two holders that train it, each has one SUM, after its last gradient."""
    placement = program.placement
    sums = np.flatnonzero(program.kind == Kind.SUM)
    trains = np.flatnonzero(COMPUTE[program.kind] & (STEP[program.kind] != Step.FORWARD))
    last = np.full((placement.stages[0], program.ranks), -1, np.int64)
    last[placement.split(program.operation[trains]).stage, program.rank[trains]] = trains
    counts = np.zeros_like(last)
    np.add.at(counts, (program.operation[sums], program.rank[sums]), 1)
    twice = np.array([len(holders) == 2 for holders in placement.copies])
    expected = (last >= 0) & twice[:, None]
    findings = []
    for stage, rank in np.argwhere(counts != expected)[:MOST].tolist():
        own = sums[(program.operation[sums] == stage) & (program.rank[sums] == rank)]
        where = places(program, *own.tolist())
        message = f"rank {rank} sums the gradient of stage {stage} {len(own)} times"
        wanted = "once on each of the two holders" if expected[stage, rank] else "never"
        findings.append(Finding("gradient-sum", message, None, wanted, str(len(own)), None, where))
    early = sums[sums < last[program.operation[sums], program.rank[sums]]]
    for row in early[:MOST].tolist():
        where = places(program, row, int(last[program.operation[row], program.rank[row]]))
        message = (
            f"`{where[0].instruction}` comes before `{where[1].instruction}`, which adds to it"
        )
        findings.append(Finding("gradient-sum", message, where[0].span, None, None, None, where))
    return findings
