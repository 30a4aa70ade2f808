"""The split's gradients against plain backward, for each kind of module of RUNTIME.md section 1."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from splitting import assert_as_plain, assert_near, floats, run_split, tokens
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=DOUBLE))


class Block(nn.Module):
    """A pre-norm transformer layer with frozen parts and one projection that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(16, 8)
        self.qkv.bias.requires_grad_(False)
        self.down.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.out(x)
        return self.last(x + self.down(functional.gelu(self.up(x))))


def test_transformer_block() -> None:
    """LayerNorm, sdpa, a frozen weight, a frozen bias and a layer used twice get plain's result."""
    frozen = {"qkv.bias", "down.weight"}
    deferred = {"qkv.weight", "out.weight", "out.bias", "up.weight"}
    assert_as_plain(Block().double(), floats(2, 3, 8), deferred=deferred | frozen)


def test_single_precision() -> None:
    """In float32 the result is within 1e-5 of plain's."""
    batches = floats(2, 3, 8, dtype=torch.float32)
    assert_as_plain(Block(), batches, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 8), (2, 1, 3, 8), (0, 8)])
def test_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    """A linear layer is deferred for one row, for a matrix and for any batch, even an empty one."""
    module = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    assert_as_plain(
        module, floats(*shape), deferred={name for name, _ in module.named_parameters()}
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.middle = nn.Embedding(11, 8, padding_idx=2), nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(self.middle(self.table(indices)).relu())


def test_tied_embedding_and_head() -> None:
    """A table that is also the head's weight sums both gradients; its input has no gradient."""
    deferred = {"table.weight", "middle.weight", "middle.bias"}
    assert_as_plain(Tied().double(), tokens(2, 5, rows=11), deferred=deferred)


@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize("padding", [None, 3, -1])
def test_embedding_options(padding: int | None, by_frequency: bool) -> None:
    """Padding rows and scaling by frequency count as in plain backward."""
    table = nn.Embedding(7, 4, padding_idx=padding, scale_grad_by_freq=by_frequency).double()
    assert_as_plain(table, tokens(3, 4, rows=7), deferred={"weight"})


def test_embedding_left_in_b() -> None:
    """Sparse gradients and max_norm are left to B, and are right; so is a head tied to them."""
    module = nn.Embedding(7, 4, max_norm=1.0).double()
    assert_as_plain(module, tokens(3, 4, rows=7), deferred=set())
    sparse = Tied().double()
    sparse.table.sparse = True
    run_split(sparse, tokens(2, 5, rows=11))
    dense = Tied().double()
    dense.load_state_dict(sparse.state_dict())
    run_split(dense, tokens(2, 5, rows=11))
    found = sparse.table.weight.grad
    assert found is not None
    assert_near(found.to_dense(), dense.table.weight.grad, 1e-10, "table")


class Attention(nn.Module):
    def __init__(self, keys: int | None) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, kdim=keys, vdim=keys)
        self.other = nn.Linear(8, keys or 8)
        self.cross = keys is not None

    def forward(self, x: Tensor) -> Tensor:
        memory = self.other(x) if self.cross else x
        return self.inner(x, memory, memory, need_weights=False)[0]


@pytest.mark.parametrize(
    ("keys", "projections"),
    [
        (None, {"inner.in_proj_weight", "inner.in_proj_bias"}),
        (8, {"inner.in_proj_weight", "other.weight", "other.bias"}),
        (
            6,
            {f"inner.{k}_proj_weight" for k in "qkv"} | {"other.weight", "other.bias"},
        ),
    ],
)
def test_multihead_attention(keys: int | None, projections: set[str]) -> None:
    """Self and cross attention defer their projections; a bias cut in three gets its part in B."""
    module = Attention(keys).double()
    deferred = projections | {"inner.out_proj.weight", "inner.out_proj.bias"}
    if keys is None:
        deferred |= {"other.weight", "other.bias"}  # not used
    assert_as_plain(module, floats(2, 3, 8), deferred=deferred)


