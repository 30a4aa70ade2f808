"""A profile of some steps is a costs file: what it measures, and that plans can use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moe
import pytest
import torch
import torch.distributed as dist
from piped import compiled
from ranks import Ranks
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

import pipec
from pipec.examples.profile_stages import loaded, made
from pipec.program.effects import Kind
from pipec.runtime import Pipeline, PipelineError, Point, Profile
from pipec.runtime.experts import EmulatedExchange, ExpertStage, Parts, make_layout
from pipec.runtime.profile import exchanges
from pipec.view.findings import error_text

pytestmark = pytest.mark.slow

WIDTH, ROWS = 16, 4
SLEEP = {Kind.F: 0.003, Kind.B: 0.004, Kind.W: 0.002, Kind.BW: 0.005}


class Emulated:
    """A listener under which operations take some milliseconds, the later stages more."""

    def wrap(self, point: Point, run: Callable[[], None]) -> Callable[[], None]:
        kind = point.instruction.kind
        if point.waiting or kind not in SLEEP:
            return run

        def slow() -> None:
            time.sleep(SLEEP[kind] * (1 + point.instruction.stage))
            run()

        return slow


def stage() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh())


def profiled(rank: int, group: ProcessGroup, schedule: str, ranks: int, path: str) -> str:
    plan = compiled(schedule, ranks, 2 * ranks)
    stages = {number: stage() for number in plan.stages(rank)}
    profile = Profile(skip=2)
    pipe = Pipeline(
        plan,
        stages,
        loss_fn=functional.mse_loss,
        group=group,
        listeners=[Emulated(), profile],
        timeout=20,
    )
    count = sum(flow.microbatches for flow in plan.program.placement.flows)
    x, y = torch.randn(2, count * ROWS, WIDTH)
    parameters = [p for module in stages.values() for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(4):
        pipe.step(x, y)
        pipe.eval(x, y)
        optimizer.step()
    assert profile.steps == 2
    profile.save(path, optimizer)
    pipe.step(x, y)
    measured = profile.measure()
    pipe.close()
    return str(measured.costs)


def test_a_costs_file_of_two_ranks(four: Ranks, tmp_path: Path) -> None:
    """Times per kind and stage are at least what operations slept; messages and sizes per stage
    are those of the layers; a plan can be compiled with it.
    """
    path = tmp_path / "costs.toml"
    told = four.run(profiled, "zb1p", 2, str(path), on=(0, 1))
    assert told[0] == told[1]
    file = pipec.load_costs(path)
    assert file.costs.unit == "ms" and file.costs.serial
    assert {"F", "B", "W", "send"} <= set(file.costs.times)
    for key in ("F", "B", "W"):
        for number in (0, 1):
            assert file.costs.time(key, number) >= 1000 * SLEEP[Kind[key]] * (1 + number)
    assert set(file.costs.pairs) == {(0, 1), (1, 0)}
    assert all(time > 0 for time in file.costs.pairs.values())
    assert file.memory and file.memory.in_bytes
    tensor, weight = ROWS * WIDTH * 4, WIDTH * WIDTH * 4
    sizes = {key: [int(file.memory.size(key, one)) for one in (0, 1)] for key in file.memory.sizes}
    first, last = sizes.pop("activation")  # the batch is not counted, and the loss is small
    assert first == tensor and 2 * tensor < last <= 3 * tensor
    assert sizes == {
        "parameters": [weight, weight],
        "gradients": [weight, weight],
        "optimizer": [weight, weight],
        "stash": [tensor, 2 * tensor],
        "message": [0, tensor],
    }
    text = path.read_text()
    assert "2 steps" in text and "# spread " in text
    plan = pipec.compile("zb1p", P=2, M=6, costs=path)
    assert plan.certificate["makespan"] > 12 * 1000 * SLEEP[Kind.F]


def test_what_was_not_measured_is_said(four: Ranks, tmp_path: Path) -> None:
    """A schedule with fused backwards says half of them for B and for W, with a comment; two
    holders of a stage are measured together.
    """
    path = tmp_path / "costs.toml"
    four.run(profiled, "dualpipe", 2, str(path), on=(0, 1))
    file, text = pipec.load_costs(path), path.read_text()
    assert {"F", "B", "W", "BW"} <= set(file.costs.times)
    assert file.memory and set(file.memory.sizes) >= {"activation", "message", "parameters"}
    four.run(profiled, "1f1b", 2, str(path), on=(0, 1))
    text, file = path.read_text(), pipec.load_costs(path)
    assert text.count("# not measured: half of BW") == 2
    assert abs(2 * file.costs.time("B", 1) - file.costs.time("BW", 1)) < 0.001
    assert file.memory and "stash" not in file.memory.sizes


def opened(rank: int, group: ProcessGroup, path: str) -> dict[str, Any]:
    """A profile of two pipelines whose stages share experts; every rank saves."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pipeline", "expert"))
    layout = make_layout(mesh)
    assert layout.expert is not None
    exchange = EmulatedExchange(layout.expert, 0.006)
    plan = pipec.compile("dualpipe", P=2, M=4, layers="2 x attention dispatch mlp combine")
    stages = {
        one: moe.make_stage([2 * one + 1, 2 * one + 2], 5)
        for one in plan.stages(layout.pipeline.rank())
    }
    for module in stages.values():
        module.before = nn.Linear(moe.WIDTH, moe.WIDTH).double()
        module.exchange, module.after = exchange, None
    profile = Profile(skip=1)
    pipe = Pipeline(
        plan,
        stages,
        loss_fn=functional.mse_loss,
        group=layout.pipeline,
        listeners=[profile],
        timeout=20,
    )
    x, y = torch.randn(2, 4 * ROWS, 3, moe.WIDTH, dtype=torch.float64)
    for _ in range(2):
        pipe.step(x, y)
    told = [module.take_loss() for module in stages.values()]
    before = [module.take_loss() for module in stages.values()]
    patience, alone = exchanges.PATIENCE, ""
    if exchange.rank == 0:  # the other pipeline does not come
        exchanges.PATIENCE = 0.1
        with pytest.raises(PipelineError) as raised:
            profile.save(f"{path}/none.toml")
        exchanges.PATIENCE, alone = patience, str(raised.value)
    dist.barrier()
    profile.save(f"{path}/{exchange.rank}.toml")
    after = [module.take_loss() for module in stages.values()]
    pipe.close()
    assert all(loss is not None for loss in told)
    example = moe.make_stage([1, 2], 5)
    example.before = nn.Linear(moe.WIDTH, moe.WIDTH).double()
    return {"alone": alone, "losses": before + after, "weighed": weighed(example, x[:ROWS].clone())}


