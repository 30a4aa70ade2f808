"""Train a byte-level language model on Python's own standard library, through a pipeline.

This is the guide to the runtime: everything that pipec needs is in `main`. Run it with

    pipec run dualpipe P=4 M=8                          # local processes
    torchrun --nproc-per-node 4 examples/train_lm.py    # or any other way to start ranks
"""

import argparse
import math
import os
import sysconfig
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

import pipec
from pipec import Channels
from pipec.runtime import Pipeline, Trace, measured_costs, measured_timeline
from pipec.simulate.report import report
from pipec.simulate.usage import usage
from pipec.verify.certificate import verify
from pipec.view.svg import timeline_svg

BYTES, WIDTH, HEADS, LENGTH = 256, 96, 4, 96
BLOCKS = 8


def main() -> None:
    """Train on every rank: compile or load a plan, make this rank's stages, step."""
    args = arguments()
    torch.set_num_threads(1)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = local_device(rank)

    # 1. The plan: which instructions this rank runs. It has been verified, or you do not get one.
    if args.plan:
        plan = pipec.load_plan(args.plan)
    else:
        plan = pipec.compile(args.schedule, P=ranks, M=args.microbatches)
    flows = plan.program.placement.flows
    sequences = sum(flow.microbatches // flow.slices for flow in flows)

    # 2. The stages that this rank holds. Any nn.Module that takes and returns tensors will do.
    stages = {stage: make_stage(stage, flows[0].stages).to(device) for stage in plan.stages(rank)}
    trace = Trace(device)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, device=device, listeners=[trace])

    # 3. An ordinary training loop: every rank gives the whole batch, and takes its own part of it.
    parameters = [p for stage in stages.values() for p in stage.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
    text = standard_library()
    entropy = unigram_entropy(text)
    say(rank, f"{len(text):,} bytes of Python; unigram entropy {entropy:.3f} nats a byte")
    begin = time.monotonic()
    for step, (x, y) in enumerate(batches(text, sequences * args.batch, args.steps)):
        dist.barrier()
        trace.start()
        loss = mean_over_ranks(pipe.step(x.to(device), y.to(device)), device)
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
        if step % 10 == 0 or step == args.steps - 1:
            say(rank, f"step {step:4d}  loss {loss:.3f}  {time.monotonic() - begin:6.1f} s")

    # 4. What was predicted, and what the last step measured.
    side = "below" if loss < entropy else "above"
    say(rank, f"loss {loss:.3f} nats a byte, {abs(entropy - loss):.3f} {side} the unigram entropy")
    show_bubbles(plan, trace, rank, Path(args.out))
    pipe.close()
    dist.destroy_process_group()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedule", default="dualpipe", help="a library name or a .pipe file")
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--plan", help="a plan file, instead of compiling")
    parser.add_argument("--batch", type=int, default=4, help="sequences in a microbatch")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--out", default="out", help="where the picture goes")
    return parser.parse_args()


# --- the model ------------------------------------------------------------------------------------


Past = tuple[Tensor, Tensor]
"""The keys and the values of a sequence so far."""


class Embedding(nn.Module):
    """Bytes and their positions -> vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.byte = nn.Embedding(BYTES, WIDTH)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.05)
        nn.init.normal_(self.byte.weight, std=0.5)

    def forward(self, x: Tensor, begin: int | None) -> tuple[Tensor, int]:
        """x: integers `[batch, length]`; returns `[batch, length, width]`, and where that ends."""
        begin = begin or 0
        end = begin + x.shape[1]
        return self.byte(x) + self.position[begin:end], end


class Block(nn.Module):
    """A transformer block: causal attention and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """x: `[batch, length, width]`, and so is the result; and all keys and values so far."""
        batch, length, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if past is None:
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
            sees = causal_lower_right(length, key.shape[2])
            mixed = functional.scaled_dot_product_attention(query, key, value, sees)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm2(x)))), (key, value)


