"""The exchange of a rank that holds all experts itself: nothing is sent."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from pipec.runtime.experts.layer import Arrived

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A result that is there already."""

    result: Result

    def wait(self) -> Result:
        """The result."""
        return self.result


class LocalExchange:
    """Tokens stay where they are."""

    rank = 0
    size = 1
    group: ProcessGroup | None = None

    def mark(self) -> None:
        """Nothing waits."""

    def spread(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, total: int, ready: object = None
    ) -> Done[Arrived]:
        """The tokens themselves."""
        counts = torch.bincount(experts.flatten() + 1, minlength=total + 1)[1:].tolist()
        return Done(Arrived(tokens, experts, weights, counts))

    def spread_again(self, tokens: Tensor, route: object, ready: object = None) -> Done[Tensor]:
        """The rows themselves."""
        return Done(tokens)

    def gather(
        self, rows: Tensor, route: object, ready: object = None, weights: Tensor | None = None
    ) -> Done[tuple[Tensor, Tensor | None]]:
        """The rows themselves."""
        return Done((rows, weights))

    def close(self) -> None:
        """Nothing is under way."""
