"""What a pipeline can do, on real processes: every feature of `step` and `eval`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from pipec.runtime import Pipeline, TensorSpec
from piped import (
    PER_MICROBATCH,
    TOKENS,
    WIDTH,
    assert_close,
    assert_same,
    batch_of,
    compiled,
    gradients_of,
    loss_of,
    make_stage,
    stages_of,
    total_of,
    unpipelined,
)
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from pipec import Channels

pytestmark = pytest.mark.slow

DOUBLE = torch.float64
Make = Callable[[int, int], nn.Module]


def pipeline(
    rank: int, group: ProcessGroup, schedule: str, microbatches: int, make: Make, **options: Any
) -> Pipeline:
    plan = compiled(schedule, torch.distributed.get_world_size(group), microbatches)
    stages = {stage: make(stage, stages_of(plan)) for stage in plan.stages(rank)}
    return Pipeline(plan, stages, group=group, timeout=20, **options)


def modules(pipe: Pipeline) -> dict[int, nn.Module]:
    return pipe._stages


def expect(
    make: Make, stages: int, batch: Sequence[Any], target: Tensor | None, loss_fn: Any, count: int
) -> list[nn.Module]:
    """The stages with the gradients of the un-pipelined model, one microbatch after the other."""
    parts = [make(stage, stages) for stage in range(stages)]
    for number in range(count):
        values: Any = tuple(part.chunk(count)[number] for part in batch)
        for part in parts:
            values = part(*values) if isinstance(values, tuple) else part(values)
        loss = values if loss_fn is None else loss_fn(values, target.chunk(count)[number])
        (loss / count).backward()
    return parts


def compare(pipe: Pipeline, parts: Sequence[nn.Module], tolerance: float = 1e-10) -> int:
    return sum(
        assert_same(gradients_of(module), gradients_of(parts[stage]), tolerance, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )


# --- what crosses stages --------------------------------------------------------------------------


class Several(nn.Module):
    """Passes on vectors, an integer mask, a float without gradient, and one that nobody uses."""

    def __init__(self, stage: int, stages: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.side = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.last = stage == stages - 1

    def forward(
        self, x: Tensor, mask: Tensor, scale: Tensor, unused: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        y = self.linear(x).masked_fill(mask == 0, 0.0) * scale
        if self.last:
            return y
        return y, mask, scale, self.side(x)


def several_batch(count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    size = 2 * count
    mask = torch.randint(0, 2, (size, WIDTH), generator=generator)
    x, scale, y = torch.randn(3, size, WIDTH, generator=generator, dtype=DOUBLE)
    return x, mask, scale, y


def several(rank: int, group: ProcessGroup, schedule: str, count: int, wires: str) -> int:
    make: Make = lambda stage, stages: Several(stage, stages).double()  # noqa: E731
    channels = None if wires == "tagged" else Channels(wires)
    loss_fn = functional.mse_loss
    pipe = pipeline(rank, group, schedule, count, make, loss_fn=loss_fn, channels=channels)
    *batch, target = several_batch(count)
    parts = expect(make, stages_of(pipe.plan), batch, target, loss_fn, count)
    for _ in range(2):
        for module in modules(pipe).values():
            module.zero_grad()
        pipe.step(tuple(batch), target)
        for stage, module in modules(pipe).items():
            # what nobody uses has no gradient in the model, and zeros in the pipeline
            assert not module.side.weight.grad.any() if stage < len(parts) - 1 else True
            for parameter in module.side.parameters():
                parameter.grad = None
        compared = compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize("wires", ["tagged", "pair"])
@pytest.mark.parametrize(("schedule", "ranks", "count"), [("1f1b", 2, 3), ("zbv", 2, 4)])
def test_several_tensors(four: Ranks, schedule: str, ranks: int, count: int, wires: str) -> None:
    """Tensors, integer masks, tensors without gradient and unused outputs cross together."""
    for compared in four.run(several, schedule, count, wires, on=range(ranks)):
        assert compared == 2 * (1 if schedule == "1f1b" else 2)


class Narrow(nn.Module):
    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.bfloat16()).tanh()


def bfloat16(rank: int, group: ProcessGroup) -> int:
    make: Make = lambda stage, stages: Narrow(stage)  # noqa: E731
    loss_fn = lambda y, target: functional.mse_loss(y.double(), target)  # noqa: E731
    pipe = pipeline(rank, group, "zb1p", 3, make, loss_fn=loss_fn)
    x, _, _, target = several_batch(3)
    parts = expect(make, 2, (x,), target, loss_fn, 3)
    pipe.step(x, target)
    compared = compare(pipe, parts, tolerance=2e-2)
    pipe.close()
    return compared


def test_other_types(four: Ranks) -> None:
    """What crosses stages may be of another type than the batch, such as bfloat16."""
    assert four.run(bfloat16, on=(0, 1)) == [2, 2]


class Passing(nn.Module):
    """Hands its input on as it is, beside something computed from it: the input is an output."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.linear(x), x if kept is None else x + kept


