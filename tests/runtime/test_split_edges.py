"""The split at its edges: failures, memory, order of use, and what must be refused or left alone."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from pipec.runtime.split import Split, SplitError
from splitting import (
    assert_as_plain,
    assert_near,
    assert_untapped,
    copied,
    floats,
    run_plainly,
    run_split,
)
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn import functional

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)).double()


def one_step(split: Split, module: nn.Module, x: Tensor) -> None:
    record = split.record()
    y = split.forward(record, module, x)
    split.backward(record, [y], [torch.ones_like(y)])
    split.weights(record)


def plain_step(module: nn.Module, x: Tensor) -> None:
    module(x).sum().backward()


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
    """A backward that raises leaves the parameters' class as it was; clear forgets what was kept."""
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
    """Between B and W a record keeps x and g and no graph; after W, nothing, without a collector."""
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


@pytest.mark.parametrize("shared", [False, True])
def test_stage_that_runs_another_split(shared: bool) -> None:
    """A tapped forward inside another one: both are undone, and every gradient is right."""
    outer, inner = mlp(), mlp()
    if shared:
        inner[0].weight = outer[0].weight
    x = floats(5, 8)[0][0]
    plain_step(nn.Sequential(outer, inner, outer), x)
    parameters = [*outer.parameters(), *inner.parameters()]
    expected = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    splits = Split(outer), Split(inner)
    records = splits[0].record(), splits[1].record()

    def nested(x: Tensor) -> Tensor:
        middle = splits[1].forward(records[1], inner, outer(x))
        assert type(outer[2].weight) is not nn.Parameter
        y: Tensor = splits[0].forward(records[0], outer, middle)
        assert type(outer[2].weight) is not nn.Parameter
        return y

    y = splits[0].forward(records[0], nested, x)
    assert_untapped(nn.ModuleList([outer, inner]))
    records[1].deferring = True  # the inner stage's backward is a part of the outer one's
    splits[0].backward(records[0], [y], [torch.ones_like(y)])
    assert_untapped(nn.ModuleList([outer, inner]))
    splits[0].weights(records[0])
    splits[1].weights(records[1])
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert_near(parameter.grad, gradient, 1e-10, "parameter")


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


def test_autograd_inside_a_forward() -> None:
    """A gradient taken through a deferred layer inside forward is refused, and `leave` allows it."""

    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = mlp(), nn.Linear(8, 8).double()

        def forward(self, x: Tensor) -> Tensor:
            (slope,) = torch.autograd.grad(self.inner(x).sum(), x, create_graph=True)
            return self.last(slope)

    module = Penalty()
    with pytest.raises(SplitError, match="Split.backward"):
        run_split(module, floats(5, 8))
    assert_untapped(module)
    plain = Penalty()
    plain.load_state_dict(module.state_dict())
    batches = floats(5, 8)
    run_plainly(plain, copied(batches))
    split = Split(module, leave=[module.inner])
    for (x,) in batches:
        record = split.record()
        y = split.forward(record, module, x)
        seed = torch.arange(y.numel(), dtype=DOUBLE).mul(0.7).sin().view(y.shape)
        split.backward(record, [y], [seed])
        assert len(record) == 1
        split.weights(record)
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        assert_near(mine.grad, theirs.grad, 1e-10, "parameter")


def test_distributed_wrappers_are_refused() -> None:
    """A stage with DistributedDataParallel in it is refused, with its name and the way out."""
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.add_module("module", mlp())
    with pytest.raises(SplitError) as refusal:
        Split(nn.ModuleDict({"body": wrapped}))
    (finding,) = refusal.value.findings
    assert "'body'" in finding.message and finding.expected and finding.hint
    assert "DistributedDataParallel" in str(refusal.value)


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


class Logged(Tensor):
    """A subclass of Tensor with torch's usual rules: its operations give the subclass again."""


