"""The router: which experts a token goes to, and a loss that keeps them evenly busy."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Router(nn.Module):
    """Top-k of a softmax over all experts, with the balancing loss of the Switch Transformer.

    The loss is `balance * experts * sum_i(share of choices that are i * mean probability of i)`
    over the tokens of one microbatch on one rank (arXiv:2101.03961, section 2.2; DeepSeekMoE,
    arXiv:2401.06066, section 3.3); it is `balance` when all experts are equally busy.
    """

    def __init__(self, width: int, experts: int, k: int, balance: float = 0.01):
        """k: experts of a token. Their weights are probabilities, normalised to a sum of 1."""
        super().__init__()
        self.experts, self.k, self.balance = experts, k, balance
        self.score = nn.Linear(width, experts, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens `[tokens, width]` -> experts and weights, both `[tokens, k]`, and the loss."""
        scores = self.score(tokens)
        wide = scores.dtype if scores.dtype.itemsize >= 4 else torch.float32
        shares = functional.softmax(scores, dim=-1, dtype=wide)
        top, experts = shares.topk(self.k, dim=-1)
        return experts, top / top.sum(-1, keepdim=True), self._loss(shares, experts)

    def _loss(self, shares: Tensor, experts: Tensor) -> Tensor:
        most = max(1, experts.numel())
        busy = torch.bincount(experts.flatten(), minlength=self.experts) / most
        mean = shares.sum(0) / max(1, shares.shape[0])
        return self.balance * self.experts * (busy.to(mean.dtype) * mean).sum()