def passing(rank: int, group: ProcessGroup) -> int:
    make: Make = lambda stage, stages: Passing(stage).double()  # noqa: E731
    loss_fn = lambda pair, target: functional.mse_loss(pair[0] + pair[1], target)  # noqa: E731
    pipe = pipeline(rank, group, "interleavedzb", 4, make, loss_fn=loss_fn)
    x, _, _, target = several_batch(4)
    parts = expect(make, 4, (x,), target, loss_fn, 4)
    for _ in range(2):
        for module in modules(pipe).values():
            module.zero_grad()
        pipe.step(x, target)
        compared = compare(pipe, parts)
    pipe.close()
    return compared


def test_an_input_handed_on(four: Ranks) -> None:
    """A stage may return its input itself, and the loss may take several outputs."""
    assert four.run(passing, on=(0, 1)) == [4, 4]


# --- steps ----------------------------------------------------------------------------------------


def accumulating(rank: int, group: ProcessGroup, schedule: str, count: int) -> int:
    pipe = pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of)
    total, stages = total_of(pipe.plan), stages_of(pipe.plan)
    outputs, losses, once = unpipelined(stages, total, DOUBLE)
    x, y = batch_of(total)
    compared = 0
    for step in range(1, 4):
        pipe.step(x, y)
        for stage, module in modules(pipe).items():
            more = {name: g if g is None else step * g for name, g in once[stage].items()}
            compared += assert_same(gradients_of(module), more, 1e-10, f"stage {stage}")
        before = {
            s: {n: g if g is None else g.clone() for n, g in gradients_of(m).items()}
            for s, m in modules(pipe).items()
        }
        loss = pipe.eval(x, y)
        for number, (output,) in pipe.outputs.items():
            assert_close(output, outputs[number], 1e-10, f"output {number}")
        assert set(pipe.outputs) == set(pipe.losses)
        if loss is not None:
            mine = torch.stack([losses[number] for number in pipe.losses]).mean()
            assert_close(loss, mine, 1e-10, "the loss of eval")
        for stage, module in modules(pipe).items():
            assert_same(gradients_of(module), before[stage], 0.0, f"stage {stage} after eval")
    pipe.close()
    return compared


@pytest.mark.parametrize(
    ("schedule", "ranks", "count"),
    [("1f1b", 2, 3), ("zbv", 4, 7), ("dualpipe", 4, 8), ("dualpipev", 2, 4)],
)
def test_steps_add_up(four: Ranks, schedule: str, ranks: int, count: int) -> None:
    """Gradients of three steps add up, with evaluations in between that leave them alone."""
    assert all(four.run(accumulating, schedule, count, on=range(ranks)))


def in_place(rank: int, group: ProcessGroup) -> int:
    pipe = pipeline(rank, group, "dualpipe", 4, make_stage, loss_fn=loss_of)
    _, _, expected = unpipelined(2, 4, DOUBLE)
    compared = 0
    for _ in range(3):
        pipe.step(*batch_of(4))
        for stage, module in modules(pipe).items():
            compared += assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
            module.zero_grad(set_to_none=False)
    pipe.close()
    return compared


def test_gradients_zeroed_in_place(four: Ranks) -> None:
    """Summed gradients stay right if the optimizer zeroes them instead of dropping them."""
    assert all(four.run(in_place, on=(0, 1)))


def sum_reduction(rank: int, group: ProcessGroup, schedule: str, count: int) -> int:
    pipe = pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of, reduction="sum")
    _, losses, expected = unpipelined(stages_of(pipe.plan), count, DOUBLE, "sum")
    loss = pipe.step(*batch_of(count))
    if loss is not None:
        mine = torch.stack([losses[number] for number in pipe.losses]).sum()
        assert_close(loss, mine, 1e-10, "the summed loss")
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