class Head(nn.Module):
    """Vectors -> a score for each next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.score = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES, bias=False)

    def forward(self, x: Tensor, _: None) -> tuple[Tensor, None]:
        """x: `[batch, length, width]`; returns `[batch, length, 256]`."""
        return self.score(self.norm(x)), None


class Stage(nn.Module):
    """Layers in a row, for whole sequences and for slices of them (docs/slices.md)."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, carried: Any = ()) -> Any:
        """Called without `carried`, takes and returns what crosses stages; else a slice of that,
        with what each layer carries.
        """
        kept = []
        for layer, past in zip_longest(self.layers, carried or ()):
            x, so_far = layer(x, past)
            kept.append(so_far)
        return x if carried == () else (x, kept)


def make_stage(stage: int, stages: int) -> nn.Module:
    """One piece of the model: the blocks spread evenly, the embedding first, the head last."""
    torch.manual_seed(stage)
    first, last = stage * BLOCKS // stages, (stage + 1) * BLOCKS // stages
    layers: list[nn.Module] = [Block() for _ in range(first, last)]
    if stage == 0:
        layers.insert(0, Embedding())
    if stage == stages - 1:
        layers.append(Head())
    return Stage(layers)


def loss_of(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in nats a byte. scores: `[batch, length, 256]`, target: `[batch, length]`."""
    return functional.cross_entropy(scores.flatten(0, 1), target.flatten())


# --- the data -------------------------------------------------------------------------------------


def standard_library(most: int = 4_000_000) -> Tensor:
    """The source of Python's standard library as bytes, file after file."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    content = b"\n".join(file.read_bytes() for file in files)[:most]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).long()


def unigram_entropy(text: Tensor) -> float:
    """The loss, in nats a byte, of knowing only how frequent each byte is."""
    share = torch.bincount(text, minlength=BYTES).double() / len(text)
    return -sum(p * math.log(p) for p in share.tolist() if p > 0)


def batch_of(rows: int) -> tuple[Tensor, Tensor]:
    """Random bytes and the same moved by one: a batch when only its size matters."""
    pieces = torch.randint(0, BYTES, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    return pieces[:, :-1], pieces[:, 1:]


def batches(text: Tensor, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random pieces of the text and the same moved by one byte; the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(0, len(text) - LENGTH - 1, (size,), generator=generator)
        pieces = torch.stack([text[start : start + LENGTH + 1] for start in starts.tolist()])
        yield pieces[:, :-1], pieces[:, 1:]


# --- what is printed ------------------------------------------------------------------------------


def say(rank: int, line: str) -> None:
    """Print on rank 0."""
    if rank == 0:
        print(line, flush=True)


def local_device(rank: int) -> torch.device:
    """This process's GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def mean_over_ranks(loss: Tensor | None, device: torch.device) -> float:
    """The loss over all ranks on which losses arise."""
    pair = torch.zeros(2, device=device)
    if loss is not None:
        pair = torch.stack([loss.detach().float(), torch.ones((), device=device)])
    dist.all_reduce(pair)
    return float(pair[0] / pair[1])


def show_bubbles(plan: pipec.Plan, trace: Trace, rank: int, folder: Path) -> None:
    """Compare the last step with the plan, and draw it."""
    measured = measured_timeline(trace, plan)
    if rank != 0:
        return
    used = usage(plan.memory, measured)
    real = report(measured, used)
    costs = measured_costs(measured)
    expected = verify(plan.program, costs, plan.memory, Channels("tagged")).report
    promised = (
        max(row["bubble"] for row in plan.certificate["ranks"]) / plan.certificate["makespan"]
    )
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "measured.svg"
    picture.write_text(timeline_svg(measured, real, f"{plan.name}, measured (ms)", used))
    print(f"bubble predicted {promised:6.1%} of the step, with costs {plan.certificate['costs']}")
    if expected:
        print(f"bubble predicted {expected.bubble_rate:6.1%}, with the durations just measured")
    print(f"bubble measured  {real.bubble_rate:6.1%} of the last step, {real.makespan:.0f} ms")
    if (os.cpu_count() or 1) < plan.ranks and not torch.cuda.is_available():
        print(f"({plan.ranks} ranks share {os.cpu_count()} cores: they wait for cores, too)")
    print(f"picture of the measured timeline: {picture}")


if __name__ == "__main__":
    main()
