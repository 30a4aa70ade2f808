"""What is tuned for: one model on so many ranks, and what its stages cost however it is cut."""

from dataclasses import dataclass
from fractions import Fraction

from pipec.compiler import Settings
from pipec.findings import Finding, PipecError
from pipec.order.expand import BUDGET
from pipec.program.costs import Costs
from pipec.program.cut import cut_costs, cut_layers, cut_memory
from pipec.program.graph import Channels
from pipec.program.memory import Limit, Memory
from pipec.program.parts import Layout


@dataclass(frozen=True)
class Setting:
    """A model on `ranks` ranks with `microbatches` microbatches; `seed` decides what is tried.

    `layers` are the parts of every piece, if chunks are opened.
    """

    ranks: int
    microbatches: int
    costs: Costs = Costs()
    memory: Memory = Memory()
    channels: Channels = Channels()
    cut: int = 0
    seed: int = 0
    layers: Layout | None = None

    @property
    def pieces(self) -> int:
        """How many pieces costs and sizes are stated for: one a rank unless said otherwise."""
        return self.cut or self.ranks

    @property
    def limit(self) -> Limit | None:
        """The most that any rank may hold."""
        return self.memory.limit

    @property
    def queues(self) -> bool:
        """Whether messages may wait for each other, so that orders are not as short as replayed."""
        sends = self.costs.times.get("send", 0)
        takes = any(sends) if isinstance(sends, tuple) else bool(sends)
        takes = takes or any(self.costs.pairs.values())
        return takes and self.channels.topology != "tagged"

    def costs_of(self, stages: int) -> Costs:
        """The times of a model that is cut into so many stages, whose chunks are not opened."""
        return self._whole(cut_costs(self.costs, self.pieces, stages), stages)

    def _whole(self, costs: Costs, stages: int) -> Costs:
        """F, B and W as the sums of their parts that compute."""
        if self.layers is None:
            return costs
        computing = [part for part in self.layers_of(stages) or () if part.wire is None]
        keys = ["F", "B", "W", *(["BW"] if any(key[:2] == "BW" for key in costs.times) else [])]
        times = {
            key: tuple(
                sum((costs.part(key, part, stage, tuple(computing)) for part in computing), _NONE)
                for stage in range(stages)
            )
            for key in keys
        }
        return Costs({**times, "send": costs.times.get("send", _NONE)}, pairs=costs.pairs)

    def layers_of(self, stages: int) -> Layout | None:
        """The parts of a chunk where the model is cut into so many stages. Raises `PipecError`."""
        if self.layers is None:
            return None
        try:
            return cut_layers(self.layers, self.pieces, stages)
        except ValueError as error:
            raise PipecError([Finding("parts", f"{error}")]) from None

    def memory_of(self, stages: int) -> Memory:
        """The sizes of a model that is cut into so many stages."""
        return cut_memory(self.memory, self.pieces, stages)

    def settings(self, stages: int) -> Settings:
        """What the compiler is told for a placement with so many stages."""
        costs = cut_costs(self.costs, self.pieces, stages)
        memory, layers = self.memory_of(stages), self.layers_of(stages)
        return Settings(costs, memory, self.channels, BUDGET, layers=layers)


_NONE = Fraction(0)