def weighed(module: ExpertStage, x: torch.Tensor) -> tuple[int, int]:
    """What a stage keeps when it runs whole; what its parts keep for W when no W runs."""
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    constant = [one.data_ptr() for one in (*module.parameters(), *module.buffers())]
    sizes = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in saved}
    whole = sum(size for at, size in sizes.items() if at not in constant)
    parts = Parts(module, 1)
    parts.defer(0)
    parts.begin(0, [x])
    for part in range(parts.count):
        output = parts.forward(part, 0)
    parts.begin_backward(0, [output], [torch.ones_like(output)])
    for part in reversed(range(parts.count)):
        parts.backward(part, 0)
    kept = {id(one.untyped_storage()): one.untyped_storage() for one in parts.deferred(0)}
    return whole, sum({one.data_ptr(): one.nbytes() for one in kept.values()}.values())


def test_opened_chunks_and_sums(four: Ranks, tmp_path: Path) -> None:
    """Of a plan whose chunks are opened and held twice, the file says everything that one can:
    all-to-alls and sums in time, activations, stashes and what travels in bytes. Layers' own
    losses are as they were. Where the other pipeline does not measure, nobody waits forever.
    """
    told = four.run(opened, str(tmp_path))
    rows = ROWS * 3
    for expert in (0, 1):
        file = pipec.load_costs(tmp_path / f"{expert}.toml")
        text = (tmp_path / f"{expert}.toml").read_text()
        assert {"F", "B", "W", "sum", "dispatch", "combine", "send"} <= {*file.costs.times}
        assert {"F.mlp", "B.mlp", "W.mlp", "F.out"} <= {*file.costs.times}
        for stage in (0, 1):
            assert file.costs.time("dispatch", stage) >= 6 <= file.costs.time("combine", stage)
            assert file.costs.time("sum", stage) > 0
            assert file.memory is not None
            sent = rows * (8 * moe.WIDTH + 2 * 8 + 2 * 8)  # tokens, two weights, two choices
            assert file.memory.size("dispatch", stage) == sent
            whole, stash = told[0]["weighed"]
            # Both ends of each part are kept; on the first stage one of them is the batch's.
            assert whole <= file.memory.size("activation", stage) < 1.3 * whole
            assert file.memory.size("stash", stage) in (stash, stash - 8 * rows * moe.WIDTH)
        left = text.partition("Not measured:")[2].split("\n")
        assert "memory.optimizer" in left[1] and left[2] == 'unit = "ms"'
        layers = "3 x attention dispatch mlp combine"
        plan = pipec.compile("zb1p", P=2, M=4, layers=layers, costs=tmp_path / f"{expert}.toml")
        assert plan.certificate["makespan"] > 0
    assert all(loss is None for one in told for loss in one["losses"])
    assert all("a Profile in every pipeline" in told[rank]["alone"] for rank in (0, 2))


