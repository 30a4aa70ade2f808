"""When a SEND is surely through, so that its tensors can be let go without waiting for anything."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import COMPUTE, Kind
from pipec.program.program import Program

Array = NDArray[Any]


def retirements(program: Program, rank: int) -> dict[int, int]:
    """For SEND rows of a rank, the compute row of the rank before which each is surely through.

    That is where something arrives that the receiver made after consuming the message. A SEND
    without such a row is through at the end of the step.
    """
    first = np.full(program.placement.size + 1, -1, np.int64)
    last = first.copy()
    first[program.operation[program.entries]] = program.entries
    last[program.operation[program.exits]] = program.exits
    sends = np.flatnonzero(program.kind == Kind.SEND)
    mine = sends[program.rank[sends] == rank]
    back = sends[program.peer[sends] == rank]
    made = last[program.placement.sources(program.operation[back])]
    used = first[program.operation[back]]
    consumed = first[program.operation[mine]]
    through: dict[int, int] = {}
    for peer in np.unique(program.peer[mine]).tolist():
        here = program.rank[back] == peer
        by_made = np.argsort(made[here], kind="stable")
        making, using = made[here][by_made], used[here][by_made]
        earliest = np.minimum.accumulate(using[::-1])[::-1]
        ours = mine[program.peer[mine] == peer]
        answer = np.searchsorted(making, consumed[program.peer[mine] == peer])
        answered = answer < len(making)
        through.update(
            zip(ours[answered].tolist(), earliest[answer[answered]].tolist(), strict=True)
        )
    assert COMPUTE[program.kind[list(through.values())]].all()
    return through
