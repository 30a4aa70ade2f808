"""Profile stages: run some training steps of a plan, and write what they took as a costs file.

`pipec profile` starts this on local processes. The stages are those of the example model, or of a
file of yours with

    make_stage(stage, stages)    # the nn.Module of one stage
    batch_of(rows)               # (input, target): two tensors with so many rows
    loss_of(output, target)      # left out if the last stage returns its loss
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import nn

import pipec
from pipec.examples import train_lm
from pipec.runtime import Pipeline, PipelineError, Profile


def main() -> None:
    """Step on every rank, and let rank 0 write."""
    args = arguments()
    torch.set_num_threads(1)
    model = loaded(args.stages) if args.stages else train_lm
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank()
    device = train_lm.local_device(rank)
    plan = pipec.load_plan(args.plan)
    flows = plan.program.placement.flows

    stages = {stage: made(model, stage, flows[0].stages).to(device) for stage in plan.stages(rank)}
    profile = Profile(device, args.skip)
    loss_fn = getattr(model, "loss_of", None)
    pipe = Pipeline(plan, stages, loss_fn=loss_fn, device=device, listeners=[profile])
    parameters = [p for stage in stages.values() for p in stage.parameters()]
    optimizer = torch.optim.AdamW(parameters) if parameters else None
    rows = args.batch * sum(flow.microbatches // flow.slices for flow in flows)
    for _ in range(args.skip + args.steps):
        x, y = model.batch_of(rows)
        dist.barrier()
        pipe.step(x.to(device), y.to(device))
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
    profile.save(args.output, optimizer)
    pipe.close()
    dist.destroy_process_group()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--output", default="costs.toml")
    parser.add_argument("--stages", help="a Python file; else the example model")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--skip", type=int, default=2, help="steps before those that are timed")
    parser.add_argument("--batch", type=int, default=4, help="rows in a microbatch")
    return parser.parse_args()


def made(model: ModuleType, stage: int, stages: int) -> nn.Module:
    """The module of a stage."""
    module = model.make_stage(stage, stages)
    if not isinstance(module, nn.Module):
        sys.exit(f"{model.__file__}: make_stage returns an nn.Module, not {type(module).__name__}")
    return module


def loaded(path: str) -> ModuleType:
    """A Python file as a module; its folder can be imported from."""
    sys.path.insert(0, str(Path(path).absolute().parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is no Python file")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    for name in ("make_stage", "batch_of"):
        if not callable(getattr(model, name, None)):
            sys.exit(f"{path} has no function {name}: see `pipec profile --help`")
    return model


if __name__ == "__main__":
    try:
        main()
    except PipelineError as error:
        sys.exit(str(error))
