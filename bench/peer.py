"""Record what the zero-bubble authors' own schedulers make, under our simulator.

git clone https://github.com/sail-sg/zero-bubble-pipeline-parallelism CHECKOUT
git -C CHECKOUT checkout 39f2c186a27580b7051eb51e0f651e1efd0a8170
python bench/peer.py CHECKOUT          # writes bench/peer.csv, which policies.py --grid reads
python bench/peer.py CHECKOUT --costs 0.9/1.7/0.5/0.2 --ranks 4 5 --output more.csv

They get the costs that we get; only their orders are used, and makespan and peak (F to W, in
stages, worst rank) are measured as ours are. Every option that their code tries by itself counts,
under both ideas of memory that it knows, and each order that is the shortest at its peak is
recorded. Only figures are written down.
"""

import argparse
import contextlib
import csv
import importlib
import io
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import accumulate, product
from pathlib import Path
from types import ModuleType, SimpleNamespace

from pipec.order.follow import HELD
from pipec.order.lines import Line, Lines, clock, makespan
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.placement import Flow, Placement

COMMIT = "39f2c186a27580b7051eb51e0f651e1efd0a8170"
ROOM = "megatron.core.pipeline_parallel.zerobubble.scheduler"
COSTS = (
    "1/1/1/0",
    "1/1.2/0.8/0.05",
    "1/1.5/0.7/0.1",
    "1/0.9/1.1/0.02",
    "1/1.1/0.6/0.3",
    # Drawn: F from 0.8 to 1.5, B from 0.8 to 2 of it, W from 0.4 to 1.3 of it, a message to 0.4.
    "1.31/2.08/0.84/0.17",
    "0.92/1.63/1.12/0.36",
    "1.18/1.04/1.49/0.08",
    "1.45/2.62/0.66/0.29",
    "0.83/0.71/0.49/0.4",
)
"""F/B/W/send."""

MEMORIES = ((1000, 0, -1000), (1000, -568, -432))
"""What F, B and W add: all stays until W, or a B frees a part, by their own estimate (34h + 5as for
F, 32h for W) at h = 4096, a = 32, s = 1024.
"""

SCALE = 1000
"""Ticks in a unit of costs."""

KINDS = (Kind.F, Kind.B, Kind.W)
Step = tuple[Kind, int, int]
"""Kind, stage and microbatch."""

