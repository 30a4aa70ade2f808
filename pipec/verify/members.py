"""Members of an expert group: programs whose ranks issue the same all-to-alls in the same order."""

from itertools import zip_longest

import numpy as np

from pipec.findings import Finding, Severity
from pipec.program.effects import EXPERTS
from pipec.program.listing import text
from pipec.program.program import Program
from pipec.verify.place import places


def members(program: Program, other: Program, name: str) -> list[Finding]:
    """Findings `expert-order`: for each rank the first all-to-all that is not that of the other's.

    Rank r of a program is in one expert group with rank r of the other one, which is called `name`.
    """
    findings = []
    for rank in range(max(program.ranks, other.ranks)):
        rows, theirs = _wires(program, rank), _wires(other, rank)
        for row, its in zip_longest(rows, theirs):
            mine = None if row is None else text(program.instruction(row))
            instead = None if its is None else text(other.instruction(its))
            if mine != instead:
                findings.append(_finding(program, rank, row, mine, instead, name))
                break
    return findings


def _wires(program: Program, rank: int) -> list[int]:
    """The rows of a rank's all-to-alls."""
    if rank >= program.ranks:
        return []
    begin, end = int(program.start[rank]), int(program.start[rank + 1])
    return (begin + np.flatnonzero(EXPERTS[program.kind[begin:end]])).tolist()


def _finding(
    program: Program, rank: int, row: int | None, mine: str | None, instead: str | None, name: str
) -> Finding:
    where = () if row is None else places(program, row)
    return Finding(
        "expert-order",
        f"rank {rank} would meet rank {rank} of {name} in another all-to-all",
        where[0].span if where else None,
        f"`{instead}`, as there" if instead else "no further all-to-all, as there",
        f"`{mine}`" if mine else "no further all-to-all",
        "all members of an expert group execute the same plan",
        where,
        severity=Severity.DEADLOCK,
    )