class Disk:
    """Where a step of a profile is made to fail on one rank."""

    def __init__(self, inside: Any, at: str):
        self.inside, self.at = inside, at

    def __getattr__(self, name: str) -> Any:
        if name == self.at:
            raise MemoryError(f"no room for {name}")
        return getattr(self.inside, name)


def failing(rank: int, group: ProcessGroup, at: str, culprit: int) -> str:
    """What `save` says where rank 1 fails in it, at an attribute that it comes to."""
    plan = compiled("dualpipe", 2, 4)
    profile, stages = Profile(skip=1), {number: stage() for number in plan.stages(rank)}
    arguments: dict[str, Any] = {"loss_fn": functional.mse_loss, "group": group, "timeout": 20}
    pipe = Pipeline(plan, stages, listeners=[profile], **arguments)
    for _ in range(2):
        pipe.step(*torch.randn(2, 4 * ROWS, WIDTH))
    if rank == culprit:
        profile._inside = Disk(profile._inside, at)  # type: ignore[assignment]
    with pytest.raises(Exception) as raised:
        profile.save("/nowhere/costs.toml")
    pipe.close()
    return f"{raised.type.__name__}: {raised.value}"


@pytest.mark.parametrize(
    ("at", "doing"),
    [
        ("stages", "weigh its stages"),
        ("wire", "failed between steps"),
        ("copies", "failed between steps"),
    ],
)
def test_whatever_fails_in_it_is_heard_by_all(
    fresh: Callable[[int], Ranks], at: str, doing: str
) -> None:
    """Also where the others wait in a message or a sum for the rank that failed."""
    first, other = fresh(2).run(failing, at, 1)
    assert other == f"MemoryError: no room for {at}"
    assert first.startswith("PipelineError: rank 1 ") and doing in first
    assert f"no room for {at}" in first


def unwritten(rank: int, group: ProcessGroup) -> str:
    plan = compiled("1f1b", 2, 2)
    profile, stages = Profile(skip=1), {number: stage() for number in plan.stages(rank)}
    arguments: dict[str, Any] = {"loss_fn": functional.mse_loss, "group": group, "timeout": 20}
    pipe = Pipeline(plan, stages, listeners=[profile], **arguments)
    for _ in range(2):
        pipe.step(*torch.randn(2, 2 * ROWS, WIDTH))
    with pytest.raises((OSError, PipelineError)) as raised:
        profile.save("/nowhere/costs.toml")
    pipe.close()
    return f"{raised.type.__name__}: {raised.value}"


def test_what_cannot_be_written_is_told_on_all_ranks(four: Ranks) -> None:
    """Nobody waits for rank 0: it says why, and the others say that it was rank 0."""
    first, other = four.run(unwritten, on=(0, 1))
    assert first.startswith("FileNotFoundError") and "/nowhere/costs.toml" in first
    assert other.startswith("PipelineError") and "rank 0 cannot write" in other


def too_early(rank: int, group: ProcessGroup) -> list[str]:
    plan = compiled("1f1b", 2, 2)
    profile, said = Profile(), []
    stages = {number: stage() for number in plan.stages(rank)}
    for use in (Profile().measure, lambda: Profile(skip=0)):
        with pytest.raises(PipelineError) as raised:
            use()
        said.append(str(error_text(raised.value)))
    arguments: dict[str, Any] = {"loss_fn": functional.mse_loss, "group": group, "timeout": 20}
    pipe = Pipeline(plan, stages, listeners=[profile], **arguments)
    with pytest.raises(PipelineError) as raised:
        profile.measure()
    said.append(str(error_text(raised.value)))
    pipe.step(*torch.randn(2, 2 * ROWS, WIDTH))
    dist.barrier(group)
    pipe.close()
    return said


def test_a_profile_that_is_not_used_so(four: Ranks) -> None:
    """Without a pipeline, without a step to skip, or before any step was timed: an error on all."""
    for said in four.run(too_early, on=(0, 1)):
        assert "listens to no pipeline" in said[0] and "skips the first step" in said[1]
        assert "has timed no step" in said[2]


def test_a_file_of_stages_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks is said in a line, without a traceback."""
    monkeypatch.setattr("sys.path", [])
    for text, said in [
        ("make_stage = print", "has no function batch_of"),
        ("batch_of = print\ndef make_stage(stage, stages): return 3", "an nn.Module, not int"),
    ]:
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(SystemExit, match=said):
            made(loaded(str(tmp_path / "own.py")), 0, 2)