def test_autocast() -> None:
    """Under bfloat16 autocast the float32 gradients equal plain's bit by bit."""
    module = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8))
    around = partial(torch.autocast, "cpu", torch.bfloat16)
    batches = floats(4, 3, 8, dtype=torch.float32)
    deferred = {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert_as_plain(module, batches, deferred=deferred, tolerance=0.0, around=around)


def test_autocast_of_other_operations() -> None:
    """Convolutions, products and embeddings under autocast equal plain's bit by bit too."""
    around = partial(torch.autocast, "cpu", torch.bfloat16)
    convolution = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 1, bias=False))
    batches = floats(3, 4, 9, dtype=torch.float32)
    assert_as_plain(convolution, batches, tolerance=0.0, around=around)
    batches = floats(5, 8, dtype=torch.float32)
    assert_as_plain(Products().float(), batches, tolerance=1e-2, around=around)
    assert_as_plain(Tied(), tokens(2, 5, rows=11), tolerance=1e-2, around=around)


def test_half_precision_parameters() -> None:
    """Parameters that are bfloat16 themselves accumulate within bfloat16's own rounding."""
    module = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)).bfloat16()
    assert_as_plain(module, floats(4, 3, 8, dtype=torch.bfloat16), tolerance=1e-2)


class Recomputed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 8), Block(), nn.Linear(8, 8)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant)
        return self.last(y)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool) -> None:
    """Both kinds of checkpoint give plain's gradients, and the recomputed part is split as well."""
    module = Recomputed(reentrant).double()
    norms = {f"inner.{norm}.{kind}" for norm in ("norm", "last") for kind in ("weight", "bias")}
    here = {name for name, _ in module.named_parameters()} - norms - {"inner.down.bias"}
    assert_as_plain(module, floats(2, 3, 8), deferred=here)


class Products(nn.Module):
    """Parameters as operands of products, of elementwise operations, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.right, self.turned, self.left = weight(8, 6), weight(8, 6), weight(5, 5)
        self.scale, self.added, self.unused = weight(1, 8), weight(8), weight(3, 3)
        self.fused, self.shift = weight(8, 8), weight(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.shift, x, self.fused)
        x = self.left @ ((x @ self.right) @ self.turned.t())
        return x * self.scale + self.added


def test_products() -> None:
    """`x @ w`, `x @ v.t()`, `w @ x` and addmm wait for W; elementwise uses do not."""
    deferred = {"right", "turned", "left", "fused", "shift", "unused"}
    assert_as_plain(Products(), floats(5, 8), deferred=deferred)


class Experts(nn.Module):
    """Weights of several experts in one parameter, used whole, by index, and in turned slices."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.picked, self.sliced = weight(2, 8, 6), weight(2, 6, 6), weight(12, 6)
        self.before = weight(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.bmm(x, self.whole)
        x = torch.stack([x[0] @ self.picked[0], functional.linear(x[1], self.picked[1])])
        a, b = self.sliced.chunk(2)
        x = functional.linear(functional.linear(x, a), b[:, :6])
        x = self.before @ x
        first, second = self.picked.unbind(0)
        return torch.stack([x[0].mm(first.mT), x[1].mm(second.transpose(0, 1))])


def test_views_of_parameters() -> None:
    """Products with parts of a parameter are deferred into the same parts of its gradient."""
    deferred = {"whole", "picked", "sliced", "before"}
    assert_as_plain(Experts(), floats(2, 3, 8), deferred=deferred)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 16))
        self.down = nn.Parameter(torch.randn(3, 8, 16))
        self.ends = torch.tensor([2, 3, 7], dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.grouped_mm(x, self.up, offs=self.ends).relu()
        return functional.grouped_mm(x, self.down.transpose(-2, -1), offs=self.ends)


def test_grouped_products() -> None:
    """Grouped matrix products defer the gradient of every expert's weight."""
    batches = floats(7, 8, dtype=torch.bfloat16)
    assert_as_plain(Grouped().bfloat16(), batches, deferred={"up", "down"}, tolerance=1e-2)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Conv1d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu_(self.a(x))
        z = self.b(y)
        z += x
        return self.c(z).mul_(2.0)


def test_changes_in_place() -> None:
    """The output of a deferred layer may be changed in place, in three dimensions as well."""
    deferred = {"a.weight", "a.bias", "b.weight", "c.weight", "c.bias"}
    assert_as_plain(InPlace().double(), floats(2, 3, 8), deferred=deferred)


def test_weight_norm() -> None:
    """A weight that is computed from parameters gets its gradient in B; its neighbours in W."""
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 4)).double()
    assert_as_plain(module, floats(5, 8), deferred={"1.weight", "1.bias"})


