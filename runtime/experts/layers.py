"""Ready layers, to be used, subclassed or copied: one with experts and one without."""

from collections.abc import Iterable

from torch import Tensor, nn

from pipec.runtime.experts.experts import Experts
from pipec.runtime.experts.layer import Arrived, Sent
from pipec.runtime.experts.router import Router


class ExpertLayer(nn.Module):
    """Attention, then routed experts beside one that all tokens share; norms before both."""

    def __init__(
        self,
        width: int,
        attend: nn.Module,
        router: Router,
        experts: Experts,
        shared: nn.Module | None = None,
    ):
        """attend, shared: take and return `[..., width]`; shared runs beside the dispatch."""
        super().__init__()
        self.total = router.experts
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attend, self.router, self.experts, self.shared = attend, router, experts, shared

    def attention(self, x: Tensor) -> Sent:
        """x: `[..., width]`."""
        x = x + self.attend(self.norm_attention(x))
        normed = self.norm_mlp(x)
        tokens = normed.flatten(0, -2)
        experts, weights, loss = self.router(tokens)
        if self.shared is not None:
            x = x + self.shared(normed)
        return Sent(tokens, (x,), experts, weights, loss)

    def mlp(self, arrived: Arrived) -> Tensor:
        """The routed experts of this rank."""
        return self.experts(arrived)

    def join(self, routed: Tensor, *kept: Tensor) -> Tensor:
        """Residual stream and shared expert, and what the routed experts made."""
        (x,) = kept
        return x + routed.view_as(x)

    def sharded(self) -> Iterable[nn.Parameter]:
        """Those of the routed experts."""
        return self.experts.parameters()


class DenseLayer(nn.Module):
    """Attention and one feed-forward layer, with the parts of the other kind: nothing is sent."""

    total = 0

    def __init__(self, width: int, attend: nn.Module, feed: nn.Module):
        """attend, feed: take and return `[..., width]`."""
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attend, self.feed = attend, feed

    def attention(self, x: Tensor) -> Sent:
        """x: `[..., width]`."""
        x = x + self.attend(self.norm_attention(x))
        return Sent(self.norm_mlp(x), (x,))

    def mlp(self, arrived: Arrived) -> Tensor:
        """The feed-forward layer."""
        return self.feed(arrived.tokens)

    def join(self, routed: Tensor, *kept: Tensor) -> Tensor:
        """The residual stream and what the feed-forward layer made."""
        (x,) = kept
        return x + routed

    def sharded(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()
