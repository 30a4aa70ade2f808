"""A timeline as blocks to draw: what a rank computes from when to when."""

from dataclasses import dataclass

from pipec.program.effects import Kind
from pipec.simulate.timeline import Timeline


@dataclass(frozen=True)
class Block:
    """One operation, or an OVERLAP of two, in ticks."""

    rank: int
    begin: int
    end: int
    parts: tuple[tuple[Kind, int, int, int], ...]
    """Kind, flow, stage and microbatch of each operation."""


def blocks(time: Timeline) -> list[list[Block]]:
    """Per rank, the blocks in order."""
    table = time.table
    rows = table.compute
    parts = table.placement.split(table.operation[rows])
    columns = [
        table.rank[rows],
        table.kind[rows],
        parts.flow,
        parts.stage,
        parts.microbatch,
        time.begin[rows],
        time.end[rows],
        table.tie[rows],
    ]
    drawn: list[list[Block]] = [[] for _ in range(table.ranks)]
    for rank, kind, flow, stage, microbatch, begin, end, tied in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        part = (Kind(kind), flow, stage, microbatch)
        if tied and drawn[rank] and not time.serial:
            before = drawn[rank].pop()
            drawn[rank].append(Block(rank, before.begin, end, (*before.parts, part)))
            continue
        drawn[rank].append(Block(rank, begin, end, (part,)))
    return drawn
