"""What a search knows until now, and how good a schedule can be at most."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from pipec.program.placement import Flow, Placement
from pipec.tune.bounds import bounds
from pipec.tune.front import front
from pipec.tune.jobs import Result
from pipec.tune.recipe import Layout, Proof, Trial
from pipec.tune.screen import Sketch
from pipec.tune.setting import Setting
from pipec.tune.start import shop_at


@dataclass
class Known:
    """Grows with every result; only trials of the `placements` that were asked for count."""

    setting: Setting
    placements: Sequence[str]
    tried: int = 0
    trials: list[Trial] = field(default_factory=list)
    sketches: list[Sketch] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    _bounds: dict[tuple[Layout, Fraction], Fraction] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Take what a job found."""
        self.tried += result.count
        self.trials += [one for one in result.trials if one.placement in self.placements]
        self.sketches += result.sketches
        self.proofs += result.proofs
        self.refused.update(result.refused)

    @property
    def front(self) -> list[Trial]:
        """The front; copies of a stage count apart where nobody says how much memory they take."""
        return front(self.trials, counts_copies=not self._sized)

    @property
    def _sized(self) -> bool:
        return any(key in self.setting.memory.sizes for key in ("state", "parameters"))

    def shortest(self, peak: Fraction, copies: int) -> Fraction | None:
        """The makespan of the shortest that holds no more, and no more copies of a stage."""
        allowed = max(copies, 2 * self._sized)
        known = (one.makespan for one in self.trials if one.peak <= peak and one.copies <= allowed)
        return min(known, default=None)

    def bound(self, layout: Layout, peak: Fraction) -> Fraction:
        """No order of a layout is shorter within a peak; 0 where nothing is known."""
        if (layout, peak) not in self._bounds:
            count = self.setting.microbatches // len(layout)
            flows = tuple(Flow(f"{n}", count, ranks) for n, ranks in enumerate(layout))
            shop = shop_at(self.setting, Placement(self.setting.ranks, flows))
            most = int(peak * shop.scale)
            best = bounds(shop, [most - base for base in shop.base]).best
            self._bounds[layout, peak] = Fraction(best, shop.ticks)
        proved = [one.bound for one in self.proofs if one.layout == layout and one.peak >= peak]
        return max([self._bounds[layout, peak], *proved])

    def gain(self, layout: Layout, peak: Fraction, copies: int) -> float:
        """How much shorter than what is known a layout can be at most within a peak, as a share."""
        known, bound = self.shortest(peak, copies), self.bound(layout, peak)
        if known is None:
            return float("inf")
        return float(known / bound) - 1 if bound else 0.0
