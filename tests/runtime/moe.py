"""What the tests of expert layers share: a small model, and its gradients computed plainly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipec.runtime.experts import (
    DenseLayer,
    Exchange,
    ExpertLayer,
    Experts,
    ExpertStage,
    Router,
)

WIDTH, HIDDEN, TOTAL, CHOICES, BYTES, LENGTH = 8, 5, 4, 2, 11, 3

EVEN, STEEP = 0.0, 1e3
"""How much routers prefer the first experts; steep: the last ones get no token at all."""

Gradients = dict[str, Tensor]


class Mix(nn.Module):
    """Stands for attention: tokens of a sequence see the ones before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.cumsum(-2)).tanh()


class Steered(Router):
    """A router that prefers the first experts so much that the others get no token."""

    bias = 0.0

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steer = torch.linspace(self.bias, 0, self.experts, dtype=tokens.dtype)
        with_bias = functional.linear(tokens, self.score.weight, steer)
        shares = with_bias.softmax(-1)
        top, experts = shares.topk(self.k, dim=-1)
        return experts, top / top.sum(-1, keepdim=True), self._loss(shares, experts)


def make_layer(number: int, rank: int = 0, size: int = 1, bias: float = 0.0) -> nn.Module:
    """A layer, the same wherever it is made but for the experts of a rank; the first is dense."""
    torch.manual_seed(number)
    if number == 0:
        feed = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        return DenseLayer(WIDTH, Mix(), feed).double()
    router = Steered(WIDTH, TOTAL, CHOICES, balance=0.1)
    router.bias = bias
    mix, shared = Mix(), nn.Linear(WIDTH, WIDTH)
    experts = Experts(WIDTH, HIDDEN, TOTAL, rank, size, seed=10 * number)
    return ExpertLayer(WIDTH, mix, router, experts, shared).double()


def make_stage(
    layers: Iterable[int], count: int, exchange: Exchange | None = None, bias: float = 0.0
) -> ExpertStage:
    """Layers `layers` of a model with `count` of them: the ends have an embedding and a head."""
    numbers = list(layers)
    rank, size = (exchange.rank, exchange.size) if exchange else (0, 1)
    made = [make_layer(number, rank, size, bias) for number in numbers]
    torch.manual_seed(1000)
    before = nn.Embedding(BYTES, WIDTH).double() if numbers[0] == 0 else None
    after = nn.Linear(WIDTH, BYTES).double() if numbers[-1] == count - 1 else None
    return ExpertStage(made, exchange, before, after)


def plainly(stage: ExpertStage, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a stage that holds all experts and the sum of its losses, without its parts."""
    x = x if stage.before is None else stage.before(x)
    loss = x.new_zeros(())
    for layer in stage.layers:
        x = x + layer.attend(layer.norm_attention(x))
        normed = layer.norm_mlp(x)
        if isinstance(layer, DenseLayer):
            x = x + layer.feed(normed)
            continue
        tokens = normed.reshape(-1, WIDTH)
        chosen, weights, more = layer.router(tokens)
        shares = torch.zeros(len(tokens), TOTAL, dtype=x.dtype).scatter(1, chosen, weights)
        each = torch.stack([_expert(layer.experts, e, tokens) for e in range(TOTAL)], dim=1)
        x = x + layer.shared(normed) + (shares[:, :, None] * each).sum(1).view_as(x)
        loss = loss + more
    return (x if stage.after is None else stage.after(x)), loss


def _expert(experts: Experts, number: int, tokens: Tensor) -> Tensor:
    gate, value = (tokens @ experts.up[number].t()).chunk(2, -1)
    return (functional.silu(gate) * value) @ experts.down[number].t()


def loss_of(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of one microbatch; 0 of one without tokens."""
    total = functional.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="sum")
    return total / max(1, target.numel())


def batch_of(rank: int, microbatches: int, size: int = 2) -> list[tuple[Tensor, Tensor]]:
    """The microbatches of one rank: token ids, and what follows them."""
    generator = torch.Generator().manual_seed(rank)
    shape = (2, size, LENGTH)
    pairs = [torch.randint(0, BYTES, shape, generator=generator) for _ in range(microbatches)]
    return [(x, y) for x, y in pairs]


def plain_gradients(
    stages: Sequence[ExpertStage], batches: Sequence[Sequence[tuple[Tensor, Tensor]]]
) -> list[Gradients]:
    """For each stage of the whole model the gradients of the mean over all ranks' microbatches."""
    losses = []
    for batch in batches:
        for x, y in batch:
            for stage in stages:
                x, loss = plainly(stage, x)
                losses.append(loss)
            losses.append(loss_of(x, y))
    count = sum(map(len, batches))
    (torch.stack(losses).sum() / count).backward()
    return [gradients_of(stage) for stage in stages]


def gradients_of(stage: nn.Module) -> Gradients:
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in stage.named_parameters()
    }


def assert_gradients(
    found: Gradients, expected: Gradients, rank: int, size: int, tolerance: float = 1e-10
) -> None:
    """Compares gradients; of experts with those of the rank's own."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        mine = gradient
        if ".experts." in name:
            here = gradient.shape[0] // size
            mine = gradient[rank * here : (rank + 1) * here]
        error = (found[name] - mine).norm()
        scale = max(float(gradient.norm()), 1e-3)
        assert error <= tolerance * scale, f"{name}: error {error} of {scale}"