@pytest.mark.parametrize(("schedule", "count"), [("1f1b", 3), ("dualpipe", 4)])
def test_sum(four: Ranks, schedule: str, count: int) -> None:
    """reduction="sum" adds up losses and gradients instead of averaging them."""
    assert all(four.run(sum_reduction, schedule, count, on=(0, 1)))


def outputs_on_request(rank: int, group: ProcessGroup, keep: bool) -> set[int]:
    pipe = pipeline(rank, group, "1f1b", 3, make_stage, loss_fn=loss_of, keep_outputs=keep)
    outputs, _, _ = unpipelined(2, 3, DOUBLE)
    pipe.step(*batch_of(3))
    for number, (output,) in pipe.outputs.items():
        assert_close(output, outputs[number], 1e-10, f"output {number}")
        assert not output.requires_grad
    kept = set(pipe.outputs)
    pipe.close()
    return kept


def test_outputs(four: Ranks) -> None:
    """A step keeps outputs only where that was asked for."""
    assert four.run(outputs_on_request, True, on=(0, 1)) == [set(), {0, 1, 2}]
    assert four.run(outputs_on_request, False, on=(0, 1)) == [set(), set()]


# --- batches --------------------------------------------------------------------------------------


def listed(rank: int, group: ProcessGroup, schedule: str, count: int, pairs: bool) -> int:
    pipe = pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of)
    _, _, expected = unpipelined(stages_of(pipe.plan), count, DOUBLE)
    x, y = (list(part.chunk(count)) for part in batch_of(count))
    pipe.step([(part,) for part in x] if pairs else x, [(part,) for part in y] if pairs else y)
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("schedule", "count"), [("1f1b", 3), ("dualpipe", 4)])
def test_lists(four: Ranks, schedule: str, count: int, pairs: bool) -> None:
    """A list holds the microbatches themselves, as tensors or as tuples."""
    assert all(four.run(listed, schedule, count, pairs, on=(0, 1)))


def only_where_needed(rank: int, group: ProcessGroup) -> int:
    pipe = pipeline(rank, group, "1f1b", 6, make_stage, loss_fn=loss_of)
    _, _, expected = unpipelined(4, 6, DOUBLE)
    x, y = batch_of(6)
    pipe.step(x if rank == 0 else None, y if rank == 3 else None)
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


def test_only_where_needed(four: Ranks) -> None:
    """Only the first rank needs the batch and only the last one the target."""
    assert all(four.run(only_where_needed))


class WithLoss(nn.Module):
    def __init__(self, stage: int, stages: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.last = nn.Linear(WIDTH, WIDTH), stage == stages - 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).tanh()
        return y.square().mean() if self.last else y


def without_loss_fn(rank: int, group: ProcessGroup) -> tuple[int, bool]:
    make: Make = lambda stage, stages: WithLoss(stage, stages).double()  # noqa: E731
    pipe = pipeline(rank, group, "zb1p", 3, make)
    x, *_ = several_batch(3)
    parts = expect(make, 2, (x,), None, None, 3)
    trained = pipe.step(x)
    compared = compare(pipe, parts)
    evaluated = pipe.eval(x)
    assert (trained is None) == (evaluated is None) == (rank == 0)
    if trained is not None and evaluated is not None:
        assert_close(evaluated, trained, 1e-10, "the loss of eval")
    pipe.close()
    return compared, trained is not None


def test_without_loss_fn(four: Ranks) -> None:
    """The last stage may return its loss itself, in training and in evaluation."""
    assert four.run(without_loss_fn, on=(0, 1)) == [(2, False), (2, True)]


# --- shapes ---------------------------------------------------------------------------------------


def with_shapes(rank: int, group: ProcessGroup, said_by: Sequence[int]) -> int:
    spec = TensorSpec((PER_MICROBATCH, 3, WIDTH), DOUBLE)
    shapes = {1: [spec], 3: [torch.empty(spec.shape, dtype=DOUBLE, requires_grad=True)]}
    pipe = pipeline(
        rank,
        group,
        "interleaved",
        4,
        make_stage,
        loss_fn=loss_of,
        shapes=shapes if rank in said_by else None,
    )
    _, _, expected = unpipelined(4, 4, DOUBLE)
    x, y = batch_of(4)
    pipe.eval(x, y)
    pipe.step(x, y)
    compared = sum(
        assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
        for stage, module in modules(pipe).items()
    )
    pipe.close()
    return compared