def test_foreign_tensors() -> None:
    """An input of a tensor subclass keeps its class and rules; its layers stay in B."""
    module, plain = mlp(), mlp()
    plain.load_state_dict(module.state_dict())
    x = torch.randn(5, 8, dtype=DOUBLE)
    split = Split(module)
    record = split.record()
    y = split.forward(record, module, x.as_subclass(Logged))
    assert type(y) is Logged and type(module[0].weight) is nn.Parameter
    split.backward(record, [y], [torch.ones_like(y)])
    assert len(record) == 0
    plain_step(plain, x)
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.as_subclass(Tensor), theirs.grad)


class Marked(nn.Parameter):
    """A subclass of nn.Parameter, as libraries make for their own bookkeeping."""


def test_foreign_parameters() -> None:
    """A parameter whose class cannot be swapped gets its gradient in B, its neighbours in W."""
    module = mlp()
    module[0].weight = Marked(module[0].weight.detach())
    split = Split(module)
    record = split.record()
    x = floats(5, 8)[0][0]
    y = split.forward(record, module, x)
    split.backward(record, [y], [torch.ones_like(y)])
    assert module[0].weight.grad is not None and module[2].weight.grad is None
    split.weights(record)
    plain = mlp()
    plain.load_state_dict(module.state_dict())
    plain_step(plain, x)
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=0)
    assert type(module[0].weight) is Marked


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_dtensor_parameters(one_rank: None) -> None:
    """DTensor parameters stay in B and are right, beside ordinary ones that are deferred."""
    mesh = dist.init_device_mesh("cpu", (1,))
    module, plain = mlp(), mlp()
    plain.load_state_dict(module.state_dict())
    for name, parameter in list(module[0].named_parameters()):
        sharded = nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Replicate()]))
        module[0].register_parameter(name, sharded)

    def run(x: Tensor) -> Tensor:
        spread = DTensor.from_local(x, mesh, [Replicate()])
        return module[2](module[1](module[0](spread)).to_local())

    split = Split(module)
    record = split.record()
    x = floats(5, 8)[0][0]
    y = split.forward(record, run, x)
    split.backward(record, [y], [torch.ones_like(y)])
    assert isinstance(module[0].weight.grad, DTensor) and module[2].weight.grad is None
    split.weights(record)
    plain_step(plain, x)
    torch.testing.assert_close(module[0].weight.grad.to_local(), plain[0].weight.grad)
    torch.testing.assert_close(module[2].weight.grad, plain[2].weight.grad)


def test_function_transforms() -> None:
    """Layers under torch.func's transforms are left to them, and are right."""

    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = mlp(), nn.Linear(8, 8).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.func.vmap(self.inner)(x))

    assert_as_plain(Mapped(), floats(5, 8), deferred={"last.weight", "last.bias"})


def test_offloaded_tensors() -> None:
    """What a layer keeps from F to B goes through saved-tensor hooks, such as offloading."""
    assert_as_plain(mlp(), floats(5, 8), around=save_on_cpu)


def test_recurrent_network() -> None:
    """An LSTM, whose weights enter one operation as a list, is right and stays in B."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    assert_as_plain(Recurrent().double(), floats(2, 3, 8), deferred={"head.weight", "head.bias"})


def test_parameters_as_inputs_of_products() -> None:
    """A parameter that is a layer's input gets that gradient in B, the layer's weight in W."""

    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.randn(5, 8))
            self.key, self.out = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            scores = functional.linear(self.queries, self.key.weight) @ x.mT
            return self.out(scores.softmax(-1) @ x) + self.queries @ self.key.weight.t()

    deferred = {"key.weight", "out.weight", "out.bias"}
    assert_as_plain(Queries().double(), floats(5, 8), deferred=deferred)


def test_keyword_arguments() -> None:
    """Calls with keywords, and with arguments that are not deferred, mean what they say."""

    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))
            self.c = nn.Parameter(torch.randn(8))

        def forward(self, x: Tensor) -> Tensor:
            x = functional.linear(input=x, weight=self.a, bias=self.c)
            x = torch.mm(input=x, mat2=self.b)
            x = torch.addmm(x, x, self.b, beta=0.5, alpha=2)
            x = functional.linear(bias=self.c, weight=self.a, input=x.sin())
            return torch.matmul(self.a, other=x.mT)

    assert_as_plain(Keywords().double(), floats(5, 8))
