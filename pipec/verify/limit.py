"""Memory against its limit, on every rank."""

import numpy as np

from pipec.findings import Finding
from pipec.simulate.peak import parts_text, place_text
from pipec.simulate.usage import Part, Usage
from pipec.verify.place import places

MOST = 10


def memory_limit(used: Usage) -> list[Finding]:
    """Finding `memory-limit` for ranks whose peak is over the limit, at their first such row."""
    limit = used.memory.limit
    if limit is None:
        return []
    most = limit.most * used.scale
    over = [rank for rank in range(used.table.ranks) if used.peak[rank] > most]
    return [_over(used, rank, int(most)) for rank in over[:MOST]]


def _over(used: Usage, rank: int, most: int) -> Finding:
    table, limit = used.table, used.memory.limit
    assert limit is not None
    begin, end = int(table.start[rank]), int(table.start[rank + 1])
    rows = begin + np.flatnonzero(used.held[begin:end] > most)[:1]
    where = places(table, *rows.tolist())
    at = f" at index {where[0].index}, `{where[0].instruction}`" if where else " from the start"
    peak, parts = used.text(used.peak[rank]), parts_text(used, rank)
    message = f"rank {rank} holds more than the limit{at}; its peak is {peak}"
    found = used.text(used.held[rows[0]] if where else used.peak[rank])
    expected = f"at most {limit.text}"
    note = f"its peak, {peak} {place_text(used, rank)}, is {parts}"
    span = where[0].span if where else limit.span
    hint = _way_out(used, rank, int(used.peak[rank]) - most)
    return Finding("memory-limit", message, span, expected, found, hint, where, (note,))


_WAYS = {
    "activations": "activations (run backwards earlier)",
    "stash": "stashes (run W earlier)",
    "received": "receive buffers (post RECVs later)",
    "sent": "sends in flight (receive them earlier)",
    "exchanged": "all-to-all buffers (interleave less)",
}


def _way_out(used: Usage, rank: int, over: int) -> str:
    """Which parts of the peak are large enough to make up for what is too much.

    One activation always stays: that of the F that runs.
    """
    parts = used.parts[rank]
    by = f"the peak has to shrink by {used.text(over)}"
    ways = [
        f"{fewer} of its {part.count} {_WAYS[part.name]}"
        for part in sorted(parts, key=lambda part: -part.amount)
        for fewer in [-(-over * part.count // part.amount)]
        if part.name in _WAYS and fewer <= part.count - (part.name == "activations")
    ]
    if ways:
        return f"{by}: as much as {', or '.join(ways[:2])}"
    constant = [part for part in parts if part.name not in (*_WAYS, "passed")]
    if sum(part.amount for part in constant) > over:
        return f"{by}: {_fewer(constant)}"
    return f"{by}: no part alone is as large"


def _fewer(constant: list[Part]) -> str:
    stages = max(part.count for part in constant)
    held = f"{stages} stages" if stages > 1 else "a stage"
    return f"hold less than the {' and '.join(part.name for part in constant)} of {held}"
