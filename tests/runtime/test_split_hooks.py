"""Hooks on parameters and modules: under the split they run as often and see the same values."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from splitting import assert_as_plain, copied, floats, run_plainly, run_split
from torch import Tensor, nn

from pipec.runtime.split import Split

Seen = dict[str, list[Tensor]]
Listen = Callable[[nn.Module], Seen]


def before_accumulation(module: nn.Module) -> Seen:
    """Notes every gradient that a parameter is about to add."""
    seen: Seen = defaultdict(list)
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda g, name=name: seen[name].append(g.clone()))
    return seen


def doubling(module: nn.Module) -> Seen:
    """Notes every gradient and doubles it."""
    seen: Seen = defaultdict(list)

    def double(g: Tensor, name: str) -> Tensor:
        seen[name].append(g.clone())
        return g * 2

    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda g, name=name: double(g, name))
    return seen


def after_accumulation(module: nn.Module) -> Seen:
    """Notes every `.grad` after something was added to it."""
    seen: Seen = defaultdict(list)

    def note(parameter: Tensor, name: str) -> None:
        assert parameter.grad is not None
        seen[name].append(parameter.grad.clone())

    for name, parameter in module.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: note(p, name))
    return seen


class Uses(nn.Module):
    """A layer used twice, one used once, one read both by a product and elementwise, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.mixed = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.norm(self.twice(x)).relu())
        return self.mixed(self.once(x)) * self.mixed.weight.sum()


ORDER = "F0 B0 W0 F1 F2 B1 W1 B2 W2"


@pytest.mark.parametrize("listen", [before_accumulation, doubling, after_accumulation])
def test_parameter_hooks(listen: Listen) -> None:
    """Tensor and post-accumulate hooks run once an accumulation, with the microbatch's gradient."""
    module = Uses().double()
    plain = copy.deepcopy(module)
    expected, seen = listen(plain), listen(module)
    batches = floats(5, 8)
    run_plainly(plain, copied(batches))
    run_split(module, batches, ORDER)
    assert set(seen) == set(expected) == {name for name, _ in module.named_parameters()}
    for name, values in expected.items():
        assert len(seen[name]) == len(values) == 3
        for mine, theirs in zip(seen[name], values, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=0)
    for name, parameter in plain.named_parameters():
        mine = module.get_parameter(name).grad
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-10, atol=0)


def test_hooked_parameters_are_deferred() -> None:
    """A parameter with hooks is watched for one forward; then it waits for W, if it may."""
    module = Uses().double()
    after_accumulation(module)
    split, record = Split(module), Split(module).record()
    (x,) = floats(5, 8)[0]
    waiting = []
    for _ in range(2):
        module.zero_grad()
        y = split.forward(record, module, x)
        split.backward(record, [y], [torch.ones_like(y)])
        waiting.append({name for name, p in module.named_parameters() if p.grad is None})
        split.weights(record)
    assert waiting == [set(), {"twice.weight", "once.weight"}]


def test_removed_hooks_leave_nothing_behind() -> None:
    """After a hook is removed its parameter is deferred as any other."""
    module = nn.Linear(8, 8).double()
    module.weight.register_hook(lambda g: g).remove()
    module.weight.register_post_accumulate_grad_hook(lambda p: None).remove()
    assert_as_plain(module, floats(5, 8), deferred={"weight", "bias"})


def test_hook_registered_between_forward_and_weights() -> None:
    """A hook that comes when the microbatch already runs still sees its gradient once."""
    module = nn.Linear(8, 8).double()
    split = Split(module)
    record = split.record()
    (x,) = floats(5, 8)[0]
    y = split.forward(record, module, x)
    split.backward(record, [y], [torch.ones_like(y)])
    seen = before_accumulation(module)
    split.weights(record)
    assert {name: len(values) for name, values in seen.items()} == {"weight": 1, "bias": 1}
    torch.testing.assert_close(seen["weight"][0], torch.ones_like(y).T @ x)


def test_module_and_tensor_hooks() -> None:
    """Module hooks, full backward hooks and hooks on activations run as in plain backward."""
    calls: dict[str, list[str]] = {"plain": [], "split": []}

    def listen(module: nn.Module, log: list[str]) -> None:
        for name, part in module.named_modules():
            part.register_forward_pre_hook(lambda *_, n=name: log.append(f"before {n}"))
            part.register_forward_hook(lambda *_, n=name: log.append(f"after {n}"))
            part.register_full_backward_hook(lambda *_, n=name: log.append(f"backward {n}"))

    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).double()
    plain = copy.deepcopy(module)
    listen(plain, calls["plain"])
    run_plainly(plain, floats(5, 8))
    listen(module, calls["split"])
    run_split(module, floats(5, 8), "F0 B0 W0 F1 B1 W1 F2 B2 W2")
    assert calls["split"] == calls["plain"] != []
