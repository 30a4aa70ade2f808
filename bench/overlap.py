"""What hiding all-to-alls gains, measured: ours and torch's runtime in turn, on real processes.

Every rank is a process, messages and all-to-alls really go over gloo, compute is a sleep and the
link is emulated: an all-to-all exchanges one number and then takes its time on a lane of its own.
A part that computes takes one unit in F, B and W, an all-to-all 1.5, so that inside a pair there is
as much communication as compute. A rank has four layers a flow: `dualpipev` cuts them in two.

    throughput   over the baseline, 1F1B of ours with nothing overlapped (median, min to max)
    prediction   step time over the simulated makespan, in which the runtime costs nothing
    exposed      how much of the middle half of the step a rank waits for all-to-alls, mean

    python bench/overlap.py                # all sizes, up to fourteen minutes a round
    python bench/overlap.py --quick        # P=4, M=20 alone, some two
    python bench/overlap.py --sizes 4x40 --unit 30 --rounds 3
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from emulated_experts import WIRE, Meter, Metered, Step, layout_of, make_stage, ours, theirs
from local import run_ranks, spread

import pipec
from pipec.program.costs import Costs
from pipec.program.plan import Plan

LAYERS = 4
SIZES = ((4, 20), (4, 40), (8, 20), (8, 80))


@dataclass(frozen=True)
class Variant:
    """A schedule, who runs it, and how many neighbours are interleaved; 0: nothing is."""

    name: str
    runtime: str
    schedule: str
    neighbours: int

    @property
    def layers(self) -> int:
        """Of a chunk."""
        return LAYERS // 2 if self.schedule == "dualpipev" else LAYERS

    def plan(self, ranks: int, count: int) -> Plan:
        """What is run; for torch's runtime, what has the same order."""
        chunk = 2 * self.layers
        costs = Costs.of({"F": chunk, "B": chunk, "W": chunk, "dispatch": WIRE, "combine": WIRE})
        return pipec.compile(
            self.schedule,
            P=ranks,
            M=count,
            costs=costs,
            layers=f"{self.layers} x attention dispatch mlp combine",
            neighbours=self.neighbours,
        )