Orders = list[list[Step]]
"""Per rank the steps in sequence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--costs", nargs="*", default=COSTS, help="F/B/W/send")
    parser.add_argument("--ranks", nargs="*", type=int, default=range(2, 13))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    args = parser.parse_args()
    peers = load(args.checkout)
    with args.output.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# orders of sail-sg/zero-bubble-pipeline-parallelism at {COMMIT},\n")
        file.write("# simulated by pipec; made by bench/peer.py\n")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["schedule", "costs", "P", "M", "peak", "makespan"])
        for costs, ranks, times in product(args.costs, args.ranks, (1, 2, 3)):
            rows.writerows(recorded(peers, ranks, ranks * times, costs))


def load(checkout: Path) -> SimpleNamespace:
    """Their schedulers, without the package around them; pulp serves a solver that is not used."""
    parts = ROOM.split(".")
    for size in range(1, len(parts) + 1):
        package = ModuleType(".".join(parts[:size]))
        package.__path__ = [str(checkout.joinpath(*parts[:size]))]
        sys.modules[package.__name__] = package
    sys.modules["pulp"] = ModuleType("pulp")
    names = ("graph", "zb", "zbv", "zbv_greedy")
    return SimpleNamespace(**{name: importlib.import_module(f"{ROOM}.{name}") for name in names})


def recorded(
    peers: SimpleNamespace, ranks: int, count: int, costs: str
) -> Iterator[tuple[str, str, int, int, int, str]]:
    """The rows of one size: per schedule what is shortest at each peak."""
    ticks = [int(Fraction(part) * SCALE) for part in costs.split("/")]
    stated = Costs.of(dict(zip(("F", "B", "W", "send"), ticks, strict=True)))
    with contextlib.redirect_stdout(io.StringIO()):
        made = {
            "ZB-1P": list(linear(peers, ranks, count, ticks, ranks)),
            "ZB-2P": list(linear(peers, ranks, count, ticks, 2 * ranks)),
            "ZB-V": list(zbv(peers, ranks, count, ticks)),
            "V-Half": [squeezed(peers, ranks, count, ticks, "half")],
            "V-Min": [squeezed(peers, ranks, count, ticks, "min")],
        }
    for name, orders in made.items():
        lines = lines_of(ranks, count, "V" in name)
        times = clock(lines, stated)
        points = [(peak(order), makespan(lines, times, sequence(lines, order))) for order in orders]
        for held, length in front(points):
            yield name, costs, ranks, count, held, f"{length / SCALE:.10g}"


def linear(
    peers: SimpleNamespace, ranks: int, count: int, ticks: list[int], most: int
) -> Iterator[Orders]:
    """What their heuristic of ZB-1P and ZB-2P chooses among, with memory for `most` microbatches.

    Shorter ones with less than `most` count as well.
    """
    f, b, w, send = map(float, ticks)
    for memory, (early, eager, fill) in product(MEMORIES, product((True, False), repeat=3)):
        config = peers.graph.GraphConfig(
            *([float(change)] * ranks for change in memory),
            max_mem=[float(memory[0] * most)] * ranks,
            cost_f=[f] * ranks,
            cost_b=[b] * ranks,
            cost_w=[w] * ranks,
            cost_comm=send,
            n_stages=ranks,
            n_micro=count,
        )
        graph = peers.zb.Graph.build_graph(ranks, count, config)
        _, ends, _ = graph.manual_order(early, eager, fill)
        orders: Orders = []
        for rank in range(ranks):
            steps = list(product(KINDS, [rank], range(count)))
            when = [ends[graph.get_id(KINDS.index(kind), at, i)] for kind, at, i in steps]
            orders.append([step for _, step in sorted(zip(when, steps, strict=True))])
        yield orders


def zbv(peers: SimpleNamespace, ranks: int, count: int, ticks: list[int]) -> Iterator[Orders]:
    """What their heuristic of ZB-V chooses among."""
    for memory, fills in product(MEMORIES, product((True, False), repeat=2)):
        graph = peers.zbv.PipelineGraph(ranks, count, *ticks, *memory)
        made, _, _ = graph.try_v_schedule(*fills)
        yield [
            [(KINDS[kind], stage_of(rank, turn, kind, ranks), i) for kind, turn, i in own]
            for rank, own in enumerate(made)
        ]


def squeezed(
    peers: SimpleNamespace, ranks: int, count: int, ticks: list[int], memory: str
) -> Orders:
    """V-Half and V-Min: a pattern, repeated and squeezed; there is one."""
    graph = peers.zbv_greedy.PipelineGraph(ranks, count, memory, *ticks)
    made = graph.create_schedule(SimpleNamespace(n_stages=ranks, max_chunks=2))
    return [
        [(Kind[node.type.name], node.layer_group_idx, node.microbatch) for node in own]
        for own in made
    ]


def stage_of(rank: int, turn: int, kind: int, ranks: int) -> int:
    """The stage of a rank's first or second F (or B, or W: those go the other way) in a V."""
    return rank if (turn == 0) == (kind == 0) else 2 * ranks - 1 - rank


def lines_of(ranks: int, count: int, chunks: bool) -> Lines:
    """The lines of work of a pipeline, in a V if it has two chunks a rank."""
    held = [*range(ranks), *(reversed(range(ranks)) if chunks else ())]
    placement = Placement(ranks, (Flow("main", count, tuple(held)),))
    steps = product(enumerate(held), KINDS)
    return Lines(
        placement, tuple(Line(kind, 0, stage, rank, count, -1) for (stage, rank), kind in steps)
    )


def sequence(lines: Lines, orders: Orders) -> list[int]:
    """The lines of all ranks' steps, each after what it needs."""
    number = {(line.kind, line.stage): at for at, line in enumerate(lines.lines)}
    arrived = [line.total if at in lines.first else 0 for at, line in enumerate(lines.lines)]
    done = [0] * len(lines.lines)
    at = [0] * len(orders)
    found: list[int] = []
    while len(found) < lines.size:
        before = len(found)
        for rank, own in enumerate(orders):
            while at[rank] < len(own):
                kind, stage, i = own[at[rank]]
                line = number[kind, stage]
                assert i == done[line], "their microbatches are in order"
                if arrived[line] <= i:
                    break
                found.append(line)
                done[line] += 1
                at[rank] += 1
                for later in lines.after[line]:
                    arrived[later] += 1
        assert len(found) > before, "their orders run to the end"
    return found


def peak(orders: Orders) -> int:
    """The most stages that a rank holds, each from its F to its W."""
    return max(max(accumulate(HELD.get(kind, 0) for kind, _, _ in own)) for own in orders)


def front(points: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Of (peak, makespan) those that nothing beats in both."""
    shortest = None
    for held, length in sorted(points):
        if shortest is None or length < shortest:
            shortest = length
            yield held, length


if __name__ == "__main__":
    main()
