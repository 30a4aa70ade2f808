"""Step time over the ideal of the same order: ours and torch's runtime in turn, compute emulated.

Compute is a sleep (so that 8 ranks on 2 cores behave like 8 devices), messages really go over gloo.
F, B and W take `--unit` ms each, BW twice that. Two ideals are printed, both without communication:
`pair`, where an OVERLAP is one unit and both its results leave at its end (as torch and DeepSeek
execute it), and `serial`, where the forward's result leaves at once (as ours does); without an
OVERLAP they are the same.

    python bench/step_time.py                  # P=4 and P=8, M=16
    python bench/step_time.py --ranks 4 --rounds 3
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from local import run_ranks, spread
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class

import pipec
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.runtime import Pipeline
from pipec.runtime.listener import Point

WIDTH = 64
SCHEDULES = {"1f1b": "1F1B", "zbv": "ZBVZeroBubble", "dualpipev": "DualPipeV"}
UNITS = {Kind.F: 1, Kind.B: 1, Kind.W: 1, Kind.BW: 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[4, 8])
    parser.add_argument("--microbatches", type=int, default=16)
    parser.add_argument("--unit", type=float, default=60, help="ms per F, B or W")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--schedules", nargs="*", default=list(SCHEDULES))
    args = parser.parse_args()
    print(f"F = B = W = {args.unit:g} ms, M = {args.microbatches}, {args.rounds} rounds in turn;")
    print("step time over the ideal: median (min to max)\n")
    print(f"{'schedule':<10} {'P':>2} {'runtime':<8} {'over pair':<24} {'over serial':<24}")
    for ranks in args.ranks:
        for name in args.schedules:
            ideals = [
                _ideal(name, ranks, args.microbatches, cost) for cost in ({}, {"F&B": "serial"})
            ]
            seconds = [ideal * args.unit / 1000 for ideal in ideals]
            measured = run_ranks(_measure, ranks, name, args.microbatches, args.unit, args.rounds)
            for runtime, times in measured.items():
                ratios = [spread([time / ideal for time in times]) for ideal in seconds]
                print(
                    f"{name:<10} {ranks:>2} {runtime:<8} {ratios[0]:<24} {ratios[1]:<24}",
                    flush=True,
                )


def _ideal(name: str, ranks: int, count: int, cost: dict[str, Any]) -> float:
    """The makespan of the order without communication, in units."""
    plan = pipec.compile(name, P=ranks, M=count, costs=Costs.of(cost))
    return float(plan.certificate["makespan"])


def _measure(rank: int, name: str, count: int, unit: float, rounds: int) -> dict[str, list[float]]:
    steps = {"ours": _ours(rank, name, count, unit), "torch": _torch(rank, name, count, unit)}
    times: dict[str, list[float]] = {runtime: [] for runtime in steps}
    for turn in range(rounds + 1):
        for runtime, step in steps.items():
            dist.barrier()
            begin = time.perf_counter()
            step()
            took = torch.tensor(time.perf_counter() - begin)
            dist.all_reduce(took, dist.ReduceOp.MAX)
            if turn:
                times[runtime].append(float(took))
    return times


def _batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(count * 4, WIDTH), torch.randn(count * 4, WIDTH)


def _stage() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())


def _slow(run: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return run(*args, **kwargs)

    return slow


def _ours(rank: int, name: str, count: int, unit: float) -> Callable[[], object]:
    plan = pipec.compile(name, P=dist.get_world_size(), M=count)
    stages = {stage: _stage() for stage in plan.stages(rank)}
    emulation = Emulation(unit)
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss, listeners=[emulation])
    x, y = _batch(count)
    return lambda: pipe.step(x, y)


class Emulation:
    """A listener that sleeps for as long as an instruction is to take."""

    def __init__(self, unit: float):
        self._unit = unit

    def wrap(self, point: Point, run: Callable[[], None]) -> Callable[[], None]:
        units = 0 if point.waiting else UNITS.get(point.instruction.kind, 0)
        return _slow(run, units * self._unit / 1000) if units else run


def _torch(rank: int, name: str, count: int, unit: float) -> Callable[[], object]:
    plan = pipec.compile(name, P=dist.get_world_size(), M=count)
    number = plan.program.placement.flows[0].stages
    made = []
    for index in plan.stages(rank):
        stage = PipelineStage(_stage(), index, number, torch.device("cpu"))
        stage.forward_one_chunk = _slow(stage.forward_one_chunk, unit / 1000)
        stage.backward_one_chunk = _slow_backward(stage.backward_one_chunk, unit)
        stage.backward_weight_one_chunk = _slow(stage.backward_weight_one_chunk, unit / 1000)
        made.append(stage)
    several = name != "1f1b"
    schedule = get_schedule_class(SCHEDULES[name])(
        made if several else made[0], count, loss_fn=nn.functional.mse_loss
    )
    x, y = _batch(count)
    given = (x,) if 0 in plan.stages(rank) else ()
    wanted = {"target": y, "losses": []} if number - 1 in plan.stages(rank) else {}
    return lambda: schedule.step(*given, **wanted)


def _slow_backward(run: Callable[..., Any], unit: float) -> Callable[..., Any]:
    def slow(*args: Any, full_backward: bool = True, **kwargs: Any) -> Any:
        time.sleep((2 if full_backward else 1) * unit / 1000)
        return run(*args, full_backward=full_backward, **kwargs)

    return slow


if __name__ == "__main__":
    main()