def test_convolution_and_batch_norm() -> None:
    """Conv1d is deferred, BatchNorm is not, and its statistics advance once a microbatch."""
    module = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 2, 1))
    deferred = {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert_as_plain(module.double(), floats(3, 4, 9), deferred=deferred)
    assert module[1].num_batches_tracked == 3


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 4, stride=2, padding=1, groups=2), (3, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 9, 7)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), bias=False, padding="valid"), (2, 4, 9, 7)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
        (nn.Conv3d(2, 3, 2, padding=(1, 0, 1)), (2, 2, 4, 3, 4)),
    ],
)
def test_convolution_options(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Stride, padding in numbers and words, dilation and groups count as in plain backward."""
    module = nn.Sequential(layer, nn.Tanh()).double()
    assert_as_plain(
        module, floats(*shape), deferred={name for name, _ in module.named_parameters()}
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolution_left_in_b() -> None:
    """Without a batch dimension, or padded unevenly, a convolution is left to B and is right."""
    module = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Tanh()).double()
    assert_as_plain(module, floats(4, 9), deferred=set())
    module = nn.Sequential(nn.Conv1d(4, 6, 2, padding="same"), nn.Tanh()).double()
    assert_as_plain(module, floats(2, 4, 9), deferred=set())


class Mixed(nn.Module):
    """One parameter that a product reads, and that is also read elementwise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + (self.inner.weight**2).sum() + self.inner.bias


def test_covered_once_and_uncovered_once() -> None:
    """A parameter read by a product and elementwise gets one part in B and one in W."""
    assert_as_plain(Mixed().double(), floats(5, 8), deferred=set())


def test_dropout() -> None:
    """Dropout draws the same masks as plain forward does from the same seed."""
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.4), nn.Linear(8, 8)).double()
    assert_as_plain(module, floats(5, 8))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.a(x) * mask, self.b(x) + self.c(y), mask


def test_several_inputs_and_outputs() -> None:
    """Inputs with and without gradient, and outputs that need none, each get what plain gives."""
    xs, ys = floats(5, 8), floats(5, 8)
    batches = [(x, y, torch.ones(8, dtype=DOUBLE)) for (x,), (y,) in zip(xs, ys, strict=True)]
    assert_as_plain(Several().double(), batches)


@pytest.mark.parametrize("order", ["F0 B0 W0 F1 B1 W1 F2 B2 W2", "F0 F1 F2 B0 B1 B2 W2 W0 W1"])
def test_any_order_of_microbatches(order: str) -> None:
    """W may run at once or any number of microbatches late, and in any order."""
    assert_as_plain(Block().double(), floats(2, 3, 8), order=order)


def test_input_without_gradient() -> None:
    """A stage whose input needs no gradient still defers its first layer."""
    batches = [(x.detach(),) for (x,) in floats(5, 8)]
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).double()
    deferred = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert_as_plain(module, batches, deferred=deferred)
    convolution = nn.Sequential(nn.Conv1d(4, 6, 3)).double()
    assert_as_plain(convolution, [(x.detach(),) for (x,) in floats(3, 4, 9)])
    assert_as_plain(Experts(), [(x.detach(),) for (x,) in floats(2, 3, 8)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda() -> None:
    """On a CUDA device the gradients are those of plain backward."""
    batches = [(x.detach().cuda().requires_grad_(),) for (x,) in floats(2, 3, 8)]
    assert_as_plain(Block().double().cuda(), batches)
    assert_as_plain(Recomputed(reentrant=True).double().cuda(), batches)
    assert_as_plain(Tied().double().cuda(), [(x.cuda(),) for (x,) in tokens(2, 5, rows=11)])
