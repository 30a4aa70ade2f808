"""Orders in which a policy's ranks might repeat themselves, made from the placement alone.

As in a building block (arXiv:2405.15362) each line has a slot in a period, and microbatches follow
each other by a period. On its way to higher ranks a microbatch takes `stride` slots a hop, on its
way to lower ones a single one; so a larger stride holds more, and leaves less to wait for. W takes
the free slots.
"""

from collections.abc import Iterator

from pipec.order.lines import Lines
from pipec.program.effects import Kind

STRIDES = range(6, 0, -1)


def waves(lines: Lines) -> Iterator[list[list[int]]]:
    """Per rank the lines in the order of a repetition, for each stride."""
    for stride in STRIDES:
        slots = _slots(lines, stride)
        ranks = range(lines.placement.ranks)
        period = max((len(lines.on(rank)) for rank in ranks), default=0)
        yield [_repeated(lines, lines.on(rank), slots, period) for rank in ranks]


def _slots(lines: Lines, stride: int) -> list[int]:
    """The slot of each line's first operation."""
    slots = [0] * len(lines.lines)
    reached = list(lines.first)
    for number in reached:
        here = lines.lines[number].rank
        for later in lines.after[number]:
            slots[later] = slots[number] + (stride if lines.lines[later].rank > here else 1)
            reached.append(later)
    return slots


def _repeated(lines: Lines, own: list[int], slots: list[int], period: int) -> list[int]:
    """The lines of a rank, slot after slot."""
    events: list[tuple[int, int]] = []
    weights: list[tuple[int, int]] = []
    for number in own:
        line = lines.lines[number]
        to = weights if line.kind == Kind.W else events
        to += [(slots[number] + i * period, number) for i in range(line.total)]
    taken = {slot % period for slot, _ in events}
    following = 0
    for slot, number in sorted(weights):
        following = max(following, slot)
        while following % period in taken:
            following += 1
        events.append((following, number))
        following += 1
    return [number for _, number in sorted(events)]
