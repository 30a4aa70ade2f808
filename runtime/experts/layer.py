"""What a layer of experts is made of: two parts that compute, and what crosses between them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

PARTS = ("attention", "dispatch", "mlp", "combine")
"""The parts of a layer, in the order of its forward. The second and the last are all-to-alls."""

OUT = "out"
"""The part behind the last layer: its `join`, and the stage's modules `after`."""


@dataclass(frozen=True)
class Sent:
    """What the attention part gives: tokens for the experts, and what goes around them.

    experts, weights: for each token its experts, numbered over all ranks (-1: none), and their
        weights. Without them the layer is dense: its tokens stay on this rank.
    kept: what `join` needs besides the experts' result, such as the residual stream.
    loss: a number to be added to the loss of the microbatch, such as that of a balanced router.
    """

    tokens: Tensor
    """`[tokens, width]`"""
    kept: tuple[Tensor, ...] = ()
    experts: Tensor | None = None
    """Integers `[tokens, k]`"""
    weights: Tensor | None = None
    """`[tokens, k]`"""
    loss: Tensor | None = None


@dataclass(frozen=True)
class Arrived:
    """What the mlp part is given: every token of the group that chose an expert of this rank, once.

    experts: its experts on this rank, numbered from 0 there; -1 where a choice was another rank's.
    counts: how many choices each expert of this rank has, known to the host.
    Of a dense layer: its own tokens, and nothing else.
    """

    tokens: Tensor
    """`[arrived, width]`; may have no rows"""
    experts: Tensor | None = None
    """Integers `[arrived, k]`"""
    weights: Tensor | None = None
    """`[arrived, k]`"""
    counts: Sequence[int] = ()
    route: Any = None
    """How the exchange sends results back."""


@runtime_checkable
class Layer(Protocol):
    """A layer whose parts run one by one. An `nn.Module`; `dispatch` and `combine` are the stage's.

    Autograd is cut between the parts: what a part needs, it is given.
    """

    total: int
    """The number of routed experts over all ranks; 0 for a layer that is dense."""

    def attention(self, x: Tensor) -> Sent:
        """From the layer's input up to the choice of experts."""

    def mlp(self, arrived: Arrived) -> Tensor:
        """The experts of this rank: for each token the weighted sum of its experts here."""

    def join(self, routed: Tensor, *kept: Tensor) -> Tensor:
        """The layer's output. routed: `[tokens, width]`, each token's sum over all its experts.

        Runs together with the next part that computes.
        """

    def sharded(self) -> Iterable[nn.Parameter]:
        """The parameters that other ranks of the expert group do not have."""
