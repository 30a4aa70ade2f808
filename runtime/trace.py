"""A listener that measures when every instruction runs, and what all ranks measured together."""

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed import ProcessGroup

from pipec.program.costs import PAIR, SERIAL, Costs
from pipec.program.effects import Kind
from pipec.program.plan import Plan
from pipec.program.program import Table
from pipec.runtime.listener import Point, Run
from pipec.simulate.timeline import Timeline

Times = NDArray[np.int64]


class Trace:
    """Begin and end of each instruction of the last step, in nanoseconds since `start`.

    On a CPU by the host's monotonic clock, which the processes of one host share; on an accelerator
    by events on the current stream, so that nothing waits while the step runs.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self._seen: dict[int, tuple[Any, Any]] = {}
        self._base: Any = None
        self._zero = 0
        self.start()

    def start(self) -> None:
        """Begin anew: times count from here. Call it before a step, behind a barrier."""
        self._seen.clear()
        self._zero = time.perf_counter_ns()
        if self._device.type != "cpu":
            self._base = self._mark()

    def wrap(self, point: Point, run: Run) -> Run:
        """Measure an instruction; its wait is not part of it."""
        if point.waiting:
            return run
        seen, index = self._seen, point.index
        mark: Callable[[], Any] = time.perf_counter_ns if self._device.type == "cpu" else self._mark

        def measured() -> None:
            begin = mark()
            run()
            seen[index] = (begin, mark())

        return measured

    def _mark(self) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event

    @property
    def zero(self) -> int:
        """When it was started, by the clock of this host."""
        return self._zero

    def times(self, instructions: int) -> tuple[Times, Times]:
        """Begin and end of each instruction of this rank's stream; 0 where none was measured."""
        begin, end = np.zeros(instructions, np.int64), np.zeros(instructions, np.int64)
        if self._device.type != "cpu" and self._seen:
            torch.accelerator.synchronize()
        for index, (first, last) in self._seen.items():
            begin[index], end[index] = self._since(first), self._since(last)
        return begin, end

    def _since(self, mark: Any) -> int:
        if self._device.type == "cpu":
            return int(mark) - self._zero
        return int(self._base.elapsed_time(mark) * 1e6)


def measured_timeline(trace: Trace, plan: Plan, group: ProcessGroup | None = None) -> Timeline:
    """What all ranks measured in the last step, in milliseconds; called by all of them.

    Ranks of one host are brought together by its clock, hosts by when their first rank started.
    """
    rank = dist.get_rank(group)
    start = plan.program.start
    mine = (*trace.times(int(start[rank + 1] - start[rank])), trace.zero, platform.node())
    every: list[Any] = [None] * plan.ranks
    dist.all_gather_object(every, mine, group=group)
    zeros: dict[str, int] = {}
    for _, _, zero, host in every:
        zeros[host] = min(zero, zeros.get(host, zero))
    begin = np.concatenate([begin + zero - zeros[host] for begin, _, zero, host in every])
    end = np.concatenate([end + zero - zeros[host] for _, end, zero, host in every])
    first = int(begin[plan.program.compute].min())
    return Timeline(plan.program, begin - first, end - first, 10**6, serial=True)


def measured_costs(time: Timeline) -> Costs:
    """What each kind of operation took in each stage (medians, in ms), as costs to predict with.

    Of opened chunks also what each of their parts took. All-to-alls are not measured: a row of one
    only begins it (`experts.exchange_times` measures them).
    """
    table = time.table
    rows = table.compute
    took = (time.end[rows] - time.begin[rows]) / time.scale
    kind, stage = table.kind[rows], table.placement.stage_of(table.operation[rows])
    operations, place = np.unique(_whole(table, rows), return_inverse=True)
    first = np.zeros(len(operations), np.int64)
    first[place] = np.arange(len(rows))
    whole = np.bincount(place, took).astype(np.float64)
    times: dict[str, list[str]] = {}
    for one in (Kind.F, Kind.B, Kind.W, Kind.BW):
        _medians(times, one.name, whole, kind[first] == one, stage[first], table)
        for name in _part_names(table):
            here = (kind == one) & (_names(table, rows, stage) == name)
            _medians(times, f"{one.name}.{name}", took, here, stage, table)
    return Costs.of({**times, PAIR: SERIAL})


def _whole(table: Table, rows: Times) -> Times:
    """A number for each operation and kind, the same for all parts of one."""
    return table.operation[rows].astype(np.int64) * len(Kind) + table.kind[rows]


def _part_names(table: Table) -> list[str]:
    """The parts of opened chunks that compute."""
    parts = {part for parts in table.placement.layouts for part in parts}
    return sorted({part.name for part in parts if part.wire is None})


def _names(table: Table, rows: Times, stage: Times) -> NDArray[np.str_]:
    """The part that each row runs."""
    layouts, part = table.placement.layouts, table.part[rows]
    pairs = zip(stage.tolist(), part.tolist(), strict=True)
    return np.array([layouts[one][number].name for one, number in pairs])


def _medians(
    times: dict[str, list[str]],
    key: str,
    took: NDArray[np.float64],
    here: NDArray[np.bool_],
    stage: Times,
    table: Table,
) -> None:
    """The median of each stage under a key; of all stages where one has none."""
    if not here.any():
        return
    each = [here & (stage == one) for one in range(int(table.placement.stages.max()))]
    middle = [np.median(took[one if one.any() else here]) for one in each]
    times[key] = [f"{value:.4f}" for value in middle]
