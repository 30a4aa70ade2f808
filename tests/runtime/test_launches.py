"""Launches over communicators, as on NCCL: tried on gloo, with and without a library for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
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

import pipec
from pipec import Channels
from pipec.program.launches import uneven_launches
from pipec.program.plan import Plan
from pipec.program.reading import parse_listing
from pipec.runtime import Pipeline, links, pipeline
from pipec.runtime.checks import mistake_of
from pipec.runtime.groups import _native_wire
from pipec.source import Source


class Together:
    """Gloo with what NCCL has: operations that are issued as one, and one work for all of them."""

    supports_coalescing = True

    def __init__(self, backend: Any):
        self.backend = backend
        self.posted: list[Callable[[], Any]] | None = None
        self.works: list[Any] = []
        self.log: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def send(self, *arguments: Any) -> None:
        assert self.posted is not None, "a message on a communicator of its own"
        self.posted.append(lambda: self.backend.send(*arguments))

    def recv(self, *arguments: Any) -> None:
        assert self.posted is not None, "a message on a communicator of its own"
        self.posted.append(lambda: self.backend.recv(*arguments))

    def allreduce(self, *arguments: Any) -> Any:
        self.log.append("all")
        return self.backend.allreduce(*arguments)

    def _start_coalescing(self) -> None:
        assert self.posted is None
        self.posted = []

    def _end_coalescing(self) -> Together:
        assert self.posted is not None and not self.works, "the one before was not waited for"
        self.log.append(str(len(self.posted)))
        one = Together(self.backend)
        one.works, self.posted = [begin() for begin in self.posted], None
        return one

    def wait(self) -> None:
        for work in self.works:
            work.wait()


def launched(
    rank: int, group: ProcessGroup, schedule: str, sizes: tuple[int, int], wires: str, library: bool
) -> Counter[str]:
    """Two steps over links of gloo as if they were NCCL's; what was issued together."""
    made: list[Together] = []
    gloo, wire = links._BACKENDS["cpu"], pipeline.make_wire

    def together(*arguments: Any) -> Any:
        made.append(Together(gloo(*arguments)))
        return made[-1]

    def native(linker: Any, channels: Channels, plan: Plan) -> Any:
        if library:
            links._BACKENDS["cpu"] = together
        try:
            return _native_wire(linker, channels.topology, plan)
        finally:
            links._BACKENDS["cpu"] = gloo

    plan = compiled(schedule, *sizes)
    total, count = total_of(plan), stages_of(plan)
    _, _, expected = unpipelined(count, total, torch.float64)
    stages = {stage: make_stage(stage, count) for stage in plan.stages(rank)}
    pipeline.make_wire = native
    try:
        options: dict[str, Any] = {"group": group, "channels": Channels(wires), "timeout": 20}
        pipe = Pipeline(plan, stages, loss_fn=loss_of, **options)
    finally:
        pipeline.make_wire = wire
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(*batch_of(total))
        for stage, module in stages.items():
            assert assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
    pipe.eval(*batch_of(total))
    pipe.close()
    assert all(link.log[0] == "all" for link in made), "the first use is one of all members"
    return sum((Counter(link.log) for link in made), Counter())


@pytest.mark.slow
@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("wires", ["pair", "rank"])
@pytest.mark.parametrize(("schedule", "sizes"), [("1f1b", (2, 4)), ("dualpipe", (4, 8))])
def test_gradients(
    four: Ranks, schedule: str, sizes: tuple[int, int], wires: str, library: bool
) -> None:
    """Gradients are those of the whole model; everything is a launch, of one message or of two."""
    case = (f"{schedule} --grouped", sizes, wires, library)
    issued: list[Counter[str]] = four.run(launched, *case, on=range(sizes[0]))
    if library:
        links_of = 1 if wires == "rank" else None
        assert all(one["1"] and one["2"] and {*one} == {"all", "1", "2"} for one in issued)
        assert all(one["all"] == links_of or wires == "pair" for one in issued)


CROSSED = """
ranks 2
flow main microbatches 2 ranks 0 1

rank 0:
    F     main 0 0
    F     main 0 1
    SEND  F main 1 0 -> 1
    {0} SEND  F main 1 1 -> 1
    RECV  B main 0 0 <- 1
    BW    main 0 0
    RECV  B main 0 1 <- 1
    BW    main 0 1
rank 1:
    RECV  F main 1 0 <- 0
    {1} RECV  F main 1 1 <- 0
    F     main 1 0
    BW    main 1 0
    SEND  B main 0 0 -> 0
    F     main 1 1
    BW    main 1 1
    SEND  B main 0 1 -> 0
"""


@pytest.mark.parametrize(
    ("ties", "uneven"), [(("&", "&"), 0), (("&", ""), 2), (("", "&"), 2), (("", ""), 0)]
)
def test_launches_with_one_end(ties: tuple[str, str], uneven: int) -> None:
    """Where what one rank issues as one is not one on the other, all messages of it are named."""
    program = parse_listing(Source("x.listing", CROSSED.format(*ties)))
    assert len(uneven_launches(program)) == uneven


def refused(rank: int, group: ProcessGroup, path: str, wires: str, device: str) -> str:
    plan = pipec.compile(path) if path.endswith("listing") else compiled(path, 2, 4)
    stages = {stage: make_stage(stage, 2) for stage in plan.stages(rank)}
    torch.accelerator.current_device_index = lambda: 0
    where = torch.device(device)
    return str(mistake_of(plan, stages, group, where, Channels(wires), "mean"))


def test_what_no_library_promises_is_refused(four: Ranks, tmp_path: Path) -> None:
    """On NCCL: launches over two communicators, and those whose other ends are apart; with place.
    On gloo both are fine.
    """
    path = tmp_path / "apart.listing"
    path.write_text(CROSSED.format("&", ""))
    for name, wires, said in (
        ("1f1b --grouped", "pair", "None"),
        ("1f1b --grouped", "rank", "None"),
        ("1f1b --grouped", "directed", "`directed` on cuda, 0 credits"),
        (str(path), "pair", "apart.listing:8:5"),
    ):
        told = four.run(refused, name, wires, "cuda:0", on=(0, 1))
        assert all(said in one for one in told), told
    assert four.run(refused, str(path), "pair", "cpu", on=(0, 1)) == ["None", "None"]
