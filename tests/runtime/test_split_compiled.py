"""Compiled parts of a stage: they stay whole, and get their gradient in B."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from splitting import assert_as_plain, floats
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x).relu())
        return y


class WithPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(8, 8), nn.Linear(8, 8)
        self.part: nn.Module = Part()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.part(self.before(x)))
        return y


@pytest.mark.parametrize("wrapped", [False, True])
def test_compiled_submodule(wrapped: bool) -> None:
    """`torch.compile(part)` and `part.compile()` leave their parameters to B, and only them."""
    module = WithPart().double()
    plain = copy.deepcopy(module)
    if wrapped:
        module.part = torch.compile(module.part, backend="aot_eager", fullgraph=True)
    else:
        module.part.compile(backend="aot_eager", fullgraph=True)
    deferred = {"before.weight", "before.bias", "after.weight", "after.bias"}
    assert_as_plain(module, floats(5, 8), deferred=deferred, plain=plain)


class WithCompiledFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.layer = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = compiled_product(self.layer(x), self.weight)
        return y


@torch.compile(backend="aot_eager", fullgraph=True)
def compiled_product(x: Tensor, w: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, w).relu() @ w


def test_compiled_function_takes_the_parameter() -> None:
    """A compiled function reads a tapped parameter as an ordinary one, without a graph break."""
    module = WithCompiledFunction().double()
    assert_as_plain(module, floats(5, 8), deferred={"layer.weight", "layer.bias"})


def test_compiled_stage() -> None:
    """A stage that is compiled as a whole is right, and does all its work in B."""
    plain = Part().double()
    stage = torch.compile(copy.deepcopy(plain), backend="aot_eager")
    assert isinstance(stage, nn.Module)
    assert_as_plain(stage, floats(5, 8), deferred=set(), plain=plain)


class WithCompiledMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.inside = nn.Linear(8, 8), nn.Linear(8, 8)
        self.run = torch.compile(self.body, backend="aot_eager", fullgraph=True)

    def body(self, x: Tensor) -> Tensor:
        y: Tensor = self.inside(x).relu()
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.run(self.before(x))
        return y


def test_compiled_method() -> None:
    """A compiled method that calls a layer does so without its taps; the others are deferred."""
    module, plain = WithCompiledMethod().double(), WithCompiledMethod().double()
    plain.load_state_dict(module.state_dict())
    deferred = {"before.weight", "before.bias"}
    assert_as_plain(module, floats(5, 8), deferred=deferred, plain=plain)
