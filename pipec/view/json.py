"""The stable JSON of `pipec list`, `pipec show` and `pipec compare` (docs/command-line.md)."""

from typing import Any

from pipec.library import Entry
from pipec.program.placement import Placement
from pipec.program.program import Table
from pipec.simulate.timeline import Timeline
from pipec.view.blocks import blocks
from pipec.view.tables import Compared


def entry_json(entry: Entry, at_size: Compared | None) -> dict[str, Any]:
    """One line of `pipec list`; `at_size`, where it was asked for and exists, as in `compare`."""
    return {
        "name": entry.name,
        "parameters": list(entry.parameters),
        "summary": entry.summary,
        "constraints": list(entry.constraints),
        "bubble": entry.bubble,
        "peak": entry.peak,
        "at_size": compared_json(at_size) if at_size else None,
    }


def compared_json(row: Compared) -> dict[str, Any]:
    """One row of `pipec compare`."""
    return {
        "schedule": row.name,
        **({} if row.neighbours is None else {"neighbours": row.neighbours}),
        "ok": True,
        "makespan": row.report.makespan,
        "bubble_rate": row.report.bubble_rate,
        "span_bubble_rate": row.report.span_bubble_rate,
        "peak_memory": row.report.peak_memory,
        "memory_unit": "bytes" if row.report.in_bytes else "units",
        "stages": row.stages,
        "stages_held": row.held,
        "scale": row.scale,
        "messages": row.messages,
        "costs": row.costs,
    }


def order_json(table: Table) -> dict[str, list[dict[str, Any]]]:
    """Per rank the compute operations in order; an OVERLAP has its parts."""
    orders: dict[str, list[dict[str, Any]]] = {}
    rows = table.compute
    for rank in range(table.ranks):
        order: list[dict[str, Any]] = []
        orders[str(rank)] = order
        for row in rows[table.rank[rows] == rank].tolist():
            kind, flow, stage, microbatch, _, tied, _, part, _ = table.instruction(row)
            operation: dict[str, Any] = {
                "op": kind.name,
                "flow": flow,
                "stage": stage,
                "mb": microbatch,
            } | ({"part": str(part)} if part else {})
            if tied:
                operation = {"op": "OVERLAP", "parts": [order.pop(), operation]}
            order.append(operation)
    return orders


def timeline_json(time: Timeline) -> dict[str, Any]:
    """When every operation runs, in the author's units."""
    units, placement = time.units, time.table.placement
    ranks = [
        [
            {
                "begin": units(block.begin),
                "end": units(block.end),
                "parts": [_part(part, placement) for part in block.parts],
            }
            for block in rank
        ]
        for rank in blocks(time)
    ]
    return {"ranks": ranks}


def _part(part: tuple[Any, int, int, int], placement: Placement) -> dict[str, Any]:
    kind, flow, stage, microbatch = part
    return {"op": kind.name, "flow": placement.flows[flow].name, "stage": stage, "mb": microbatch}
