"""Rows as places in findings."""

from pipec.findings import Place
from pipec.program.listing import text
from pipec.program.program import Table


def place(table: Table, row: int) -> Place:
    """A row with its rank, index, listing text and the source that made it."""
    rank, index = table.place(row)
    span = table.origins.span(int(table.origin[row]))
    return Place(rank, index, text(table.instruction(row)), span)


def places(table: Table, *rows: int) -> tuple[Place, ...]:
    """Several rows as places."""
    return tuple(place(table, row) for row in rows)
