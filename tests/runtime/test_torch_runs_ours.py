"""What we compile and export runs on torch's own pipeline runtime, with the right gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

from pipec.compiler import build
from pipec.interop.torch_csv import write_torch_csv

pytestmark = pytest.mark.slow

WIDTH = 8


def module(stage: int) -> nn.Module:
    torch.manual_seed(stage)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()).double()


def batch(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(99)
    return torch.randn(2 * count, WIDTH).double(), torch.randn(2 * count, WIDTH).double()


def difference(
    rank: int, group: ProcessGroup, csv: str, held: list[list[int]], count: int
) -> float:
    """One step with torch's runtime: the largest difference from the whole model's gradients."""
    number = sum(map(len, held))
    x, y = batch(count)
    whole = nn.Sequential(*(module(stage) for stage in range(number)))
    for part, target in zip(x.chunk(count), y.chunk(count), strict=True):
        (nn.functional.mse_loss(whole(part), target) / count).backward()
    modules = {stage: module(stage) for stage in held[rank]}
    device = torch.device("cpu")
    stages = [
        PipelineStage(modules[stage], stage, number, device, group=group) for stage in modules
    ]
    schedule = _PipelineScheduleRuntime(stages, count, loss_fn=nn.functional.mse_loss)
    schedule._load_csv(csv, format="compute_comms")
    given = (x,) if 0 in modules else ()
    wanted = {"target": y, "losses": []} if number - 1 in modules else {}
    schedule.step(*given, **wanted)
    return max(
        float((mine.grad - theirs.grad).abs().max())
        for stage in modules
        for mine, theirs in zip(modules[stage].parameters(), whole[stage].parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("1f1b", {"P": 4, "M": 6}),
        ("zb1p", {"P": 4, "M": 6}),
        ("interleaved", {"P": 2, "M": 4, "v": 2}),
        ("interleavedzb", {"P": 2, "M": 4, "v": 3}),
        ("zbv", {"P": 4, "M": 8}),
        ("dualpipev", {"P": 2, "M": 5}),
    ],
)
def test_gradients_under_torchs_runtime(
    name: str, sizes: dict[str, int], four: Ranks, tmp_path: Path
) -> None:
    """A `compute_comms` file of ours, loaded by torch, trains as the un-pipelined model does."""
    program = build(name, sizes).program
    csv = tmp_path / "schedule.csv"
    csv.write_text(write_torch_csv(program))
    held = [list(program.placement.held(rank)) for rank in range(program.ranks)]
    found = four.run(difference, str(csv), held, sizes["M"], on=range(program.ranks))
    assert max(found) < 1e-12
