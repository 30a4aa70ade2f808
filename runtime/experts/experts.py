"""The routed experts of one rank: gated feed-forward layers, each for the tokens that chose it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.layer import Arrived


class Experts(nn.Module):
    """SwiGLU experts (arXiv:2002.05202), those `total / size` of them that rank `rank` holds.

    Every expert begins with weights that depend on its number alone, however many ranks there are.
    """

    def __init__(
        self, width: int, hidden: int, total: int, rank: int = 0, size: int = 1, seed: int = 0
    ):
        """hidden: width inside an expert. Raises `PipelineError` if they cannot be shared out."""
        super().__init__()
        if total % size:
            raise PipelineError(
                f"{total} experts cannot be shared out to {size} ranks",
                expected=f"a multiple of {size} experts",
                found=str(total),
            )
        here = total // size
        first = rank * here
        made = [_expert(width, hidden, seed + number) for number in range(first, first + here)]
        self.up = nn.Parameter(torch.stack([up for up, _ in made]))
        """`[experts, 2 * hidden, width]`: gates, then values"""
        self.down = nn.Parameter(torch.stack([down for _, down in made]))
        """`[experts, width, hidden]`"""

    def forward(self, arrived: Arrived) -> Tensor:
        """For each token `[arrived, width]` the weighted sum of its experts here."""
        assert arrived.experts is not None and arrived.weights is not None
        places, k = arrived.experts.flatten(), arrived.experts.shape[1]
        elsewhere = places.shape[0] - sum(arrived.counts)
        order = places.argsort(stable=True)[elsewhere:]  # by expert, behind those of other ranks
        rows = order // k
        gates, values = self._product(arrived.tokens[rows], self.up, arrived.counts).chunk(2, -1)
        made = self._product(functional.silu(gates) * values, self.down, arrived.counts)
        weights = arrived.weights.flatten()[order].to(made.dtype)
        result = torch.zeros_like(arrived.tokens)
        return result.index_add(0, rows, made * weights[:, None])

    def _product(self, x: Tensor, weights: Tensor, counts: Sequence[int]) -> Tensor:
        """x `[rows, in]`, sorted by expert, times each expert's weight `[experts, out, in]`."""
        if x.dtype is torch.bfloat16 and x.device.type != "cpu":
            ends = torch.tensor(counts, device=x.device).cumsum(0, dtype=torch.int32)
            return functional.grouped_mm(x, weights.transpose(-2, -1), offs=ends)
        pieces = zip(torch.split(x, list(counts)), weights.unbind(), strict=True)
        return torch.cat([functional.linear(piece, weight) for piece, weight in pieces])


def _expert(width: int, hidden: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    up = torch.empty(2 * hidden, width, device="cpu").uniform_(-1, 1, generator=generator)
    down = torch.empty(width, hidden, device="cpu").uniform_(-1, 1, generator=generator)
    return up * width**-0.5, down * hidden**-0.5
