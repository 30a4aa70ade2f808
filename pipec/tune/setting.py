"""What is tuned for: one model on so many ranks, and what its stages cost however it is cut."""

from dataclasses import dataclass

from pipec.compiler import Settings
from pipec.order.expand import BUDGET
from pipec.program.costs import Costs
from pipec.program.cut import cut_costs, cut_memory
from pipec.program.graph import Channels
from pipec.program.memory import Limit, Memory


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

    @property
    def queues(self) -> bool:
        """Whether messages may wait for each other, so that orders are not as short as replayed."""
        sends = self.costs.times.get("send", 0)
        takes = any(sends) if isinstance(sends, tuple) else bool(sends)
        takes = takes or any(self.costs.pairs.values())
        return takes and self.channels.topology != "tagged"

    def costs_of(self, stages: int) -> Costs:
        """The times of a model that is cut into so many stages."""
        return cut_costs(self.costs, self.pieces, stages)

    def memory_of(self, stages: int) -> Memory:
        """The sizes of a model that is cut into so many stages."""
        return cut_memory(self.memory, self.pieces, stages)

    def settings(self, stages: int) -> Settings:
        """What the compiler is told for a placement with so many stages."""
        return Settings(self.costs_of(stages), self.memory_of(stages), self.channels, BUDGET)
