"""How much memory operations take and give back, in the author's units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from pipec.program.costs import PerStage
from pipec.source import Span


@dataclass(frozen=True)
class Memory:
    """What each operation adds (F) or gives back (B, W, BW), one number or one per stage.

    Unless stated, F adds 1 and W or BW gives it back, so that peaks count activations of one stage
    from F to W, as papers do. `state` is what a held stage takes all the time (parameters,
    gradients, optimizer); `message` is one tensor set on the wire.
    """

    amounts: Mapping[str, PerStage] = field(default_factory=dict)
    limit: Fraction | None = None
    limit_span: Span | None = None

    def amount(self, key: str, stage: int) -> Fraction:
        """The change of memory by one operation, or the size of a `state` or a `message`."""
        stated = self.amounts.get(key)
        if stated is not None:
            return stated[min(stage, len(stated) - 1)] if isinstance(stated, tuple) else stated
        if key == "W":
            return -self.amount("F", stage) - self.amount("B", stage)
        if key == "BW":
            return -self.amount("F", stage)
        return _DEFAULT.get(key, Fraction(0))


_DEFAULT = {"F": Fraction(1)}
KEYS = ("F", "B", "W", "BW", "state", "message")
