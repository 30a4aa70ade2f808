"""Program -> the same program without its backward, for evaluation.

What is left is a part of the same streams in the same order, so whatever was free of deadlock still
is: no event waits for anything new.

    before: F(0) SEND(0) F(1) SEND(1) RECV BW(0) RECV BW(1)
    after:  F(0) SEND(0) F(1) SEND(1)
"""

from dataclasses import replace

import numpy as np

from pipec.program.effects import COMPUTE, STEP, Kind, Step
from pipec.program.launches import launch_of
from pipec.program.program import Program


def forward_only(program: Program) -> Program:
    """Keep every F, its all-to-alls, and every message that carries an activation; launches keep
    what is left.
    """
    forward = np.zeros(len(program), bool)
    compute = COMPUTE[program.kind]
    forward[compute] = STEP[program.kind[compute]] == Step.FORWARD
    messages = np.flatnonzero(~compute & (program.kind != Kind.SUM))
    carried = program.placement.step_of(program.operation[messages])
    forward[messages] = carried == Step.FORWARD
    kept = np.flatnonzero(forward)
    flows = tuple(replace(flow, backward=False) for flow in program.placement.flows)
    counts = np.bincount(program.rank[kept], minlength=program.ranks)
    launch = launch_of(program)[kept]
    tie = np.append(False, launch[1:] == launch[:-1])[: len(kept)]
    return Program(
        replace(program.placement, flows=flows),
        np.concatenate([[0], np.cumsum(counts)]),
        program.kind[kept],
        program.operation[kept],
        program.peer[kept],
        tie,
        program.nowait[kept],
        program.part[kept],
        program.origin[kept],
        program.origins,
    )
