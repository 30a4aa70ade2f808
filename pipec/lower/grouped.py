"""Program -> the same program with exchanges issued in one launch, as `batch_isend_irecv` does.

An exchange is a SEND to a rank and a RECV from it that stand side by side on both ranks. Whoever
waits for one of the two then waits for both. What was a projection of one sequence (what the
compiler lowers) still is one: nothing stands between the two, so both can have the later place.
Other programs may be freed by it, or get stuck: grouping is not monotone, so the verifier decides.

    before: F(0) SEND(0) RECV BW(0)      RECV F(0) SEND RECV(1) BW(1)
    after:  F(0) SEND(0) & RECV BW(0)    RECV F(0) SEND & RECV(1) BW(1)
"""

from dataclasses import replace

import numpy as np

from pipec.program.effects import Kind
from pipec.program.links import Links
from pipec.program.program import Program


def grouped(program: Program) -> Program:
    """Tie the two messages of every exchange; a message without both ends is left alone."""
    ends = Links(program).messages
    partner = np.full(len(program), -1, np.int64)
    partner[ends.first], partner[ends.second] = ends.second, ends.first
    first = np.flatnonzero((program.kind == Kind.SEND) | (program.kind == Kind.RECV))
    first = first[first + 1 < len(program)]
    second = first + 1
    sides = program.kind[first].astype(int) + program.kind[second] == Kind.SEND + Kind.RECV
    sides &= (program.peer[first] == program.peer[second]) & (partner[first] >= 0)
    sides &= (program.rank[first] == program.rank[second]) & (partner[second] >= 0)
    sides &= np.abs(partner[first] - partner[second]) == 1
    tie = program.tie.copy()
    tie[second[sides]] = True
    return replace(program, tie=tie)
