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
    findings = []
    sums = np.flatnonzero(program.kind == Kind.SUM)
    trains = np.flatnonzero(COMPUTE[program.kind] & (STEP[program.kind] != Step.FORWARD))
    stage = program.placement.split(program.operation[trains]).stage
    for number, holders in enumerate(program.placement.copies):
        for rank in holders:
            mine = trains[(stage == number) & (program.rank[trains] == rank)]
            own = sums[(program.operation[sums] == number) & (program.rank[sums] == rank)]
            if len(own) == (1 if len(holders) == 2 and len(mine) else 0):
                if len(own) and own[0] < mine.max():
                    where = places(program, int(own[0]), int(mine.max()))
                    sum_, late = where[0].instruction, where[1].instruction
                    message = f"`{sum_}` comes before `{late}`, which adds to it"
                    findings.append(
                        Finding("gradient-sum", message, where[0].span, None, None, None, where)
                    )
                continue
            where = places(program, *own.tolist())
            expected = "once on each of the two holders" if len(holders) == 2 else "never"
            message = f"rank {rank} sums the gradient of stage {number} {len(own)} times"
            findings.append(
                Finding("gradient-sum", message, None, expected, str(len(own)), None, where)
            )
    return findings
