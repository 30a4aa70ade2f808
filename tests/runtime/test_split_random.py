"""Random stages, random orders of F, B and W: the gradients are always those of plain backward."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import assert_as_plain, floats, run_plainly, run_split
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 4
WEIGHTS = 3

READS = {
    "linear": lambda x, w, b: functional.linear(x, w, b),
    "bare linear": lambda x, w, b: functional.linear(x, w),
    "right": lambda x, w, b: x @ w,
    "turned": lambda x, w, b: x @ w.t(),
    "half": lambda x, w, b: torch.cat([x @ w[:, :2], functional.linear(x, w[2:])], -1),
    "left": lambda x, w, b: (w @ x[0])[None] + x,
    "scale": lambda x, w, b: x * w.mean(0),
    "shift": lambda x, w, b: x + b,
    "norm": lambda x, w, b: functional.layer_norm(x, (WIDTH,), b),
    "convolution": lambda x, w, b: functional.conv1d(x.mT, w.unsqueeze(-1), b).mT,
    "in place": lambda x, w, b: functional.linear(x, w, b).neg_().add_(x),
    "cut in place": lambda x, w, b: functional.relu_(functional.linear(x, w, b)) + x,
    "computed": lambda x, w, b: functional.linear(x, w.tanh(), b * 2),
    "constant": lambda x, w, b: x + functional.linear(x.detach(), w, b),
    "unseen": lambda x, w, b: x + functional.linear(x, w.detach(), b),
    "residual": lambda x, w, b: x + torch.tanh(x @ w),
}

Step = tuple[str, int]


class RandomStage(nn.Module):
    """Reads its few weights, each maybe several times, as the steps say."""

    def __init__(self, steps: list[Step], frozen: set[int]) -> None:
        super().__init__()
        self.steps = steps
        shape = (WIDTH, WIDTH)
        self.weights = nn.ParameterList(torch.randn(shape) for _ in range(WEIGHTS))
        self.biases = nn.ParameterList(torch.randn(WIDTH) for _ in range(WEIGHTS))
        for index in frozen:
            [*self.weights, *self.biases][index].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for name, index in self.steps:
            x = READS[name](x, self.weights[index], self.biases[index])
            x = x / (1 + x.detach().norm() / 8)  # keeps gradients of a size
        return x


@st.composite
def orders(draw: st.DrawFn) -> str:
    """Every F before its B before its W, otherwise in any order."""
    waiting = dict.fromkeys(range(draw(st.integers(1, 3))), "FBW")
    order = []
    while waiting:
        index = draw(st.sampled_from(sorted(waiting)))
        order.append(f"{waiting[index][0]}{index}")
        waiting[index] = waiting[index][1:]
        if not waiting[index]:
            del waiting[index]
    return " ".join(order)


def stages() -> st.SearchStrategy[RandomStage]:
    step = st.tuples(st.sampled_from(sorted(READS)), st.integers(0, WEIGHTS - 1))
    frozen = st.sets(st.integers(0, 2 * WEIGHTS - 1), max_size=2)
    return st.builds(RandomStage, st.lists(step, min_size=1, max_size=6), frozen)


@settings(max_examples=80, deadline=None)
@given(stages(), orders(), st.booleans())
def test_random_stage(stage: RandomStage, order: str, needs_gradient: bool) -> None:
    """Covered, uncovered, frozen and repeated uses of the same weights, in any order of W."""
    torch.manual_seed(0)
    batches = floats(1, WIDTH, WIDTH, count=1 + max(int(i[1:]) for i in order.split()))
    if not needs_gradient:
        batches = [(x.detach(),) for (x,) in batches]
        stage.steps.append(("linear", 0))
        stage.weights[0].requires_grad_(True)
    assert_as_plain(stage.double(), batches, order=order)


@settings(max_examples=40, deadline=None)
@given(stages(), st.sampled_from(["tensor", "accumulated"]))
def test_random_stage_with_hooks(stage: RandomStage, kind: str) -> None:
    """With hooks on every parameter, the same gradients, and the hooks run equally often."""
    torch.manual_seed(0)
    module = stage.double()
    plain = copy.deepcopy(module)
    counts = []
    for model in (module, plain):
        seen: list[str] = []
        counts.append(seen)
        for name, parameter in model.named_parameters():
            if kind == "tensor" and parameter.requires_grad:
                parameter.register_hook(lambda g, n=name, s=seen: s.append(n))
            elif kind == "accumulated" and parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p, n=name, s=seen: s.append(n))
    run_plainly(plain, floats(1, WIDTH, WIDTH))
    run_split(module, floats(1, WIDTH, WIDTH), "F0 B0 W0 F1 B1 F2 B2 W1 W2")
    assert sorted(counts[0]) == sorted(counts[1])
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
