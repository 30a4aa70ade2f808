"""Streams that are all projections of one sequence: proved in one expression, and never stuck."""

from typing import Any

from numpy.typing import NDArray

from pipec.program.columns import look_up, rows_where
from pipec.program.effects import Kind
from pipec.program.events import Graph
from pipec.program.links import Ends, Links

Array = NDArray[Any]


def one_sequence(plain: Graph, links: Links) -> bool:
    """Whether the witness of a program proves that it is free of deadlock with 0 credits, even
    where all messages of a rank share one queue.

    plain: the graph with a queue per pair of ranks. A queue per rank changes only what messages
    stand behind; so if the moments rise along the edges of `plain` and from message to message on
    every rank, and agree at both ends, they rise along every edge of that graph too.
    """
    program = links.program
    if not plain.rises or program.witness is None:
        return False
    moment = program.witness.moment
    rows = rows_where((program.kind == Kind.SEND) | (program.kind == Kind.RECV))
    times, ranks = look_up(moment, rows), look_up(program.rank, rows)
    later = times[1:] > times[:-1]
    later |= ranks[1:] != ranks[:-1]
    return bool(later.all()) and _agrees(moment, links.messages) and _agrees(moment, links.sums)


def _agrees(moment: Array, ends: Ends) -> bool:
    return bool((look_up(moment, ends.first) == look_up(moment, ends.second)).all())
