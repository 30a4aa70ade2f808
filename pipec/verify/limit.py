"""Memory against its limit, on every rank."""

from pipec.findings import Finding, Place
from pipec.program.memory import Memory
from pipec.program.program import Table
from pipec.simulate.usage import Usage
from pipec.verify.place import places


def memory_limit(table: Table, memory: Memory, used: Usage) -> list[Finding]:
    """Finding `memory-limit` for each rank whose peak is over the limit, at its first such row."""
    if memory.limit is None:
        return []
    findings = []
    for rank in range(table.ranks):
        rows = slice(int(table.start[rank]), int(table.start[rank + 1]))
        over = (used.held[rows] > float(memory.limit * used.scale)).nonzero()[0]
        if not len(over) and used.peak[rank] <= memory.limit * used.scale:
            continue
        where: tuple[Place, ...] = ()
        if len(over):
            where = places(table, rows.start + int(over[0]))
        at = f" at index {where[0].index}, `{where[0].instruction}`" if where else ""
        peak = used.units(used.peak[rank])
        message = f"rank {rank} holds more than the limit{at}; its peak is {peak}"
        findings.append(
            Finding(
                "memory-limit",
                message,
                where[0].span if where else memory.limit_span,
                f"at most {float(memory.limit):g}",
                f"{used.units(used.held[rows][over[0]]) if len(over) else peak}",
                None,
                where,
            )
        )
    return findings
