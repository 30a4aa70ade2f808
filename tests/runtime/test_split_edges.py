"""The split at its edges: failures, memory, nesting, threads, and parameters that change."""

from __future__ import annotations

import threading
import weakref

import pytest
import torch
from splitting import (
    assert_as_plain,
    assert_near,
    assert_untapped,
    copied,
    floats,
    mlp,
    one_step,
    plain_step,
    run_plainly,
    run_split,
)
from torch import Tensor, nn

from pipec.runtime.split import Split, SplitError

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("stage broke")


class RaisingInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        raise RuntimeError("gradient broke")


def test_failure_in_forward() -> None:
    """A forward that raises leaves the parameters' class as it was, and the Split usable."""
    layers = mlp()
    module = nn.Sequential(*layers, Raising())
    split = Split(module)
    with pytest.raises(RuntimeError, match="stage broke"):
        split.forward(split.record(), module, floats(5, 8)[0][0])
    assert_untapped(module)
    one_step(split, layers, floats(5, 8)[0][0])
    assert layers[0].weight.grad is not None


def test_failure_in_backward() -> None:
    """A backward that raises leaves the classes as they were; clear forgets what was kept."""
    module = mlp()
    split = Split(module)
    record = split.record()
    y = split.forward(
        record, lambda x: module[2](RaisingInBackward.apply(module[0](x))), floats(5, 8)[0][0]
    )
    with pytest.raises(RuntimeError, match="gradient broke"):
        split.backward(record, [y], [torch.ones_like(y)])
    assert_untapped(module)
    assert len(record) == 1
    record.clear()
    assert len(record) == 0 and record.held_bytes() == 0


def test_record_lets_go() -> None:
    """Between B and W a record keeps x and g and no graph; after W nothing, at once."""
    module = mlp()
    split = Split(module)
    record = split.record()
    x = floats(5, 8)[0][0]
    y = split.forward(record, module, x)
    graph = weakref.ref(y)
    dy = torch.ones_like(y)
    gradient = weakref.ref(dy)
    split.backward(record, [y], [dy])
    activation = weakref.ref(record.pieces[0][2])
    assert record.held_bytes() == 4 * 5 * 8 * 8  # x, tanh's result, and both gradients
    del y, dy
    assert graph() is None and gradient() is not None and activation() is not None
    split.weights(record)
    assert len(record) == 0 and gradient() is None and activation() is None


class Holding(torch.autograd.Function):
    """Keeps a tensor on its context, as many functions outside torch do."""

    held: weakref.ref[Tensor]

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.kept = torch.ones(3)  # type: ignore[attr-defined]
        Holding.held = weakref.ref(ctx.kept)  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g


def test_record_does_not_hold_the_graph() -> None:
    """What the nodes before a deferred layer hold is free after B, though x is kept for W."""
    layer = nn.Linear(8, 8).double()
    split = Split(layer)
    record = split.record()
    y = split.forward(record, lambda x: layer(Holding.apply(x)), floats(5, 8)[0][0])
    split.backward(record, [y], [torch.ones_like(y)])
    del y
    assert len(record) == 1 and Holding.held() is None


def test_no_gradient_forward() -> None:
    """Under no_grad, around the forward or inside it, nothing is kept and the output is plain."""
    module = mlp()
    split = Split(module)
    record = split.record()
    x = floats(5, 8)[0][0]
    with torch.no_grad():
        y = split.forward(record, module, x)
    assert not y.requires_grad and torch.equal(y, module(x).detach())

    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                target = self.inner(x)
                self.inner[0].weight.clamp_(-0.2, 0.2)
                with torch.enable_grad():
                    x = self.inner(x)
            return self.inner(x) * target

    assert_as_plain(Peeking(), floats(5, 8), order="F0 B0 W0 F1 B1 W1 F2 B2 W2")


