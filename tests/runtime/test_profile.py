"""A profile of some steps is a costs file: what it measures, and that plans can use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from piped import compiled
from ranks import Ranks
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn import functional

import pipec
from pipec.examples.profile_stages import loaded, made
from pipec.program.effects import Kind
from pipec.runtime import Pipeline, PipelineError, Point, Profile
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
