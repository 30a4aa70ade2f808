"""Every library schedule on real processes: the gradients are those of the un-pipelined model."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest
import torch
from piped import (
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
from torch.distributed import ProcessGroup

from pipec import Channels
from pipec.runtime import Pipeline

pytestmark = pytest.mark.slow

SIZES = {
    "1f1b": ((2, 1), (2, 5), (4, 3), (4, 6)),
    "gpipe": ((2, 1), (2, 4), (4, 2), (4, 5)),
    "interleaved": ((2, 2), (2, 6), (4, 4), (4, 8)),
    "interleavedzb": ((2, 2), (2, 6), (4, 4), (4, 8)),
    "loopedbfs": ((2, 1), (2, 5), (4, 3), (4, 4)),
    "zb1p": ((2, 1), (2, 5), (4, 3), (4, 6)),
    "zb2p": ((2, 2), (2, 5), (4, 3), (4, 8)),
    "zbv": ((2, 3), (2, 6), (4, 7), (4, 9)),
    "dualpipe": ((2, 4), (2, 8), (4, 8), (4, 10)),
    "dualpipev": ((2, 4), (2, 7), (4, 8), (4, 9)),
    "chimera": ((2, 4), (4, 8)),
    "eager1f1b": ((4, 6),),
    "hanayo": ((2, 3),),
    "1f1b-overlap": ((4, 6),),
    "interleaved-overlap": ((2, 4),),
    "vhalf": ((2, 3), (4, 6)),
    "vmin": ((4, 5),),
    "vzb": ((4, 5),),
    "zb1p-greedy": ((4, 6),),
    "zb2p-greedy": ((4, 6),),
    "zbv-greedy": ((2, 2), (4, 5)),
}
WIRES = ("tagged", "pair", "directed", "rank")


def step_twice(
    rank: int, group: ProcessGroup, schedule: str, sizes: tuple[int, int], wires: str, kind: str
) -> tuple[int, set[int], dict[int, str]]:
    """Two steps, the first of which finds the shapes out, each compared with the whole model.

    How many gradients were compared, which microbatches had their loss here, and the digests of
    the gradients of each stage.
    """
    plan = compiled(schedule, *sizes)
    dtype = getattr(torch, kind)
    tolerance = 1e-10 if dtype is torch.float64 else 1e-5
    total, count = total_of(plan), stages_of(plan)
    _, losses, expected = unpipelined(count, total, dtype)
    stages = {stage: make_stage(stage, count, dtype) for stage in plan.stages(rank)}
    channels = None if wires == "tagged" else Channels(wires)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=group, channels=channels, timeout=20)
    compared = 0
    for _ in range(2):
        for stage in stages.values():
            stage.zero_grad()
        loss = pipe.step(*batch_of(total))
        for stage, module in stages.items():
            compared += assert_same(
                gradients_of(module), expected[stage], tolerance, f"stage {stage}"
            )
        for number, mine in pipe.losses.items():
            assert_close(mine, losses[number], tolerance, f"loss {number}")
        assert (loss is None) == (not pipe.losses)
        if loss is not None:
            assert_close(loss, torch.stack([*pipe.losses.values()]).mean(), 1e-6, "the mean loss")
    pipe.close()
    return compared, set(pipe.losses), {stage: digest(module) for stage, module in stages.items()}


def digest(module: torch.nn.Module) -> str:
    content = b"".join(
        gradient.numpy().tobytes()
        for gradient in gradients_of(module).values()
        if gradient is not None
    )
    return hashlib.sha256(content).hexdigest()


def check(four: Ranks, schedule: str, sizes: tuple[int, int], wires: str, kind: str) -> None:
    """Every parameter and every loss was compared, and copies of a stage are equal to the bit."""
    plan = compiled(schedule, *sizes)
    answers = four.run(step_twice, schedule, sizes, wires, kind, on=range(sizes[0]))
    for rank, (compared, _, _) in enumerate(answers):
        assert compared == 2 * sum(trained(stage, stages_of(plan)) for stage in plan.stages(rank))
    assert set.union(*(numbers for _, numbers, _ in answers)) == set(range(total_of(plan)))
    digests: dict[int, str] = {}
    for _, _, held in answers:
        for stage, value in held.items():
            assert digests.setdefault(stage, value) == value, f"copies of stage {stage} differ"
    assert set(digests) == set(range(stages_of(plan)))


@cache
def trained(stage: int, stages: int) -> int:
    return sum(parameter.requires_grad for parameter in make_stage(stage, stages).parameters())


@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize(
    ("schedule", "sizes"), [(name, sizes) for name, several in SIZES.items() for sizes in several]
)
def test_library(four: Ranks, schedule: str, sizes: tuple[int, int], wires: str) -> None:
    """Gradients and losses equal the un-pipelined model's, whatever the wires are like."""
    check(four, schedule, sizes, wires, "float64")


@pytest.mark.parametrize("schedule", ["zbv", "dualpipe"])
def test_single_precision(four: Ranks, schedule: str) -> None:
    """In float32 they are within 1e-5."""
    check(four, schedule, (4, 8), "tagged", "float32")


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb1p"])
def test_one_rank(four: Ranks, schedule: str) -> None:
    """A pipeline of one rank trains like the model, and sends nothing."""
    check(four, schedule, (1, 3), "tagged", "float64")


def infer(rank: int, group: ProcessGroup, sizes: tuple[int, int], wires: str) -> set[int]:
    plan = compiled("forward", *sizes)
    count = stages_of(plan)
    outputs, losses, _ = unpipelined(count, sizes[1], torch.float64)
    stages = {stage: make_stage(stage, count) for stage in plan.stages(rank)}
    channels = None if wires == "tagged" else Channels(wires)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=group, channels=channels, timeout=20)
    x, y = batch_of(sizes[1])
    for target in (None, y):
        pipe.eval(x, target)
        for number, (mine,) in pipe.outputs.items():
            assert_close(mine, outputs[number], 1e-10, f"output {number}")
            assert not mine.requires_grad
        assert set(pipe.losses) == (set(pipe.outputs) if target is not None else set())
        for number, loss in pipe.losses.items():
            assert_close(loss, losses[number], 1e-10, f"loss {number}")
    pipe.close()
    return set(pipe.outputs)


@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize("sizes", [(2, 3), (4, 6)])
def test_forward(four: Ranks, sizes: tuple[int, int], wires: str) -> None:
    """`forward` gives the outputs of the model, and the losses where there are targets."""
    answers = four.run(infer, sizes, wires, on=range(sizes[0]))
    assert set.union(*answers) == set(range(sizes[1]))


@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize("schedule", ["1f1b", "dualpipe"])
def test_grouped_launches(four: Ranks, schedule: str, wires: str) -> None:
    """The same with every exchange in one launch, which strict channels issue as one."""
    check(four, f"{schedule} --grouped", (4, 8), wires, "float64")
