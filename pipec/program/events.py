"""Events of a table, and what each of them waits for: the form that graphs have."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from pipec.program.columns import look_up
from pipec.program.program import Table
from pipec.program.sweep import latest

Array = NDArray[Any]


@dataclass(frozen=True)
class Graph:
    """Events of a table. `event[r]` is the completion of row `r`; `row[e]` is the row of event `e`.

    `waits[:, e]` are the events that `e` waits for, `len(graph)` standing for none. Events of one
    `lane` happen in the order of their numbers. The last `launches` events take no time: they are
    the starts and the ends of launches, and their row is a member.
    """

    table: Table
    event: Array
    row: Array
    waits: Array
    lanes: Callable[[], Array]
    launches: int = 0

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def lane(self) -> Array:
        """The lane of each event; only a sweep asks for it."""
        return self.lanes()

    @cached_property
    def rises(self) -> bool:
        """Whether the moments of a witness rise along every edge: then nothing is on a cycle.

        Launches have no moments, and a witness of another table is none.
        """
        witness = self.table.witness
        if witness is None or self.launches:
            return False
        if (len(witness.moment), len(witness.end)) != (len(self.table), len(self.table)):
            return False
        moment = look_up(witness.moment, self.row)
        return bool((moment > latest(self.waits, moment)).all())
