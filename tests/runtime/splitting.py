"""What the tests of the split share: microbatches run plainly and split, and their comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from pipec.runtime.split import Split

torch.set_num_threads(1)

Inputs = tuple[Tensor, ...]
INTERLEAVED = "F0 F1 B0 F2 W0 B1 B2 W1 W2"


def assert_as_plain(
    module: nn.Module,
    batches: Sequence[Inputs],
    *,
    deferred: set[str] | None = None,
    order: str = INTERLEAVED,
    tolerance: float = 1e-10,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
    plain: nn.Module | None = None,
) -> None:
    """Asserts that the split gives the gradients of plain backward, for parameters and inputs.

    `order` says when F, B and W of each microbatch run; `deferred`, which parameters have no
    gradient yet when the first B is over; `around` makes the context that each F runs in; `plain`
    is a module like this one, where a deep copy cannot be made.
    """
    plain = copy.deepcopy(module) if plain is None else plain
    expected = run_plainly(plain, copied(batches), around)
    given = copied(batches)
    waiting = run_split(module, given, order, around)
    if deferred is not None:
        assert waiting == deferred
    pairs = zip(module.named_parameters(), plain.parameters(), strict=True)
    for (name, parameter), twin in pairs:
        assert_near(parameter.grad, twin.grad, tolerance, name)
    for mine, theirs in zip(given, expected, strict=True):
        for position, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            assert_near(x.grad, y.grad, tolerance, f"input {position}")


def run_plainly(
    module: nn.Module,
    batches: Sequence[Inputs],
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Sequence[Inputs]:
    torch.manual_seed(1)
    for inputs in batches:
        with around():
            outputs = as_tuple(module(*inputs))
        roots = [y for y in outputs if y.requires_grad]
        torch.autograd.backward(roots, [seed_for(y) for y in roots])
    return batches


def run_split(
    module: nn.Module,
    batches: Sequence[Inputs],
    order: str = INTERLEAVED,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> set[str]:
    """Runs the instructions of `order`; the names of parameters without gradient after one B."""
    torch.manual_seed(1)
    split = Split(module)
    records = [split.record() for _ in batches]
    outputs: dict[int, Inputs] = {}
    waiting: set[str] | None = None
    for instruction in order.split():
        index = int(instruction[1:])
        record = records[index]
        if instruction[0] == "F":
            with around():
                outputs[index] = as_tuple(split.forward(record, module, *batches[index]))
        elif instruction[0] == "B":
            ys = outputs.pop(index)
            split.backward(record, ys, [seed_for(y) if y.requires_grad else None for y in ys])
        else:
            split.weights(record)
            assert len(record) == 0
        if waiting is None and instruction[0] == "B":
            waiting = {name for name, p in module.named_parameters() if p.grad is None}
    assert_untapped(module)
    return waiting or set()


def assert_untapped(module: nn.Module) -> None:
    assert all(type(parameter) is nn.Parameter for parameter in module.parameters())


def assert_near(found: Tensor | None, expected: Tensor | None, tolerance: float, what: str) -> None:
    if expected is None or found is None:
        assert found is expected, f"{what}: found {found}, expected {expected}"
        return
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    assert found.stride() == expected.stride(), what
    error = (found - expected).norm() / expected.norm().clamp_min(1e-30)
    assert error <= tolerance, f"{what}: relative error {error}"


def seed_for(y: Tensor) -> Tensor:
    """A gradient for y that depends on nothing but its shape."""
    wave = torch.arange(y.numel(), dtype=torch.float64, device=y.device).mul(0.7).sin()
    return wave.view(y.shape).to(y.dtype)


def copied(batches: Sequence[Inputs]) -> list[Inputs]:
    return [
        tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)
        for inputs in batches
    ]


def floats(*shape: int, count: int = 3, dtype: torch.dtype = torch.float64) -> list[Inputs]:
    """`count` microbatches of one input each."""
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(),)
        for _ in range(count)
    ]


def tokens(*shape: int, rows: int, count: int = 3) -> list[Inputs]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randint(0, rows, shape, generator=generator),) for _ in range(count)]


def as_tuple(outputs: Tensor | Inputs) -> Inputs:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).double()


def one_step(split: Split, module: nn.Module, x: Tensor) -> None:
    record = split.record()
    y = split.forward(record, module, x)
    split.backward(record, [y], [torch.ones_like(y)])
    split.weights(record)


def plain_step(module: nn.Module, x: Tensor) -> None:
    module(x).sum().backward()
