"""What the tests of a step share: pipelines, their stages, and the model they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from piped import (
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
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pipec.runtime import Pipeline

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


def several_batch(count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    size = 2 * count
    mask = torch.randint(0, 2, (size, WIDTH), generator=generator)
    x, scale, y = torch.randn(3, size, WIDTH, generator=generator, dtype=DOUBLE)
    return x, mask, scale, y


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
