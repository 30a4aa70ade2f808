"""Memory against its limit, on every rank."""

import numpy as np

from pipec.findings import Finding
from pipec.program.memory import Memory
from pipec.program.program import Table
from pipec.simulate.usage import Usage
from pipec.verify.place import places

MOST = 10


def memory_limit(table: Table, memory: Memory, used: Usage) -> list[Finding]:
    """Finding `memory-limit` for ranks whose peak is over the limit, at their first such row."""
    if memory.limit is None:
        return []
    most = memory.limit * used.scale
    over = [rank for rank in range(table.ranks) if used.peak[rank] > most]
    return [_over(table, memory, used, rank) for rank in over[:MOST]]


def _over(table: Table, memory: Memory, used: Usage, rank: int) -> Finding:
    assert memory.limit is not None
    begin, end = int(table.start[rank]), int(table.start[rank + 1])
    held = used.held[begin:end]
    rows = np.flatnonzero(held > int(memory.limit * used.scale))[:1]
    where = places(table, *(begin + rows).tolist())
    at = f" at index {where[0].index}, `{where[0].instruction}`" if where else " from the start"
    peak = used.units(used.peak[rank])
    message = f"rank {rank} holds more than the limit{at}; its peak is {peak}"
    span = where[0].span if where else memory.limit_span
    expected = f"at most {float(memory.limit):g}"
    found = used.units(held[rows[0]]) if where else peak
    return Finding("memory-limit", message, span, expected, f"{found}", None, where)
