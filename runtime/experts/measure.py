"""How long the all-to-alls of a stage take, to be stated among costs."""

import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from pipec.runtime.experts.exchange import Exchange
from pipec.runtime.experts.layer import PARTS
from pipec.runtime.experts.parts import Parts
from pipec.runtime.experts.stage import ExpertStage


def exchange_times(stage: ExpertStage, inputs: Sequence[Any], repeats: int = 5) -> dict[str, float]:
    """Milliseconds that `dispatch` and `combine` take, as a trace gives those of compute.

    Medians over the stage's layers and `repeats` forwards, those of the slowest member. All members
    of the expert group call it, each with inputs as of one microbatch, and begin each all-to-all
    together: waiting for each other is not counted. `inputs`: what the stage takes. A stage without
    routed experts has no times.
    """
    parts, found = Parts(stage, 1), defaultdict[str, list[float]](list)
    with torch.no_grad(), stage.aside():
        for turn in range(repeats + 1):  # in the first one memory is allocated
            parts.begin(0, inputs)
            for part in range(parts.count):
                if not _travels(stage, parts, part):
                    parts.forward(part, 0)
                    continue
                took = _timed(parts, part)
                if turn:
                    found[parts.name(part)].append(took)
    return _slowest(stage.exchange, {name: median(times) for name, times in found.items()})


def _travels(stage: ExpertStage, parts: Parts, part: int) -> bool:
    return parts.name(part) in ("dispatch", "combine") and stage.layer(part // len(PARTS)).total > 0


def _timed(parts: Parts, part: int) -> float:
    exchange = parts.stage.exchange
    _settle()
    if exchange.group is not None:
        dist.barrier(exchange.group)
    begin = time.perf_counter()
    parts.forward(part, 0)
    parts.wait(0)
    _settle()
    return (time.perf_counter() - begin) * 1000


def _settle() -> None:
    """Nothing is under way on an accelerator."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _slowest(exchange: Exchange, times: dict[str, float]) -> dict[str, float]:
    """For each name the largest time of any member."""
    if exchange.group is None:
        return times
    every: list[Any] = [None] * exchange.size
    dist.all_gather_object(every, times, group=exchange.group)
    return {name: max(one[name] for one in every) for name in times}
