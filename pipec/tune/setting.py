"""What is tuned for: one model on so many ranks, and what its stages cost however it is cut.

Costs and sizes are stated for the model in `cut` equal pieces. A stage of a placement with other
stages has its share of the pieces that it covers: half of one, or several. So schedules with one
and with several chunks on a rank are compared on one model, in one unit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import ceil, floor

from pipec.compiler import Settings
from pipec.order.expand import BUDGET
from pipec.program.costs import PAIR, Costs, PerStage
from pipec.program.graph import Channels
from pipec.program.memory import Limit, Memory
from pipec.program.sizes import CONSTANT

TIMES = ("F", "B", "W", "BW", PAIR)
"""Times that belong to a stage: half a stage takes half of them. A message is always whole."""

SIZES = (*CONSTANT, "activation", "stash")
"""Sizes that belong to a stage; a message has the size of a boundary."""


@dataclass(frozen=True)
class Setting:
    """A model on `ranks` ranks with `microbatches` microbatches; `seed` decides what is tried."""

    ranks: int
    microbatches: int
    costs: Costs = Costs()
    memory: Memory = Memory()
    channels: Channels = Channels()
    cut: int = 0
    seed: int = 0

    @property
    def pieces(self) -> int:
        """How many pieces costs and sizes are stated for: one a rank unless said otherwise."""
        return self.cut or self.ranks

    @property
    def limit(self) -> Limit | None:
        """The most that any rank may hold."""
        return self.memory.limit

    def costs_of(self, stages: int) -> Costs:
        """The times of a model that is cut into so many stages."""
        known = self.costs.times
        stated = {key: self._firsts(known[key], stages) for key in known if key not in TIMES}
        for key in TIMES:
            if key in known or key in TIMES[:3]:
                stated[key] = self._shares(partial(self.costs.time, key), stages)
        return replace(self.costs, times=stated)

    def memory_of(self, stages: int) -> Memory:
        """The sizes of a model that is cut into so many stages."""
        known = self.memory
        sizes = known.sizes.items()
        stated = {key: self._firsts(size, stages) for key, size in sizes if key not in SIZES}
        for key in SIZES:
            if key in known.sizes or (key == "activation" and not known.in_bytes):
                stated[key] = self._shares(partial(known.size, key), stages)
        return Memory(stated, known.in_bytes, known.limit)

    def settings(self, stages: int) -> Settings:
        """What the compiler is told for a placement with so many stages."""
        return Settings(self.costs_of(stages), self.memory_of(stages), self.channels, BUDGET)

    def _firsts(self, amounts: PerStage, stages: int) -> PerStage:
        """Per stage the amount of its first piece: what belongs to a boundary is not shared."""
        if not isinstance(amounts, tuple):
            return amounts
        firsts = (int(stage * Fraction(self.pieces, stages)) for stage in range(stages))
        return tuple(amounts[min(piece, len(amounts) - 1)] for piece in firsts)

    def _shares(self, of: Callable[[int], Fraction], stages: int) -> PerStage:
        """Per stage the sum over its share of every piece; one number where all are equal."""
        width = Fraction(self.pieces, stages)
        amounts = tuple(_sum(of, stage * width, (stage + 1) * width) for stage in range(stages))
        return amounts[0] if len(set(amounts)) == 1 else amounts


def _sum(of: Callable[[int], Fraction], begin: Fraction, end: Fraction) -> Fraction:
    """What pieces from `begin` to `end` come to; of the first and the last piece only a share."""
    whole = Fraction(0)
    for piece in range(floor(begin), ceil(end)):
        low, high = max(begin, Fraction(piece)), min(end, Fraction(piece + 1))
        whole += of(piece) * (high - low)
    return whole
