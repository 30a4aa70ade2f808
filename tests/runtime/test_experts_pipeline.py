"""Pipelines of expert stages on real processes: gradients are those of the plain model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from moe import (
    EVEN,
    STEEP,
    Gradients,
    assert_gradients,
    batch_of,
    gradients_of,
    loss_of,
    make_stage,
    plain_gradients,
)
from piped import assert_close, compiled, stages_of, total_of
from ranks import Ranks
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh

import pipec
from pipec import Channels
from pipec.library import names
from pipec.program.costs import Costs
from pipec.program.plan import Plan
from pipec.runtime import Pipeline, PipelineError, Trace, measured_costs, measured_timeline
from pipec.runtime.experts import Exchange, Layout, make_exchange, make_layout

pytestmark = pytest.mark.slow

PER_STAGE = 2
"""Layers of a stage."""

OPEN = "2 x attention dispatch mlp combine"
"""The parts of every stage."""

COSTS = Costs.of({"dispatch": "0.4", "combine": "0.4"})
"""All-to-alls take time, so that something is interleaved."""

PATTERN = """
schedule mine(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    layers 2: attention dispatch mlp combine
    overlap F & BW:
        compute:  F.attention  B.mlp  F.mlp  B.attention
        wire:     B.combine  F.dispatch  B.dispatch  F.combine
    on rank r:
        let warmup = min(P - r, M)
        repeat warmup:      F
        repeat M - warmup:  F & BW
        repeat warmup:      BW
"""

SIZES = {
    "gpipe": (2, 3),
    "1f1b": (2, 4),
    "interleaved": (2, 4),
    "interleavedzb": (2, 4),
    "loopedbfs": (2, 3),
    "zb1p": (2, 4),
    "zb2p": (2, 4),
    "zbv": (2, 4),
    "dualpipe": (2, 4),
    "dualpipev": (2, 5),
}
OTHERS = {
    "eager1f1b": (2, 3),
    "1f1b-overlap": (2, 4),
    "interleaved-overlap": (2, 4),
    "chimera": (2, 4),
    "hanayo": (2, 3),
    "vzb": (2, 3),
    "vhalf": (2, 3),
    "vmin": (2, 3),
    "zb1p-greedy": (2, 3),
    "zb2p-greedy": (2, 3),
    "zbv-greedy": (2, 3),
}
"""Schedules whose chunks are only tried opened."""


@cache
def placed(pipeline: int, experts: int) -> tuple[Layout, Exchange]:
    mesh = init_device_mesh("cpu", (pipeline, experts), mesh_dim_names=("pipeline", "expert"))
    layout = make_layout(mesh)
    return layout, make_exchange("torch", layout.expert)


@cache
def opened(schedule: str, sizes: tuple[int, int], layers: str | None, neighbours: int = 1) -> Plan:
    """A plan whose chunks are opened into parts, if `layers` says which."""
    return pipec.compile(
        schedule, P=sizes[0], M=sizes[1], costs=COSTS, layers=layers, neighbours=neighbours
    )


def layers_of(stage: int) -> range:
    return range(PER_STAGE * stage, PER_STAGE * (stage + 1))


@cache
def expected_of(stages: int, microbatches: int, experts: int, bias: float) -> list[Gradients]:
    """The gradients of every stage."""
    batches = [batch_of(one, microbatches) for one in range(experts)]
    count = PER_STAGE * stages
    whole = [make_stage(layers_of(stage), count, bias=bias) for stage in range(stages)]
    return plain_gradients(whole, batches)


def step_twice(
    rank: int,
    group: ProcessGroup,
    schedule: str,
    sizes: tuple[int, int],
    experts: int,
    bias: float,
    wires: str,
    layers: str | None = None,
    neighbours: int = 1,
) -> int:
    """Two steps, each compared with the plain model; how many stages were compared."""
    layout, exchange = placed(sizes[0], experts)
    plan = opened(schedule, sizes, layers, neighbours)
    total, count = total_of(plan), stages_of(plan)
    expected = expected_of(count, total, experts, bias)
    stages = {
        stage: make_stage(layers_of(stage), PER_STAGE * count, exchange, bias)
        for stage in plan.stages(layout.pipeline.rank())
    }
    layout.equalise(stages)
    pipe = Pipeline(
        plan,
        stages,
        loss_fn=loss_of,
        group=layout.pipeline,
        channels=None if wires == "tagged" else Channels(wires),
        timeout=20,
    )
    batch = batch_of(exchange.rank, total)
    x, y = (torch.cat(parts) for parts in zip(*batch, strict=True))
    for _ in range(2):
        for stage in stages.values():
            stage.zero_grad()
        pipe.step(x, y)
        layout.average_gradients(stages)
        for stage, module in stages.items():
            assert_gradients(gradients_of(module), expected[stage], exchange.rank, experts)
    pipe.close()
    return len(stages)


@pytest.mark.parametrize("schedule", SIZES)
def test_schedules(four: Ranks, schedule: str) -> None:
    """Every library schedule on 2 pipeline ranks x 2 expert ranks."""
    assert all(four.run(step_twice, schedule, SIZES[schedule], 2, EVEN, "tagged"))


@pytest.mark.parametrize("schedule", SIZES | OTHERS)
def test_parts(four: Ranks, schedule: str) -> None:
    """Every library schedule with its chunks opened, and the parts of pairs interleaved."""
    sizes = (SIZES | OTHERS)[schedule]
    assert all(four.run(step_twice, schedule, sizes, 2, EVEN, "tagged", OPEN))


@pytest.mark.parametrize(("schedule", "neighbours"), [("1f1b", 3), ("dualpipe", 2), ("zbv", 2)])
def test_neighbours(four: Ranks, schedule: str, neighbours: int) -> None:
    """Parts of operations that stand side by side, interleaved."""
    sizes = SIZES[schedule]
    assert all(four.run(step_twice, schedule, sizes, 2, EVEN, "tagged", OPEN, neighbours))


def test_pattern(four: Ranks, tmp_path: Path) -> None:
    """Pairs in the order that an author writes."""
    path = tmp_path / "mine.pipe"
    path.write_text(PATTERN, encoding="utf-8")
    assert all(four.run(step_twice, str(path), (2, 4), 2, EVEN, "tagged"))


def test_every_schedule_is_tried() -> None:
    """All of the library that have a backward, and no slices."""
    assert SIZES.keys() | OTHERS.keys() == set(names()) - {"forward", "seq1f1b", "seqzb1p"}


@pytest.mark.parametrize("wires", ["tagged", "pair", "directed", "rank"])
@pytest.mark.parametrize("schedule", ["zb1p", "dualpipe", "dualpipev"])
def test_uneven_parts(four: Ranks, schedule: str, wires: str) -> None:
    """Opened chunks with strict channels, when all tokens go to the experts of one rank."""
    assert all(four.run(step_twice, schedule, SIZES[schedule], 2, STEEP, wires, OPEN))


@pytest.mark.parametrize("schedule", ["1f1b", "zb1p", "dualpipe"])
def test_uneven(four: Ranks, schedule: str) -> None:
    """All tokens go to the experts of one rank."""
    assert all(four.run(step_twice, schedule, SIZES[schedule], 2, STEEP, "tagged"))


@pytest.mark.parametrize("sizes", [(1, 3), (4, 8)])
def test_sizes(four: Ranks, sizes: tuple[int, int]) -> None:
    """One pipeline rank with four expert ranks, and four with one."""
    assert all(four.run(step_twice, "1f1b", sizes, 4 // sizes[0], EVEN, "tagged"))


def test_eight(fresh: Callable[[int], Ranks]) -> None:
    """4 pipeline ranks x 2 expert ranks, with whole and with opened chunks."""
    ranks = fresh(8)
    for layers in (None, OPEN):
        assert all(ranks.run(step_twice, "dualpipe", (4, 8), 2, EVEN, "tagged", layers))


def costs(rank: int, group: ProcessGroup) -> tuple[bool, set[str], list[object]]:
    layout, exchange = placed(2, 2)
    plan = opened("zb1p", (2, 4), OPEN)
    numbers = plan.stages(layout.pipeline.rank())
    stages = {s: make_stage(layers_of(s), 4, exchange) for s in numbers}
    trace = Trace()
    pipe = Pipeline(
        plan, stages, loss_fn=loss_of, group=layout.pipeline, timeout=20, listeners=[trace]
    )
    batch = batch_of(exchange.rank, 4)
    x, y = (torch.cat(parts) for parts in zip(*batch, strict=True))
    trace.start()
    pipe.step(x, y)
    found = measured_costs(measured_timeline(trace, plan, layout.pipeline))
    again = pipec.compile("zb1p", P=2, M=4, layers=OPEN, costs=found)
    pipe.close()
    return again.certificate["makespan"] > 0, set(found.times), list(found.times["F"])


def test_measured_costs(four: Ranks) -> None:
    """A trace of opened chunks gives the costs of operations and of their parts."""
    parts = ("attention", "mlp", "out")
    for predicts, keys, whole in four.run(costs):
        assert predicts and len(whole) == 2
        assert keys >= {f"{kind}.{part}" for kind in "FBW" for part in parts}


def balance(rank: int, group: ProcessGroup) -> Tensor:
    layout, exchange = placed(2, 2)
    plan = compiled("1f1b", 2, 4)
    numbers = plan.stages(layout.pipeline.rank())
    stages = {s: make_stage(layers_of(s), 4, exchange) for s in numbers}
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=layout.pipeline, timeout=20)
    batch = batch_of(exchange.rank, 4)
    x, y = (torch.cat(parts) for parts in zip(*batch, strict=True))
    with torch.no_grad():
        pipe.eval(x, y)
    (stage,) = stages.values()
    first, none = stage.take_loss(), stage.take_loss()
    assert first is not None and none is None
    pipe.step(x, y)
    again = stage.take_loss()
    assert again is not None
    assert_close(again, first, 1e-10, "the losses of routers")
    pipe.close()
    return first


def test_balance(four: Ranks) -> None:
    """The losses of routers can be read, in steps and in forwards."""
    assert all(loss > 0 for loss in four.run(balance))


def unlike(rank: int, group: ProcessGroup) -> str:
    layout, exchange = placed(2, 2)
    plan = pipec.compile("1f1b" if exchange.rank == 0 else "gpipe", P=2, M=3)
    numbers = plan.stages(layout.pipeline.rank())
    stages = {s: make_stage(layers_of(s), 4, exchange) for s in numbers}
    with pytest.raises(PipelineError, match="all-to-alls in different orders") as caught:
        Pipeline(plan, stages, loss_fn=loss_of, group=layout.pipeline, timeout=20)
    return str(caught.value.findings[0].found)


def test_members_with_different_plans(four: Ranks) -> None:
    """Two pipelines that share experts and not the order of their all-to-alls begin nothing."""
    found = four.run(unlike)
    assert len({*found[:2]}) == 1 and all("on member 1" in one for one in found)