@pytest.mark.parametrize("said_by", [(0, 1), (0,), (1,)])
def test_declared_shapes(four: Ranks, said_by: Sequence[int]) -> None:
    """Shapes may be declared for some stages, by any rank, also if `eval` comes first."""
    assert all(four.run(with_shapes, said_by, on=(0, 1)))


def other_lengths(rank: int, group: ProcessGroup, schedule: str) -> list[int]:
    pipe = pipeline(rank, group, schedule, 4, make_stage, loss_fn=loss_of)
    stages = stages_of(pipe.plan)
    compared = []
    for length in (3, 5, 2):
        generator = torch.Generator().manual_seed(length)
        x, y = torch.randint(0, TOKENS, (2, 8, length), generator=generator)
        parts = expect(make_stage, stages, (x,), y, loss_of, 4)
        for _ in range(2):
            for module in modules(pipe).values():
                module.zero_grad()
            pipe.step(x, y)
            compared.append(compare(pipe, parts))
        pipe.forget_shapes()
    pipe.close()
    return compared


@pytest.mark.parametrize("schedule", ["1f1b", "dualpipe"])
def test_other_lengths(four: Ranks, schedule: str) -> None:
    """After forget_shapes, sequences may have another length."""
    for compared in four.run(other_lengths, schedule, on=(0, 1)):
        assert len(compared) == 6 and all(compared)


# --- modules --------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Dropout whose masks depend on nothing but the stage and how often it was called."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        torch.manual_seed(stage)
        self.linear, self.stage, self.calls = nn.Linear(WIDTH, WIDTH), stage, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.random.fork_rng():
            torch.manual_seed(1000 * self.stage + self.calls)
            return functional.dropout(self.linear(x), 0.5, self.training)


def dropping(rank: int, group: ProcessGroup, schedule: str) -> int:
    make: Make = lambda stage, stages: Dropping(stage).double()  # noqa: E731
    pipe = pipeline(rank, group, schedule, 4, make, loss_fn=functional.mse_loss)
    x, _, _, target = several_batch(4)
    parts = expect(make, stages_of(pipe.plan), (x,), target, functional.mse_loss, 4)
    pipe.step(x, target)
    compared = compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_dropout(four: Ranks, schedule: str) -> None:
    """With the same seeds, dropout drops the same."""
    assert all(four.run(dropping, schedule, on=(0, 1)))


def hooked(rank: int, group: ProcessGroup, schedule: str) -> list[int]:
    pipe = pipeline(rank, group, schedule, 5, make_stage, loss_fn=loss_of)
    calls = [0, 0, 0, 0]

    def count(which: int, *_: Any) -> None:
        calls[which] += 1

    for module in modules(pipe).values():
        module.register_forward_pre_hook(partial(count, 0))
        module.register_forward_hook(partial(count, 1))
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(count, 2))
                parameter.register_post_accumulate_grad_hook(partial(count, 3))
    for _ in range(2):
        pipe.step(*batch_of(5))
    pipe.close()
    return calls


@pytest.mark.parametrize("schedule", ["1f1b", "zb1p"])
def test_hooks(four: Ranks, schedule: str) -> None:
    """Hooks of modules and of parameters run once for each microbatch and step."""
    calls = four.run(hooked, schedule, on=(0, 1))
    assert calls == [[10, 10, 10 * 3, 10 * 3], [10, 10, 10 * 3, 10 * 3]]


class Shared(nn.Module):
    """Two stages of one rank with the same weight."""

    def __init__(self, weight: nn.Linear) -> None:
        super().__init__()
        self.shared, self.norm = weight, nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.shared(x).tanh())