BASE = Variant("1f1b, one by one", "ours", "1f1b", 0)
VARIANTS = (
    BASE,
    Variant("torch 1F1B", "torch", "1f1b", 0),
    Variant("torch DualPipeV", "torch", "dualpipev", 0),
    Variant("dualpipev", "ours", "dualpipev", 1),
    Variant("dualpipe", "ours", "dualpipe", 1),
    Variant("dualpipe, 2 neighbours", "ours", "dualpipe", 2),
)
FURTHER = (
    Variant("1f1b, 3 neighbours", "ours", "1f1b", 3),
    Variant("dualpipev, 2 neighbours", "ours", "dualpipev", 2),
    Variant("dualpipe, 8 neighbours", "ours", "dualpipe", 8),
)
FEW = 20
"""Microbatches with which the further variants are measured, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="P=4, M=20 alone")
    parser.add_argument("--unit", type=float, default=10, help="ms that a part takes")
    parser.add_argument("--experts", type=int, default=2, help="ranks of an expert group")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sizes", nargs="*", default=[f"{p}x{m}" for p, m in SIZES], help="PxM")
    parser.add_argument("--variants", nargs="*", default=[], help="parts of their names")
    args = parser.parse_args()
    print(f"a part takes {args.unit:g} ms, an all-to-all {WIRE * args.unit:g} ms; {LAYERS} layers")
    print(f"{args.experts} processes per expert group, {args.rounds} rounds in turn\n")
    print(f"{'P':>2} {'M':>3} {'variant':<25}{'throughput':<24}{'prediction':<24}{'exposed':>8}")
    for size in args.sizes[:1] if args.quick else args.sizes:
        ranks, count = map(int, size.split("x"))
        chosen = [
            one
            for one in (*VARIANTS, *(FURTHER if count == FEW else ()))
            if one is BASE or not args.variants or any(word in one.name for word in args.variants)
        ]
        _run(ranks, count, chosen, args)


def _run(ranks: int, count: int, variants: list[Variant], args: Any) -> None:
    plans = [variant.plan(ranks, count) for variant in variants]
    seconds = [float(plan.certificate["makespan"]) * args.unit / 1000 for plan in plans]
    limit = 120 + 4 * args.rounds * sum(seconds)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        under_way = Path(folder) / "variant"
        work = (args.experts, variants, plans, args.unit / 1000, args.rounds, under_way)
        try:
            measured = run_ranks(_measure, ranks * args.experts, *work, limit=limit)
        except (SystemExit, TimeoutError) as failure:
            name = under_way.read_text() if under_way.exists() else "nothing yet"
            print(f"{ranks:>2} {count:>3} {name}: {failure}", flush=True)
            rest = [one for one in variants if one is BASE or one.name != name]
            if len(rest) < len(variants):
                _run(ranks, count, rest, args)
            return
    base = measured[0]
    for variant, ideal, rounds in zip(variants, seconds, measured, strict=True):
        gains = [one[0] / other[0] for one, other in zip(base, rounds, strict=True)]
        cells = [_spread(gains), _spread([took / ideal for took, _ in rounds])]
        exposed = sum(share for _, share in rounds) / len(rounds)
        line = "".join(f"{cell:<24}" for cell in cells)
        print(f"{ranks:>2} {count:>3} {variant.name:<25}{line}{exposed:>8.1%}")
    print(f"{'':7}{time.monotonic() - begin:.0f} s\n", flush=True)


def _spread(values: list[float]) -> str:
    return spread(values) if len(values) > 1 else f"{values[0]:.3f}"


def _measure(
    rank: int,
    experts: int,
    variants: list[Variant],
    plans: list[Plan],
    unit: float,
    rounds: int,
    under_way: Path,
) -> list[list[tuple[float, float]]]:
    """For each variant, of each round: seconds, and the exposed share of the middle half."""
    meter = Meter()
    pipeline, expert = layout_of(dist.get_world_size() // experts, experts)
    exchange = Metered(expert, meter)
    steps = []
    for variant, plan in zip(variants, plans, strict=True):
        stages = {
            one: make_stage(one, variant.layers, exchange, meter)
            for one in plan.stages(rank // experts)
        }
        prepare = ours if variant.runtime == "ours" else theirs
        steps.append(prepare(plan, stages, pipeline, meter))
    found: list[list[tuple[float, float]]] = [[] for _ in variants]
    for turn in range(rounds + 1):  # the first one finds out the shapes
        for variant, plan, step, times in zip(variants, plans, steps, found, strict=True):
            if rank == 0:
                under_way.write_text(variant.name)
            timed = _timed(step, meter, unit if turn else 0.0, _parts(plan))
            if turn:
                times.append(timed)
    return found


def _parts(plan: Plan) -> int:
    """How many parts a rank computes in F, B and W."""
    return 3 * 2 * LAYERS * sum(flow.microbatches for flow in plan.program.placement.flows)


def _timed(step: Step, meter: Meter, unit: float, parts: int) -> tuple[float, float]:
    meter.start(unit)
    dist.barrier()
    begin = time.monotonic()
    step()
    took = torch.tensor(time.monotonic() - begin, dtype=torch.float64)
    dist.all_reduce(took, dist.ReduceOp.MAX)
    if unit and meter.slept != parts:  # torch tries shapes out in its first step
        raise RuntimeError(f"{parts} parts are to be computed, not {meter.slept}")
    half = float(took) / 2
    waited = torch.tensor(meter.waited(begin + half / 2, begin + 3 * half / 2) / half)
    dist.all_reduce(waited)
    return float(took), float(waited) / dist.get_world_size()


if __name__ == "__main__":
    main()
