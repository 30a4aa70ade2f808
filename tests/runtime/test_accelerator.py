"""The same pipelines on accelerators over NCCL; and, anywhere, how the host follows a device."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from piped import (
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
from pipec.runtime import Pipeline, PipelineError
from pipec.runtime.checks import mistake_of
from pipec.runtime.marks import Marks
from pipec.runtime.watch.progress import POSITION

needs_gpus = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: NCCL is not tried here"
)


def on_gpu(rank: int, ranks: int, path: str, schedule: str, count: int, wires: Any) -> None:
    """Two steps on one GPU a rank, each compared with the whole model on the host."""
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    store = dist.FileStore(path, ranks)
    dist.init_process_group(
        "nccl", store=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=2)
    )
    plan = compiled(schedule, ranks, count)
    total, stages = total_of(plan), stages_of(plan)
    _, _, expected = unpipelined(stages, total, torch.float64)
    held = {stage: make_stage(stage, stages).to(device) for stage in plan.stages(rank)}
    channels = None if wires is None else Channels(wires)
    pipe = Pipeline(plan, held, loss_fn=loss_of, channels=channels, timeout=60)
    x, y = (part.to(device) for part in batch_of(total))
    for _ in range(2):
        for module in held.values():
            module.zero_grad()
        pipe.step(x, y)
        for stage, module in held.items():
            found = {name: g if g is None else g.cpu() for name, g in gradients_of(module).items()}
            assert assert_same(found, expected[stage], 1e-8, f"stage {stage}")
    pipe.close()
    dist.destroy_process_group()


@needs_gpus
@pytest.mark.slow
@pytest.mark.parametrize("wires", [None, "directed", "rank"])
@pytest.mark.parametrize(
    ("schedule", "count"), [("1f1b", 6), ("interleavedzb", 4), ("zbv", 7), ("dualpipe", 8)]
)
def test_gradients(tmp_path: Any, schedule: str, count: int, wires: Any) -> None:
    """On CUDA, with as many ranks as there are GPUs, gradients equal the un-pipelined model's."""
    ranks = 4 if torch.cuda.device_count() >= 4 else 2 if torch.cuda.device_count() >= 2 else 1
    if ranks == 1 and schedule != "1f1b":
        pytest.skip("one GPU: NCCL wants one for each rank")
    arguments = (ranks, str(tmp_path / "store"), schedule, count, wires)
    mp.spawn(on_gpu, args=arguments, nprocs=ranks, join=True)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="fewer than two GPUs: launches over NCCL are not tried"
)
@pytest.mark.slow
@pytest.mark.parametrize("wires", [None, "rank"])
@pytest.mark.parametrize(("schedule", "count"), [("1f1b --grouped", 6), ("dualpipe --grouped", 8)])
def test_launches(tmp_path: Any, schedule: str, count: int, wires: Any) -> None:
    """Exchanges in one launch each: NCCL issues them on communicators of their own."""
    ranks = 4 if torch.cuda.device_count() >= 4 else 2
    arguments = (ranks, str(tmp_path / "store"), schedule, count, wires)
    mp.spawn(on_gpu, args=arguments, nprocs=ranks, join=True)


# --- without an accelerator -----------------------------------------------------------------------


class FakeEvent:
    """An event of a device that comes to it after so many looks."""

    def __init__(self, looks: int, log: list[str], name: str) -> None:
        self.looks, self.log, self.name = looks, log, name

    def record(self) -> None:
        self.log.append(f"record {self.name}")

    def query(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            self.log.append(f"done {self.name}")
        return self.looks < 0


def marked(monkeypatch: pytest.MonkeyPatch, looks: list[int]) -> tuple[Marks, list[str]]:
    log: list[str] = []
    left = iter(enumerate(looks))

    def event(_: torch.device) -> FakeEvent:
        number, count = next(left)
        return FakeEvent(count, log, "end" if number == 0 else str(number))

    monkeypatch.setattr(torch, "Event", event)
    return Marks(torch.device("meta")), log


def test_marks_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each wait stands an event; at the end the host's position is that of the device."""
    marks, log = marked(monkeypatch, [1, 2, 0])
    waits = [marks.behind(7, lambda: log.append("wait a")), marks.behind(9, lambda: None)]
    for wait in waits:
        wait()
    assert log == ["wait a", "record 1", "record 2"]
    line = [0] * 8
    seen: list[int] = []

    def failed() -> bool:
        seen.append(line[POSITION])
        return False

    marks.follow(line, failed)  # type: ignore[arg-type]
    assert log[3:] == ["record end", "done 1", "done 2", "done end"]
    assert seen == [7, 7, 9]


def test_marks_end_with_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that waits for a message that never comes is not waited for once all has failed."""
    marks, _ = marked(monkeypatch, [0, 10**9])
    marks.behind(3, lambda: None)()
    line, looks = [0] * 8, iter([False, False, True])
    with pytest.raises(RuntimeError, match="links were closed"):
        marks.follow(line, lambda: next(looks))  # type: ignore[arg-type]
    assert line[POSITION] == 3


def test_no_marks_on_the_host() -> None:
    """On a CPU nothing is added to a stream."""
    marks = Marks(torch.device("cpu"))
    run = lambda: None  # noqa: E731
    assert marks.behind(1, run) is run
    marks.follow([0] * 8, lambda: True)  # type: ignore[arg-type]


def mistaken(rank: int, group: ProcessGroup, device: str, wires: Any) -> str:
    plan = compiled("1f1b", 2, 2)
    stages = {stage: make_stage(stage, 2) for stage in plan.stages(rank)}
    torch.accelerator.current_device_index = lambda: 0
    where = torch.device(device)
    return str(mistake_of(plan, stages, group, where, Channels(wires), "mean"))


def test_wires_of_an_accelerator(four: Ranks) -> None:
    """NCCL has no tags, and a pipeline is for the current device."""
    said = four.run(mistaken, "cuda:0", "tagged", on=(0, 1))
    assert all("channels `tagged` on device `cuda:0`" in one for one in said)
    said = four.run(mistaken, "cuda:1", "pair", on=(0, 1))
    assert all("`cuda:1`, which is not the current device" in one for one in said)
    assert four.run(mistaken, "cuda:0", "pair", on=(0, 1)) == ["None", "None"]


def unknown(rank: int, group: ProcessGroup) -> str:
    plan = compiled("1f1b", 2, 2)
    stages = {stage: make_stage(stage, 2) for stage in plan.stages(rank)}
    try:
        Pipeline(plan, stages, loss_fn=loss_of, group=group, device="meta")
    except PipelineError as error:
        return str(error)
    return os.devnull


def test_unknown_device(four: Ranks) -> None:
    """A device that no communication is known for is refused on all ranks."""
    for said in four.run(unknown, on=(0, 1)):
        assert "no communication is known for device `meta`" in said
