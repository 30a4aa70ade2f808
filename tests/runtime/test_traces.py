"""What is measured on real processes joins what was predicted, instruction by instruction."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from piped import batch_of, compiled, loss_of, make_stage, stages_of, total_of
from ranks import Ranks
from torch import nn
from torch.distributed import ProcessGroup

from pipec.program.costs import durations
from pipec.program.effects import COMPUTE, Kind
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.runtime import Pipeline, Point, Trace, measured_costs, measured_timeline
from pipec.simulate.timeline import Timeline, simulate

pytestmark = pytest.mark.slow

Times = NDArray[np.int64]


class Slowly(nn.Module):
    """A stage of the model that takes some milliseconds more."""

    def __init__(self, stage: nn.Module, seconds: float) -> None:
        super().__init__()
        self.stage, self.seconds = stage, seconds

    def forward(self, x: Any) -> Any:
        time.sleep(self.seconds)
        return self.stage(x)


def traced(rank: int, group: ProcessGroup, schedule: str, count: int) -> tuple[Times, Times, str]:
    plan = compiled(schedule, torch.distributed.get_world_size(group), count)
    stages = {
        stage: Slowly(make_stage(stage, stages_of(plan)), 0.02) for stage in plan.stages(rank)
    }
    trace = Trace()
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=group, listeners=[trace], timeout=20)
    batch = batch_of(total_of(plan))
    pipe.step(*batch)
    torch.distributed.barrier(group)
    trace.start()
    pipe.step(*batch)
    timeline = measured_timeline(trace, plan, group)
    pipe.close()
    return timeline.begin, timeline.end, str(measured_costs(timeline))


@pytest.mark.parametrize(
    ("schedule", "ranks", "count"), [("1f1b", 2, 3), ("zbv", 2, 3), ("dualpipe", 2, 4)]
)
def test_joins_the_prediction(four: Ranks, schedule: str, ranks: int, count: int) -> None:
    """Every row of the program was measured, in the order of its stream, after what it needs."""
    plan = compiled(schedule, ranks, count)
    program = plan.program
    answers = four.run(traced, schedule, count, on=range(ranks))
    begin, end, costs = answers[0]
    for other in answers[1:]:
        assert np.array_equal(begin, other[0]) and np.array_equal(end, other[1])
        assert other[2] == costs
    predicted = prediction(plan)
    assert predicted.table is program and len(begin) == len(predicted.begin) == len(program)
    assert (end > begin).all()
    for rank in range(ranks):
        rows = program.compute[program.rank[program.compute] == rank]
        assert (begin[rows][1:] >= end[rows][:-1]).all()
    sends = np.flatnonzero(program.kind == Kind.SEND)
    row_of = {int(program.operation[row]): int(row) for row in program.compute}
    consumers = np.array([row_of[int(program.operation[row])] for row in sends])
    assert (begin[consumers] >= begin[sends]).all()
    forwards = np.flatnonzero(program.kind == Kind.F)
    assert (end[forwards] - begin[forwards] >= 20 * 10**6).all()
    assert "F=" in costs


def prediction(plan: Any) -> Timeline:
    graph = event_graph(plan.program, Links(plan.program), Channels())
    return simulate(graph, durations(plan.program, plan.costs)).timeline


class Noting:
    """A listener that notes which points it was shown and which of them ran."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.ran: list[tuple[int, bool]] = []

    def wrap(self, point: Point, run: Callable[[], None]) -> Callable[[], None]:
        self.points.append(point)

        def noted() -> None:
            self.ran.append((point.index, point.waiting))
            run()

        return noted


def noted(rank: int, group: ProcessGroup) -> tuple[list[tuple[int, str]], list[tuple[int, bool]]]:
    plan = compiled("zb1p", 2, 3)
    listener = Noting()
    stages = {stage: make_stage(stage, 2) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=group, listeners=[listener], timeout=20)
    pipe.step(*batch_of(3))
    listener.points.clear()
    listener.ran.clear()
    pipe.step(*batch_of(3))
    pipe.close()
    return [(point.index, point.instruction.kind.name) for point in listener.points], listener.ran


def test_listeners_see_every_instruction(four: Ranks) -> None:
    """A listener sees each instruction once a step, compute in order, and the waits beside it."""
    program = compiled("zb1p", 2, 3).program
    for rank, (_, ran) in enumerate(four.run(noted, on=(0, 1))):
        rows = range(int(program.start[rank]), int(program.start[rank + 1]))
        itself = [index for index, waiting in ran if not waiting]
        assert sorted(itself) == list(range(len(rows)))
        compute = [row - rows.start for row in rows if COMPUTE[program.kind[row]]]
        assert [index for index in itself if index in set(compute)] == compute
        received = {int(program.operation[row]) for row in rows if program.kind[row] == Kind.RECV}
        waited = {int(program.operation[rows.start + i]) for i, waiting in ran if waiting}
        assert received <= waited