def shared_by_stages(rank: int, group: ProcessGroup, schedule: str, mirrored: bool) -> int:
    """Stages s and S-1-s, or s and s+P, have one layer in common; always on one rank."""
    plan = compiled(schedule, 2, 4)
    count = stages_of(plan)

    def make_all() -> list[nn.Module]:
        torch.manual_seed(3)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(count // 2)]
        return [
            Shared(layers[min(s, count - 1 - s) if mirrored else s % (count // 2)]).double()
            for s in range(count)
        ]

    mine, parts = make_all(), make_all()
    stages = {stage: mine[stage] for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=functional.mse_loss, group=group, timeout=20)
    x, _, _, target = several_batch(4)
    for a, b in zip(x.chunk(4), target.chunk(4), strict=True):
        (functional.mse_loss(nn.Sequential(*parts)(a), b) / 4).backward()
    compared = 0
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(x, target)
        compared += compare(pipe, parts)
    pipe.close()
    return compared


@pytest.mark.parametrize(
    ("schedule", "mirrored"),
    [("interleaved", False), ("interleavedzb", False), ("zbv", True), ("dualpipe", True)],
)
def test_shared_between_stages(four: Ranks, schedule: str, mirrored: bool) -> None:
    """A parameter of two stages of one rank gets both gradients, also where copies are summed."""
    assert all(four.run(shared_by_stages, schedule, mirrored, on=(0, 1)))


class Buffered(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH).t()[:WIDTH].t().double())
        self.register_buffer("shift", torch.randn(WIDTH).double())
        self.register_buffer("seen", torch.tensor(seed))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight[:, :WIDTH] + self.shift


def equal_at_first(rank: int, group: ProcessGroup) -> dict[int, list[Tensor]]:
    make: Make = lambda stage, stages: Buffered(10 * rank + stage)  # noqa: E731
    pipe = pipeline(rank, group, "dualpipe", 4, make, loss_fn=functional.mse_loss)
    state = {stage: [*module.state_dict().values()] for stage, module in modules(pipe).items()}
    pipe.close()
    return state


def test_copies_start_equal(four: Ranks) -> None:
    """Copies of a stage made with other numbers are made equal, buffers and strides included."""
    zero, one = four.run(equal_at_first, on=(0, 1))
    for stage in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(zero[stage], one[stage], strict=True))
    assert not torch.equal(zero[0][0], zero[1][0])


# --- several pipelines ----------------------------------------------------------------------------


def two_pipelines(rank: int, group: ProcessGroup) -> int:
    pipes = [
        pipeline(rank, group, schedule, count, make_stage, loss_fn=loss_of)
        for schedule, count in (("1f1b", 3), ("dualpipev", 4))
    ]
    compared = 0
    for _ in range(2):
        for pipe, count in zip(pipes, (3, 4), strict=True):
            for module in modules(pipe).values():
                module.zero_grad()
            pipe.step(*batch_of(count))
        for pipe, count in zip(pipes, (3, 4), strict=True):
            _, _, expected = unpipelined(stages_of(pipe.plan), count, DOUBLE)
            for stage, module in modules(pipe).items():
                compared += assert_same(
                    gradients_of(module), expected[stage], 1e-10, f"{pipe.plan.name} {stage}"
                )
    for pipe in pipes:
        pipe.close()
    return compared


def test_two_pipelines(four: Ranks) -> None:
    """Two pipelines in one process do not disturb each other."""
    assert all(four.run(two_pipelines, on=(0, 1)))


@pytest.mark.parametrize("members", [(1, 3), (1, 2, 3), (2, 3)])
def test_some_ranks_only(four: Ranks, members: tuple[int, ...]) -> None:
    """A pipeline runs on any ranks of the job, whatever groups they have been in before."""
    assert all(four.run(accumulating, "1f1b", 3, on=members))


def side_by_side(rank: int, group: ProcessGroup | None) -> int:
    everyone = torch.distributed.get_rank()
    pairs = [torch.distributed.new_group([0, 1]), torch.distributed.new_group([2, 3])]
    return accumulating(everyone % 2, pairs[everyone // 2], "dualpipe", 4)


def test_side_by_side(four: Ranks) -> None:
    """Two pipelines of two ranks run at once, as with data parallelism around them."""
    assert all(four.run(side_by_side))


def reversed_group(rank: int, group: ProcessGroup | None) -> int:
    turned = torch.distributed.new_group([3, 1, 0, 2], sort_ranks=False)
    return accumulating(torch.distributed.get_rank(turned), turned, "zbv", 7)


def test_any_order_of_ranks(four: Ranks) -> None:
    """The plan's ranks are the group's, also where those are in another order than the job's."""
    assert all(four.run(reversed_group))
