"""The library's orders equal those of the systems that published them."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.pipelining._schedule_visualizer import get_schedule_ops

from pipec.compiler import build

ORACLES = Path(__file__).parent.parent / "oracles"


def order_of(name: str, **parameters: int) -> list[list[tuple[Any, ...]]]:
    """Per rank (kind, flow, stage, microbatch), a pair as (first, second)."""
    order: list[list[tuple[Any, ...]]] = []
    for stream in build(name, parameters).program:
        order.append([])
        for kind, flow, stage, microbatch, peer, tied, *_ in stream:
            if peer is not None:
                continue
            operation: tuple[Any, ...] = (kind.name, flow, stage, microbatch)
            order[-1].append((order[-1].pop(), operation) if tied else operation)
    return order


@pytest.mark.parametrize("file", sorted(ORACLES.glob("*.json")), ids=lambda file: file.stem)
def test_dualpipe_equals_what_deepseek_runs(file: Path) -> None:
    """The order is the one recorded from DeepSeek's own code, operation by operation."""
    name, ranks, microbatches = file.stem.split("-")
    sizes = {"P": int(ranks[1:]), "M": int(microbatches[1:])}
    recorded = json.loads(file.read_text())

    def chunk(rank: int, operation: tuple[Any, ...]) -> list[Any]:
        if isinstance(operation[0], tuple):
            return ["FB", *(chunk(rank, half) for half in operation)]
        kind, flow, stage, microbatch = operation
        number = {"down": 0, "up": 1}.get(flow, int(stage != rank))
        return [kind, number, microbatch]

    for rank, order in enumerate(order_of(name, **sizes)):
        assert [chunk(rank, operation) for operation in order] == recorded[str(rank)]


TORCH = {
    "gpipe": ("GPipe", [{}]),
    "1f1b": ("1F1B", [{}]),
    "interleaved": ("Interleaved1F1B", [{"v": 2}, {"v": 3}, {"v": 4}]),
    "loopedbfs": ("LoopedBFS", [{"v": 2}, {"v": 3}]),
    "interleavedzb": ("InterleavedZeroBubble", [{"v": 2}, {"v": 3}]),
    "zbv": ("ZBVZeroBubble", [{}]),
    "dualpipev": ("DualPipeV", [{}]),
}
LEAST = {"zbv": lambda ranks: 2 * ranks - 1, "dualpipev": lambda ranks: 2 * ranks}
NAMES = {"FORWARD": "F", "BACKWARD_INPUT": "B", "BACKWARD_WEIGHT": "W", "FULL_BACKWARD": "BW"}


def torch_order(name: str, ranks: int, count: int, chunks: int) -> list[list[tuple[Any, ...]]]:
    """torch's order in our words (it writes I for B and B for BW)."""

    def one(action: Any) -> tuple[Any, ...]:
        if action.sub_actions:
            return tuple(one(part) for part in action.sub_actions)
        kind = NAMES[action.computation_type.name]
        return (kind, "main", action.stage_index, action.microbatch_index)

    per_rank = get_schedule_ops(name, ranks, count, num_stages_per_rank=chunks, with_comms=False)
    return [[one(action) for action in row if _computes(action)] for row in per_rank]


def _computes(action: Any) -> bool:
    """Whether a cell is work of the schedule: not a gap, not FSDP's REDUCE_GRAD and the like."""
    return action is not None and (
        action.sub_actions is not None or action.computation_type.name in NAMES
    )


FACTORS = {2: (1, 2, 3, 4, 6), 3: (1, 2, 3, 4, 6), 4: (1, 2, 3, 6), 6: (1, 2), 8: (1, 3)}
"""For each P the multiples of it that M is."""


@pytest.mark.parametrize("name", TORCH)
def test_orders_equal_torch(name: str) -> None:
    """At every P and M of the table, each operation stands where torch 2.13 puts it."""
    peer, variants = TORCH[name]
    for ranks, factors in FACTORS.items():
        for count in (ranks * factor for factor in factors):
            if count < LEAST.get(name, lambda _: 0)(ranks):
                continue
            for variant in variants:
                chunks = variant.get("v", 2 if name in LEAST else 1)
                ours = order_of(name, P=ranks, M=count, **variant)
                theirs = torch_order(peer, ranks, count, chunks)
                if name == "1f1b":
                    theirs[-1] = [_lowered(operation) for operation in theirs[-1]]
                assert ours == theirs, (ranks, count, variant)


def _lowered(operation: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch 2.13 lists F1..FM on the last rank of 1F1B, where F0..F(M-1) is meant."""
    kind, flow, stage, microbatch = operation
    return (kind, flow, stage, microbatch - (kind == "F"))
