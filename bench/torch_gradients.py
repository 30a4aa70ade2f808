"""One step of torch's own runtime on two processes: its gradients with and without `defer_pp_recv`.

python bench/torch_gradients.py            # all multi-stage schedules, M = 4
python bench/torch_gradients.py InterleavedZeroBubble --microbatches 4 8

Nothing of pipec takes part in the step. The gradients are compared with those of the same model
without a pipeline. Messages are buffered on gloo, so that what would hang by rendezvous goes on;
a step that takes longer than the limit is ended, and said to hang.
"""

import argparse
import warnings

import torch
from local import run_ranks
from torch import nn
from torch.distributed import ReduceOp, all_reduce
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class

SCHEDULES = (
    "Interleaved1F1B",
    "LoopedBFS",
    "InterleavedZeroBubble",
    "ZBVZeroBubble",
    "DualPipeV",
)
IN_A_V = ("ZBVZeroBubble", "DualPipeV")
WIDTH, RANKS, STAGES = 8, 2, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schedules", nargs="*", default=list(SCHEDULES))
    parser.add_argument("--microbatches", type=int, nargs="*", default=[4])
    parser.add_argument("--limit", type=float, default=120, help="seconds for one step")
    args = parser.parse_args()
    print("largest difference of a gradient from that of the model without a pipeline, P = 2")
    print(f"{'schedule':<22} {'M':>3} {'default':>10} {'defer_pp_recv':>14}")
    for name in args.schedules:
        for count in args.microbatches:
            if name == "DualPipeV" and count < STAGES:
                continue  # torch refuses
            plain, deferred = (found(name, count, defers, args.limit) for defers in (False, True))
            print(f"{name:<22} {count:>3} {plain:>10} {deferred:>14}", flush=True)


def found(name: str, microbatches: int, defers: bool, limit: float) -> str:
    """The largest error of a gradient; `hangs` where the step does not end in time."""
    try:
        error: float = run_ranks(step, RANKS, name, microbatches, defers, limit=limit)
    except TimeoutError:
        return "hangs"
    return f"{error:.1e}"


def step(rank: int, name: str, microbatches: int, deferred: bool) -> float:
    """The largest error of any rank's gradients."""
    warnings.filterwarnings("ignore")
    mine = [rank, STAGES - 1 - rank] if name in IN_A_V else [rank, rank + RANKS]
    torch.manual_seed(1)
    inputs, targets = torch.randn(2, 2 * microbatches, WIDTH)
    whole = nn.Sequential(*model())
    for x, y in zip(inputs.chunk(microbatches), targets.chunk(microbatches), strict=True):
        (nn.functional.mse_loss(whole(x), y) / microbatches).backward()
    parts = model()
    stages = [PipelineStage(parts[one], one, STAGES, torch.device("cpu")) for one in mine]
    schedule = get_schedule_class(name)(
        stages, microbatches, loss_fn=nn.functional.mse_loss, defer_pp_recv=deferred
    )
    given = {"target": targets, "losses": []} if STAGES - 1 in mine else {}
    schedule.step(*((inputs,) if 0 in mine else ()), **given)
    pairs = [
        (got.grad, right.grad)
        for one in mine
        for got, right in zip(parts[one].parameters(), whole[one].parameters(), strict=True)
    ]
    error = torch.stack([(got - right).abs().max() for got, right in pairs]).max()
    all_reduce(error, ReduceOp.MAX)
    return float(error)


def model() -> list[nn.Module]:
    """The stages, always with the same parameters."""
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(STAGES)]


if __name__ == "__main__":
    main()
