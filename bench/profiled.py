"""Profile, predict, run: the step time that profiled costs promise, over the one that is measured.

Compute is a sleep (so that 4 ranks on 2 cores behave like 4 devices), uneven over stages and kinds;
messages really go over gloo. Costs are profiled under `zb1p`, for F, B and W, and under `1f1b`, for
BW. With this one costs file each schedule is compiled (so a policy orders for it), predicted, and
run again; the last one is the shortest that `pipec tune` finds within the memory of the first. The
measured step is that of the ranks' own clocks, from the first F to the last end.

    python bench/profiled.py                     # P=4, M=12
    python bench/profiled.py --schedules 1f1b zb1p-greedy mine.pipe --unit 30 --seconds 0
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from local import run_ranks, spread
from torch import nn

import pipec
from pipec import Channels, CostsFile, Plan
from pipec.program.effects import Kind
from pipec.runtime import Pipeline, Point, Profile, Trace, measured_timeline

WIDTH = 64
UNITS = {Kind.F: 1.0, Kind.B: 1.2, Kind.W: 0.8, Kind.BW: 2.0}
HEAVY = 1.3
"""The last share of the model takes so much more, as one with a head does."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=12)
    parser.add_argument("--unit", type=float, default=20, help="ms of an F")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--schedules", nargs="*", default=["1f1b", "zb1p", "zb1p-greedy"])
    parser.add_argument("--seconds", type=float, default=40, help="of tune; 0: tune nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costs.toml"
        run_ranks(_profile, args.ranks, args.microbatches, args.unit, args.steps, str(path))
        print(path.read_text())
        lengths = {}
        tuned = [_tuned(args, path)] if args.seconds else []
        print(f"{'schedule':<14} {'predicted ms':>12} {'measured ms':>12}  predicted over measured")
        for name in [*args.schedules, *tuned]:
            plan = _compiled(name, args.ranks, args.microbatches, str(path))
            promised = float(plan.certificate["makespan"])
            given = (name, args.microbatches, args.unit, args.steps, str(path))
            took = run_ranks(_steps, args.ranks, *given)
            ratios = spread([promised / one for one in took])
            shown = "tuned" if name in tuned else name
            lengths[shown] = (promised, median(took))
            print(f"{shown:<14} {promised:>12.1f} {median(took):>12.1f}  {ratios}", flush=True)
    first, *others = lengths
    for name in others:
        gain = [1 - new / old for new, old in zip(lengths[name], lengths[first], strict=True)]
        print(f"{name} is shorter than {first} by {gain[0]:.1%} predicted, {gain[1]:.1%} measured")


def _tuned(args: argparse.Namespace, costs: Path) -> str:
    """The plan of the shortest schedule within the memory of the first one; what it is, printed."""
    first = _compiled(args.schedules[0], args.ranks, args.microbatches, str(costs))
    peak = max(rank["peak_memory"] for rank in first.certificate["ranks"])
    plan = str(costs.with_name("tuned.plan"))
    line = f"tune P={args.ranks} M={args.microbatches} --costs {costs} --channels tagged"
    line += f" --memory-limit {peak:.0f}B --placements linear,v -o {plan}"
    line += f" --time {args.seconds}s --format json"
    command = [str(Path(sys.executable).with_name("pipec")), *line.split()]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    best = json.loads(told.stdout)["front"][0]
    print(f"tuned is {best['schedule']} ({best['origin']}, {best['placement']})")
    return plan


def _compiled(name: str, ranks: int, count: int, costs: str | None = None) -> Plan:
    """A plan for gloo, whose messages have tags."""
    if name.endswith(".plan"):
        return pipec.load_plan(name)
    return pipec.compile(name, P=ranks, M=count, costs=costs, channels=Channels("tagged"))


def _profile(rank: int, count: int, unit: float, steps: int, path: str) -> None:
    """F, B and W of one schedule, BW of another: one costs file."""
    files = []
    for name in ("zb1p", "1f1b"):
        profile = Profile()
        pipe, step = _pipeline(_compiled(name, dist.get_world_size(), count), unit, profile)
        for _ in range(steps + 2):
            dist.barrier()
            step()
        files.append(profile.measure())
        pipe.close()
    if rank == 0:
        fused = {"BW": files[1].costs.times["BW"]}
        costs = files[0].costs.override(pipec.Costs(fused))
        CostsFile(costs, files[0].memory).save(path)


def _steps(rank: int, name: str, count: int, unit: float, steps: int, path: str) -> list[float]:
    """Milliseconds from the first F to the last end, step by step."""
    plan, trace = _compiled(name, dist.get_world_size(), count, path), Trace()
    pipe, step = _pipeline(plan, unit, trace)
    took = []
    for turn in range(steps + 1):
        dist.barrier()
        trace.start()
        step()
        timeline = measured_timeline(trace, plan)
        rows = plan.program.compute
        span = int(timeline.end[rows].max() - timeline.begin[rows].min()) / timeline.scale
        took += [span] if turn else []
    pipe.close()
    return took


def _pipeline(
    plan: Plan, unit: float, listener: Profile | Trace
) -> tuple[Pipeline, Callable[[], object]]:
    stages = {
        stage: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        for stage in plan.stages(dist.get_rank())
    }
    count_of_stages = plan.program.placement.flows[0].stages
    listeners = [Emulation(unit, plan.ranks, count_of_stages), listener]
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss, listeners=listeners)
    count = sum(flow.microbatches for flow in plan.program.placement.flows)
    torch.manual_seed(0)
    x, y = torch.randn(2, count * 4, WIDTH)
    return pipe, lambda: pipe.step(x, y)


class Emulation:
    """A listener under which operations take as long as they are to: all stages of a rank together
    what the one stage of a rank takes, the last of them more.
    """

    def __init__(self, unit: float, ranks: int, stages: int):
        self._unit = unit * ranks / stages
        self._heavy = stages - stages // ranks

    def wrap(self, point: Point, run: Callable[[], None]) -> Callable[[], None]:
        units = 0.0 if point.waiting else UNITS.get(point.instruction.kind, 0.0)
        seconds = units * self._unit / 1000
        seconds *= HEAVY if point.instruction.stage >= self._heavy else 1

        def slow() -> None:
            time.sleep(seconds)
            run()

        return slow if seconds else run


if __name__ == "__main__":
    main()
