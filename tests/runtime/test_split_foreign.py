"""What meets the split from outside: other tensor classes, wrappers, modes and transforms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.distributed as dist
from splitting import (
    assert_as_plain,
    assert_near,
    assert_untapped,
    copied,
    floats,
    mlp,
    plain_step,
    run_plainly,
    run_split,
    tokens,
)
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn import functional

from pipec.runtime.split import Split, SplitError

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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


def test_autograd_inside_a_forward() -> None:
    """A gradient taken inside forward through a deferred layer is refused; `leave` allows it."""

    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = mlp(), nn.Linear(8, 8).double()

        def forward(self, x: Tensor) -> Tensor:
            (slope,) = torch.autograd.grad(self.inner(x).sum(), x, create_graph=True)
            return self.last(slope)

    module = Penalty()
    with pytest.raises(SplitError, match=r"Split\.backward"):
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


def test_sparse_input() -> None:
    """A product with a sparse input is left to B; sums over the neighbours in a graph are such."""

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.out = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 3)
            self.edges = torch.eye(5, dtype=DOUBLE).roll(1, 0)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.edges.to_sparse() @ self.features) + x.sum()

    assert_as_plain(Graph().double(), floats(5, 8), deferred={"out.weight", "out.bias"})


def test_default_device_mode() -> None:
    """A torch function mode around the forward, as `with torch.device(...)` is, changes nothing."""
    deferred = {"0.weight", "0.bias", "2.weight", "2.bias"}
    around = partial(torch.device, "cpu")
    assert_as_plain(mlp(), floats(5, 8), deferred=deferred, around=around)


def test_short_indices() -> None:
    """An embedding takes 32-bit indices too."""
    batches = [(indices.int(),) for (indices,) in tokens(3, 4, rows=7)]
    assert_as_plain(nn.Embedding(7, 4, padding_idx=1).double(), batches, deferred={"weight"})
