"""All-to-alls on accelerators: their lane, and pipelines of expert stages over NCCL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from moe import assert_gradients, batch_of, gradients_of, loss_of, make_stage, plain_gradients
from torch.distributed.device_mesh import init_device_mesh

import pipec
from pipec.runtime import Pipeline
from pipec.runtime.experts import make_exchange, make_layout
from pipec.runtime.experts.lane import Lane

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
LAYERS, EXPERTS = 2, 2
OPEN = "2 x attention dispatch mlp combine"


@pytest.mark.skipif(not GPUS, reason="no CUDA device: the lane of a device is not tried here")
def test_the_lane_of_a_device() -> None:
    """What a lane makes is right wherever it is used next, though the host waits for nothing."""
    device = torch.device("cuda", 0)
    lane = Lane(device)
    for number in range(50):
        made = torch.full((1 << 20,), float(number), device=device).mul_(2)
        pending = lane.start(lambda made=made: made + 1, lane.mark())
        del made
        beside = torch.ones(1 << 20, device=device).mul_(3)
        assert bool((pending.wait() == 2 * number + 1).all()) and bool((beside == 3).all())


def on_rank(rank: int, path: str, schedule: str, kind: str) -> None:
    """Two steps of two pipelines that share experts, compared with the plain model on the host."""
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if kind == "cuda" else "gloo"
    store = dist.FileStore(path, 4)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=4, timeout=timedelta(minutes=2)
    )
    mesh = init_device_mesh(kind, (2, EXPERTS), mesh_dim_names=("pipeline", "expert"))
    layout = make_layout(mesh)
    exchange = make_exchange("torch", layout.expert)
    plan = pipec.compile(schedule, P=2, M=4, layers=OPEN)
    flows = plan.program.placement.flows
    count, total = flows[0].stages, sum(flow.microbatches for flow in flows)
    layers = [range(LAYERS * stage, LAYERS * (stage + 1)) for stage in range(count)]
    whole = [make_stage(own, LAYERS * count) for own in layers]
    expected = plain_gradients(whole, [batch_of(one, total) for one in range(EXPERTS)])
    stages = {
        stage: make_stage(layers[stage], LAYERS * count, exchange).to(device)
        for stage in plan.stages(layout.pipeline.rank())
    }
    layout.equalise(stages)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=layout.pipeline, device=device, timeout=60)
    batch = batch_of(exchange.rank, total)
    x, y = (torch.cat(parts).to(device) for parts in zip(*batch, strict=True))
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(x, y)
        layout.average_gradients(stages)
        for stage, module in stages.items():
            found = {
                name: None if g is None else g.cpu() for name, g in gradients_of(module).items()
            }
            assert_gradients(found, expected[stage], exchange.rank, EXPERTS)
    pipe.close()
    dist.destroy_process_group()


@pytest.mark.skipif(GPUS < 4, reason="fewer than four CUDA devices: NCCL wants one for each rank")
@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "zb1p", "dualpipe"])
def test_gradients_of_experts(tmp_path: Path, schedule: str) -> None:
    """On CUDA, with opened chunks and shared experts, gradients equal the plain model's."""
    mp.spawn(on_rank, args=(str(tmp_path / "store"), schedule, "cuda"), nprocs=4, join=True)
