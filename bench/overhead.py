"""CPU time per instruction with nothing but bookkeeping: ours and torch's runtime in turn.

Stages are one 8x8 linear layer, messages 4x8, so what is measured is the runtime: its loop, the
sends and receives, the autograd calls. An instruction is a compute operation, a send or a receive;
figures are per rank (rank 0): of the whole process, gloo's thread included, and of its main thread.
Each round starts fresh processes for ours and then for torch's, since what one does to its
process (ours calms gloo's threads, runtime/threads.py) would change the other's figures too.

    python bench/overhead.py
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as dist
from local import run_ranks, spread
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class

import pipec
from pipec.runtime import Pipeline

WIDTH = 8
SCHEDULES = {"1f1b": "1F1B", "zbv": "ZBVZeroBubble", "dualpipev": "DualPipeV"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--microbatches", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    print(f"P = {args.ranks}, M = {args.microbatches}, {args.rounds} rounds of {args.steps} steps;")
    print("us per instruction, median (min to max) of the rounds, and ours over torch's\n")
    print(f"{'schedule':<10} {'CPU of':<8} {'ours':<26} {'torch':<26} {'ratio':<24}")
    for name in SCHEDULES:
        rounds = [
            {
                runtime: run_ranks(
                    _measure, args.ranks, runtime, name, args.microbatches, args.steps
                )
                for runtime in ("ours", "torch")
            }
            for _ in range(args.rounds)
        ]
        for what in ("process", "main"):
            ours = [figures["ours"][what] for figures in rounds]
            peer = [figures["torch"][what] for figures in rounds]
            ratio = spread([a / b for a, b in zip(ours, peer, strict=True)])
            print(f"{name:<10} {what:<8} {_us(ours):<26} {_us(peer):<26} {ratio:<24}", flush=True)


def _us(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f} ({ordered[0]:.1f} to {ordered[-1]:.1f})"


def _measure(rank: int, runtime: str, name: str, count: int, steps: int) -> dict[str, float]:
    """The median over steps of the time per instruction, in us."""
    plan = pipec.compile(name, P=dist.get_world_size(), M=count)
    instructions = int(plan.program.start[rank + 1] - plan.program.start[rank])
    step = (_ours if runtime == "ours" else _torch)(rank, plan, name, count)
    took: dict[str, list[float]] = {"process": [], "main": []}
    for _ in range(steps + 5):
        dist.barrier()
        process, main = time.process_time(), time.thread_time()
        step()
        took["process"].append(time.process_time() - process)
        took["main"].append(time.thread_time() - main)
    return {what: 1e6 * median(times[5:]) / instructions for what, times in took.items()}


def _batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(count * 4, WIDTH), torch.randn(count * 4, WIDTH)


def _ours(rank: int, plan: pipec.Plan, name: str, count: int) -> Callable[[], object]:
    stages = {stage: nn.Linear(WIDTH, WIDTH) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=nn.functional.mse_loss)
    x, y = _batch(count)
    return lambda: pipe.step(x, y)


def _torch(rank: int, plan: pipec.Plan, name: str, count: int) -> Callable[[], object]:
    number = plan.program.placement.flows[0].stages
    made = [
        PipelineStage(nn.Linear(WIDTH, WIDTH), index, number, torch.device("cpu"))
        for index in plan.stages(rank)
    ]
    schedule = get_schedule_class(SCHEDULES[name])(
        made[0] if name == "1f1b" else made, count, loss_fn=nn.functional.mse_loss
    )
    x, y = _batch(count)
    given = (x,) if 0 in plan.stages(rank) else ()
    wanted = {"target": y, "losses": []} if number - 1 in plan.stages(rank) else {}
    return lambda: schedule.step(*given, **wanted)


if __name__ == "__main__":
    main()