def test_missing_gradients() -> None:
    """Outputs whose gradient is None take no part; if none is left, B does nothing."""
    module = mlp()
    split = Split(module)
    record = split.record()
    x = floats(5, 8)[0][0]
    hidden, y = split.forward(record, lambda x: (module[0](x), module(x)), x)
    split.backward(record, [hidden, y, x.detach()], [torch.ones_like(hidden), None, None])
    split.weights(record)
    assert module[2].weight.grad is None
    assert_near(module[0].weight.grad, torch.ones(8, 5, dtype=DOUBLE) @ x, 1e-10, "weight")
    split.backward(record, [y], [None])
    assert len(record) == 0
    with pytest.raises(ValueError):
        split.backward(record, [y], [])


def test_undefined_gradient_inside() -> None:
    """A layer whose output's gradient is undefined gets none, as in plain backward."""

    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> None:
            return None

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.kept = nn.Linear(8, 8), nn.Conv1d(5, 5, 1)
            self.table = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            lost = Cut.apply(self.cut(x @ self.table))
            return self.kept((x + lost)[None])[0]

    deferred = {"cut.weight", "cut.bias", "table", "kept.weight", "kept.bias"}
    assert_as_plain(Stage().double(), floats(5, 8), deferred=deferred)


def test_shared_parameter_of_two_stages() -> None:
    """Two Splits over stages with one weight in common add into the same gradient."""
    first, second = mlp(), mlp()
    second[2].weight = first[0].weight
    x = floats(5, 8)[0][0]
    plain_step(nn.Sequential(first, second), x)
    shared = first[0].weight
    expected = shared.grad
    shared.grad = None
    splits = Split(first), Split(second)
    records = splits[0].record(), splits[1].record()
    middle = splits[0].forward(records[0], first, x)
    handed = middle.detach().requires_grad_()
    y = splits[1].forward(records[1], second, handed)
    splits[1].backward(records[1], [y], [torch.ones_like(y)])
    splits[0].backward(records[0], [middle], [handed.grad])
    splits[1].weights(records[1])
    splits[0].weights(records[0])
    assert_near(shared.grad, expected, 1e-10, "shared")


def test_forward_inside_a_forward() -> None:
    """A forward of the same Split inside its own forward: the taps stay on until the outer ends."""
    module = mlp()
    split = Split(module)
    inner, outer = split.record(), split.record()
    x = floats(5, 8)[0][0]
    plain_step(nn.Sequential(module, module), x)
    expected = [parameter.grad for parameter in module.parameters()]
    module.zero_grad()

    def nested(x: Tensor) -> Tensor:
        middle = split.forward(inner, module, x).detach()
        assert type(module[0].weight) is not nn.Parameter
        y: Tensor = module(module(x)) + 0 * middle
        return y

    y = split.forward(outer, nested, x)
    assert_untapped(module)
    split.backward(outer, [y], [torch.ones_like(y)])
    split.weights(outer)
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        assert_near(parameter.grad, gradient, 1e-10, "parameter")


@pytest.mark.parametrize("shared", [False, True])
def test_another_split_inside_a_forward(shared: bool) -> None:
    """Another Split's forward inside a forward is undone; in a B not its own it is refused."""
    outer, inner = mlp(), mlp()
    if shared:
        inner[0].weight = outer[0].weight
    splits = Split(outer), Split(inner)
    records = splits[0].record(), splits[1].record()

    def nested(x: Tensor) -> Tensor:
        y: Tensor = outer(splits[1].forward(records[1], inner, outer(x)))
        return y

    y = splits[0].forward(records[0], nested, floats(5, 8)[0][0])
    assert_untapped(nn.ModuleList([outer, inner]))
    with pytest.raises(SplitError, match="ran by itself"):
        splits[0].backward(records[0], [y], [torch.ones_like(y)])
    assert_untapped(nn.ModuleList([outer, inner]))


def test_parameters_that_move() -> None:
    """New storage, another type, an optimizer's step and freezing between steps are all noticed."""
    module, plain = mlp(), mlp()
    plain.load_state_dict(module.state_dict())
    split = Split(module)

    def both() -> None:
        (x,) = floats(5, 8, dtype=module[0].weight.dtype)[0]
        for model in (module, plain):
            model.zero_grad()
        one_step(split, module, x)
        plain_step(plain, x)
        for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
            assert_near(mine.grad, theirs.grad, 1e-5, "parameter")

    both()
    for model in (module, plain):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    both()
    for model in (module, plain):
        model[0].weight.data = model[0].weight.data * 2
    both()
    for model in (module, plain):
        model.float()
    both()
    for model in (module, plain):
        model[2].weight.requires_grad_(False)
    both()
    for model in (module, plain):
        model[2].weight.requires_grad_(True)
        model[2] = nn.Linear(8, 8, bias=False).float()
    plain.load_state_dict(module.state_dict())
    both()


