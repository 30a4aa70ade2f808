"""Train a small mixture-of-experts language model: pipelines of stages, groups of experts.

The model is DeepSeek's in small: latent attention, a dense first layer, then layers with a top-k
router, routed experts and a shared one. Its text is that of the first example. Run it with

    torchrun --nproc-per-node 4 examples/train_moe.py                        # P=2, 2 expert ranks
    torchrun --nproc-per-node 8 examples/train_moe.py --schedule zb1p        # P=4, 2 expert ranks

Everything that experts need beyond `train_lm.py` is in `main`.
"""

import argparse
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

import pipec
from pipec.examples.train_lm import (
    BYTES,
    LENGTH,
    batches,
    local_device,
    loss_of,
    mean_over_ranks,
    say,
    standard_library,
    unigram_entropy,
)
from pipec.runtime import Pipeline
from pipec.runtime.experts import (
    DenseLayer,
    Exchange,
    ExpertLayer,
    Experts,
    ExpertStage,
    Router,
    make_exchange,
    make_layout,
)

WIDTH, HEADS, LATENT = 64, 4, 32
LAYERS, EXPERTS, CHOICES, HIDDEN = 8, 8, 2, 48


def main() -> None:
    """Train on every rank: place the ranks, make this rank's stages, step, average, update."""
    args = arguments()
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = local_device(rank)

    # 1. The ranks: expert groups of neighbours, and as many pipelines as there are expert ranks.
    pipelines = args.expert_ranks * args.data_ranks
    mesh = init_device_mesh(
        device.type,
        (ranks // pipelines, args.data_ranks, args.expert_ranks),
        mesh_dim_names=("pipeline", "data", "expert"),
    )
    layout = make_layout(mesh)
    exchange = make_exchange(args.exchange, layout.expert)

    # 2. The plan, with chunks opened into the parts of layers; all pipelines execute the same.
    count, plan = compiled(args.schedule, layout.pipeline.size(), args.microbatches)
    stages = {
        stage: make_stage(stage, count, exchange).to(device)
        for stage in plan.stages(layout.pipeline.rank())
    }
    layout.equalise(stages)
    pipe = Pipeline(plan, stages, loss_fn=loss_of, group=layout.pipeline, device=device)

    # 3. Each pipeline takes its own part of the batch; gradients are averaged over all of them.
    parameters = [p for stage in stages.values() for p in stage.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    microbatches = sum(flow.microbatches for flow in plan.program.placement.flows)
    text = standard_library()
    entropy = unigram_entropy(text)
    say(rank, f"{plan.name}: {plan.ranks} pipeline ranks x {pipelines} pipelines on {device.type}")
    say(rank, f"{len(text):,} bytes of Python; unigram entropy {entropy:.3f} nats a byte")
    begin, loss = time.monotonic(), 0.0
    whole = microbatches * args.batch * pipelines
    for step, (x, y) in enumerate(batches(text, whole, args.steps)):
        mine = layout.shared.rank()
        x, y = x.chunk(pipelines)[mine].to(device), y.chunk(pipelines)[mine].to(device)
        loss = mean_over_ranks(pipe.step(x, y), device)
        layout.average_gradients(stages)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == args.steps - 1:
            say(rank, f"step {step:4d}  loss {loss:.3f}  {time.monotonic() - begin:6.1f} s")
    side = "below" if loss < entropy else "above"
    say(rank, f"loss {loss:.3f} nats a byte, {abs(entropy - loss):.3f} {side} the unigram entropy")
    pipe.close()
    dist.destroy_process_group()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedule", default="dualpipe", help="a library name or a .pipe file")
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--expert-ranks", type=int, default=2, help="ranks that share the experts")
    parser.add_argument("--data-ranks", type=int, default=1, help="copies of expert groups")
    parser.add_argument("--exchange", default="torch", help="the all-to-all: torch or deepep")
    parser.add_argument("--batch", type=int, default=2, help="sequences in a microbatch")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-3)
    return parser.parse_args()


def compiled(schedule: str, ranks: int, microbatches: int) -> tuple[int, pipec.Plan]:
    """How many stages a schedule has, and its plan with as many layers in each as the model has."""
    whole = pipec.compile(schedule, P=ranks, M=microbatches)
    count = whole.program.placement.flows[0].stages
    if LAYERS % count:
        raise SystemExit(f"{LAYERS} layers cannot be spread evenly over {count} stages")
    layers = f"{LAYERS // count} x attention dispatch mlp combine"
    return count, pipec.compile(schedule, P=ranks, M=microbatches, layers=layers)


# --- the model ------------------------------------------------------------------------------------


class Embedding(nn.Module):
    """Bytes and their positions -> vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.byte = nn.Embedding(BYTES, WIDTH)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.05)
        nn.init.normal_(self.byte.weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x: integers `[batch, length]`; returns `[batch, length, width]`."""
        return self.byte(x) + self.position


class LatentAttention(nn.Module):
    """Causal attention whose keys and values come from a narrow latent vector.

    DeepSeek-V2, arXiv:2405.04434, section 2.1, without its rotary part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.latent = nn.Linear(WIDTH, LATENT, bias=False)
        self.key_value = nn.Linear(LATENT, 2 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.out.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[batch, length, width]`, and so is the result."""
        key, value = self.key_value(self.latent(x)).chunk(2, -1)
        query, key, value = (self._heads(part) for part in (self.query(x), key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], HEADS, WIDTH // HEADS).transpose(1, 2)


class FeedForward(nn.Module):
    """The gated layer of the dense layers and of the shared expert."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * hidden), nn.Linear(hidden, WIDTH)
        nn.init.normal_(self.down.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[..., width]`, and so is the result."""
        gate, value = self.up(x).chunk(2, -1)
        return self.down(functional.silu(gate) * value)


class Head(nn.Module):
    """Vectors -> a score for each next byte."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.score = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, BYTES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[batch, length, width]`; returns `[batch, length, 256]`."""
        return self.score(self.norm(x))


def make_layer(number: int, exchange: Exchange) -> nn.Module:
    """One layer; the first is dense."""
    if number == 0:
        return DenseLayer(WIDTH, LatentAttention(), FeedForward(4 * HIDDEN))
    return ExpertLayer(
        WIDTH,
        LatentAttention(),
        Router(WIDTH, EXPERTS, CHOICES, balance=0.01),
        Experts(WIDTH, HIDDEN, EXPERTS, exchange.rank, exchange.size, seed=EXPERTS * number),
        shared=FeedForward(HIDDEN),
    )


def make_stage(stage: int, stages: int, exchange: Exchange) -> ExpertStage:
    """One piece of the model: the layers spread evenly, the embedding first, the head last."""
    torch.manual_seed(stage)
    each = LAYERS // stages
    return ExpertStage(
        [make_layer(number, exchange) for number in range(each * stage, each * (stage + 1))],
        exchange,
        before=Embedding() if stage == 0 else None,
        after=Head() if stage == stages - 1 else None,
    )


if __name__ == "__main__":
    main()
