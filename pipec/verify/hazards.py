"""Hazards: what another lane writes is waited for before it is read.

A rank's compute, its messages and its all-to-alls run in lanes of their own. Within a lane the
order of the stream holds. Into the lanes of communication it holds too: a message or an all-to-all
begins after the compute before it in the stream. Back into the compute lane nothing orders a read
behind its write but a wait, and the runtime issues exactly the waits that the program states. A
value is released by its last reader, so a read that is ordered is also in time.
"""

import numpy as np

from pipec.findings import Finding
from pipec.program.lanes import brought
from pipec.program.program import Program
from pipec.verify.place import places

MOST = 10


def hazards(program: Program) -> list[Finding]:
    """Finding `hazard` for compute that reads what another lane brings and does not wait for it."""
    if not program.nowait.any():
        return []
    brings = brought(program)
    rows = np.flatnonzero(program.nowait & (brings >= 0))
    findings = []
    for row in rows[:MOST].tolist():
        where = places(program, row, int(brings[row]))
        rank, reads, writes = where[0].rank, where[0].instruction, where[1].instruction
        message = (
            f"rank {rank} does not wait in `{reads}` for `{writes}`, which brings what it reads: "
            "it may read what is not there yet"
        )
        hint = "leave out `nowait`"
        found = "`nowait`"
        findings.append(Finding("hazard", message, where[0].span, "a wait", found, hint, where))
    return findings