def test_gradient_slices_of_a_bucket() -> None:
    """Where `.grad` are slices of one flat tensor, W adds into the slices and keeps them."""
    module = mlp()
    flat = torch.zeros(sum(p.numel() for p in module.parameters()), dtype=DOUBLE)
    parts = flat.split([p.numel() for p in module.parameters()])
    for parameter, part in zip(module.parameters(), parts, strict=True):
        parameter.grad = part.view_as(parameter)
    run_split(module, floats(5, 8))
    plain = mlp()
    plain.load_state_dict(module.state_dict())
    run_plainly(plain, floats(5, 8))
    assert_near(flat, torch.cat([p.grad.flatten() for p in plain.parameters()]), 1e-10, "bucket")


@pytest.mark.filterwarnings("ignore:grad and param do not obey")
def test_layouts_of_parameters_and_gradients() -> None:
    """Transposed parameters, channels-last kernels and oddly laid out `.grad` keep their layout."""
    linear = nn.Linear(8, 8).double()
    linear.weight.data = linear.weight.data.t().contiguous().t()
    assert_as_plain(linear, floats(5, 8), deferred={"weight", "bias"})
    kernel = nn.Conv2d(4, 4, 3).double().to(memory_format=torch.channels_last)
    assert_as_plain(kernel, floats(2, 4, 5, 5), deferred={"weight", "bias"})

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 8, dtype=DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w.view(8, 2, 4)[:, 0].transpose(0, 1)[:, :5].mT

    x = floats(5, 5)[0][0]
    found, expected = Turned(), Turned()
    expected.load_state_dict(found.state_dict())
    found.w.grad = torch.ones(16, 8, dtype=DOUBLE)[::2]
    expected.w.grad = torch.ones(8, 8, dtype=DOUBLE)
    one_step(Split(found), found, x)
    plain_step(expected, x)
    torch.testing.assert_close(found.w.grad, expected.w.grad)


def test_change_between_b_and_w() -> None:
    """A buffer that is overwritten before W raises, instead of giving a wrong gradient."""
    module = mlp()
    split = Split(module)
    record = split.record()
    x = torch.randn(5, 8, dtype=DOUBLE)
    y = split.forward(record, module, x)
    dy = torch.ones_like(y)
    split.backward(record, [y], [dy])
    x.add_(1)
    with pytest.raises(SplitError, match="changed in place between B and W"):
        split.weights(record)
    assert len(record) == 0


def test_threads() -> None:
    """Two Splits run at once in two threads; one Split in two threads is refused."""
    modules = [mlp() for _ in range(2)]
    batches = [floats(5, 8, count=20) for _ in modules]
    plains = [mlp() for _ in modules]
    for module, plain, batch in zip(modules, plains, batches, strict=True):
        plain.load_state_dict(module.state_dict())
        run_plainly(plain, copied(batch))
    order = " ".join(f"F{i} B{i} W{i}" for i in range(20))
    threads = [
        threading.Thread(target=run_split, args=(module, batch, order))
        for module, batch in zip(modules, batches, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for module, plain in zip(modules, plains, strict=True):
        for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
            assert_near(mine.grad, theirs.grad, 1e-10, "parameter")

    split = Split(modules[0])
    raised: list[BaseException] = []

    def intrude() -> None:
        try:
            split.forward(split.record(), modules[0], batches[0][0][0])
        except SplitError as error:
            raised.append(error)

    def held(x: Tensor) -> Tensor:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        return modules[0](x)

    y = split.forward(split.record(), held, batches[0][0][0])
    assert y.requires_grad and len(raised) == 1
    assert_untapped(modules[0])
