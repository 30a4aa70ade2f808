"""A peak in words: how much, where, and what it consists of."""

from pipec.program.listing import text
from pipec.simulate.usage import Part, Usage

WORDS = {
    "stash": "W stash",
    "received": "receive buffers",
    "sent": "sends in flight",
    "passed": "passed on",
    "exchanged": "all-to-all buffers",
}
"""What people call the parts whose names say too little."""

_COUNTED = {"activations": "F", "stash": "B"}


def place_text(used: Usage, rank: int) -> str:
    """Where a rank reaches its peak: `at `F main 0 7` (index 23)`."""
    row = int(used.peak_row[rank])
    if row < 0:
        return "from the start"
    return f"at `{text(used.table.instruction(row))}` (index {row - int(used.table.start[rank])})"


def parts_text(used: Usage, rank: int) -> str:
    """`parameters 4, activations 4.8 (3 F)`, in the unit of the peak."""
    peak = used.peak[rank]
    return ", ".join(
        f"{WORDS.get(part.name, part.name)} {used.text(part.amount, peak)}{_count(part)}"
        for part in used.parts[rank]
    )


def _count(part: Part) -> str:
    """How many activations and stashes there are, each named by what made it."""
    return f" ({part.count} {_COUNTED[part.name]})" if part.name in _COUNTED else ""
