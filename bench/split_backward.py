"""What it costs to run a stage's backward as B and W instead of at once.

    python bench/split_backward.py [--rounds 11] [--widths 64 512]

Three ways over the same module and microbatches, in turn, step by step: plain autograd (a forward
and a backward per microbatch), this project's Split, and torch's own split
(torch.distributed.pipelining._backward). Printed: each way's time over plain autograd's of the same
round, for B + W and for F + B + W, as minimum, median and maximum over the rounds. Before anything
is timed the gradients of the three ways are compared. One thread, float32, eight microbatches of
4 x 64 tokens a step, W at once after B.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight
from torch.nn import functional

from pipec.runtime.split import Split
from pipec.runtime.split.internals import engine_backward

BATCH, TOKENS, MICROBATCHES, HEADS = 4, 64, 8, 4
Times = tuple[float, float]  # seconds in F, seconds in B + W
Way = Callable[[list[Tensor], list[Tensor]], Times]


class Layer(nn.Module):
    """A pre-norm transformer layer: attention with one q/k/v projection, and a fourfold MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.before_attention(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.before_mlp(x))))


def mlp(width: int) -> nn.Module:
    """Eight linear layers, each with a ReLU behind it."""
    return nn.Sequential(*(part for _ in range(8) for part in (nn.Linear(width, width), nn.ReLU())))


def transformer(width: int) -> nn.Module:
    """Four layers."""
    return nn.Sequential(*(Layer(width) for _ in range(4)))


def plain(module: nn.Module) -> Way:
    def run(inputs: list[Tensor], seeds: list[Tensor]) -> Times:
        forward = backward = 0.0
        for x, seed in zip(inputs, seeds, strict=True):
            start = time.perf_counter()
            y = module(x)
            middle = time.perf_counter()
            engine_backward([y], [seed])
            end = time.perf_counter()
            forward, backward = forward + middle - start, backward + end - middle
        return forward, backward

    return run


def ours(module: nn.Module) -> Way:
    split = Split(module)
    record = split.record()

    def run(inputs: list[Tensor], seeds: list[Tensor]) -> Times:
        forward = backward = 0.0
        for x, seed in zip(inputs, seeds, strict=True):
            start = time.perf_counter()
            y = split.forward(record, module, x)
            middle = time.perf_counter()
            split.backward(record, [y], [seed])
            split.weights(record)
            end = time.perf_counter()
            forward, backward = forward + middle - start, backward + end - middle
        return forward, backward

    return run


def torchs(module: nn.Module) -> Way:
    def run(inputs: list[Tensor], seeds: list[Tensor]) -> Times:
        forward = backward = 0.0
        for x, seed in zip(inputs, seeds, strict=True):
            start = time.perf_counter()
            y = module(x)
            middle = time.perf_counter()
            _, groups = stage_backward_input([y], [seed], [x], module.parameters())
            stage_backward_weight(module.parameters(), groups)
            end = time.perf_counter()
            forward, backward = forward + middle - start, backward + end - middle
        return forward, backward

    return run


def gradients(
    way: Way, module: nn.Module, inputs: list[Tensor], seeds: list[Tensor]
) -> list[Tensor]:
    """Every gradient that one step leaves behind: of the parameters, then of the inputs."""
    leaves = [*module.parameters(), *inputs]
    for leaf in leaves:
        leaf.grad = None
    way(inputs, seeds)
    found = [leaf.grad for leaf in leaves]
    assert all(grad is not None for grad in found)
    return [grad.clone() for grad in found if grad is not None]


def farthest(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error over all gradients."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def measure(build: Callable[[int], nn.Module], width: int, rounds: int) -> None:
    torch.manual_seed(0)
    module = build(width)
    shape = (BATCH, TOKENS, width)
    inputs = [torch.randn(shape).requires_grad_() for _ in range(MICROBATCHES)]
    seeds = [torch.randn(shape) for _ in range(MICROBATCHES)]
    ways = {"plain": plain(module), "pipec": ours(module), "torch": torchs(module)}
    expected = gradients(ways["plain"], module, inputs, seeds)
    for name, way in ways.items():
        error = farthest(gradients(way, module, inputs, seeds), expected)
        assert error < 1e-5, f"{name} computes other gradients: relative error {error}"
    repeats = max(1, round(0.2 / sum(ways["plain"](inputs, seeds))))
    results = [one_round(ways, repeats, module, inputs, seeds) for _ in range(rounds)]
    count = repeats * MICROBATCHES
    forward, backward = (
        statistics.median(result["plain"][part] for result in results) / count * 1e6
        for part in (0, 1)
    )
    print(
        f"{build.__name__}, width {width}: plain F {forward:.0f} us, B {backward:.0f} us; "
        f"held from B to W {held(module, inputs[0], seeds[0]):.2f} MiB a microbatch"
    )
    for name in ("pipec", "torch"):
        split = [result[name][1] / result["plain"][1] for result in results]
        total = [sum(result[name]) / sum(result["plain"]) for result in results]
        print(f"  {name}   (B+W)/B {spread(split)}   (F+B+W)/(F+B) {spread(total)}")


def one_round(
    ways: dict[str, Way],
    repeats: int,
    module: nn.Module,
    inputs: list[Tensor],
    seeds: list[Tensor],
) -> dict[str, Times]:
    """Seconds in F and in B + W of `repeats` steps of each way; the ways alternate each step."""
    taken: dict[str, Times] = dict.fromkeys(ways, (0.0, 0.0))
    for repeat in range(repeats):
        for name in [*ways][repeat % len(ways) :] + [*ways][: repeat % len(ways)]:
            for leaf in (*module.parameters(), *inputs):
                leaf.grad = None
            forward, backward = ways[name](inputs, seeds)
            taken[name] = (taken[name][0] + forward, taken[name][1] + backward)
    return taken


def held(module: nn.Module, x: Tensor, seed: Tensor) -> float:
    """MiB that a microbatch holds between its B and its W."""
    split = Split(module)
    record = split.record()
    split.backward(record, [split.forward(record, module, x)], [seed])
    return record.held_bytes() / 2**20


def spread(values: list[float]) -> str:
    return f"{min(values):.3f} {statistics.median(values):.3f} {max(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 512])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, 1 thread, load {load:.1f}, {arguments.rounds} rounds;")
    print(f"{MICROBATCHES} microbatches of {BATCH} x {TOKENS} tokens; ratios: min median max")
    gc.collect()
    gc.disable()
    for width in arguments.widths:
        for build in (mlp, transformer):
            measure(build, width, arguments.rounds)


if __name__ == "__main__":
    main()
