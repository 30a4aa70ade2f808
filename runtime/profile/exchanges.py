"""All-to-all times: one forward of each opened stage, its expert group beginning together."""

import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial

from pipec.program.program import Program
from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.exchange import Exchange
from pipec.runtime.experts.measure import exchange_times
from pipec.runtime.experts.stage import ExpertStage
from pipec.runtime.groups import store_of
from pipec.runtime.inside import Inside
from pipec.runtime.profile.sizes import Given
from pipec.runtime.profile.together import talking, together

PATIENCE = 60.0
"""Seconds in which the other members of an expert group come to measure with this one."""

Times = dict[str, dict[int, list[float]]]
"""Milliseconds per `dispatch` or `combine` and stage, from each rank that holds the stage."""


def all_to_all_times(inside: Inside, given: Mapping[int, Given]) -> Times:
    """What all-to-alls of opened chunks take (see `exchange_times`), one rank after the other.

    given: for each stage of this rank the input of a microbatch. Called by all ranks between steps,
    in all pipelines that share experts.
    """
    times: Times = defaultdict(lambda: defaultdict(list))
    for turn in range(inside.plan.ranks if travels(inside.plan.program) else 0):
        mine = given if turn == inside.rank else {}
        job = partial(_stages, inside, mine)
        for stage, found in together(inside, "time all-to-alls", job)[turn].items():
            for name, took in found.items():
                times[name][stage].append(took)
    return times


def travels(program: Program) -> bool:
    """Whether the plan opens chunks that have all-to-alls."""
    return any(part.wire is not None for parts in program.placement.layouts for part in parts)


def _stages(inside: Inside, given: Mapping[int, Given]) -> dict[int, dict[str, float]]:
    """Those of this rank's stages."""
    found: dict[int, dict[str, float]] = {}
    for stage, module in sorted(inside.stages.items()):
        if isinstance(module, ExpertStage) and stage in given:
            _gather(module.exchange)
            with given[stage].context():
                timed = partial(exchange_times, module, given[stage].inputs)
                found[stage] = talking(inside, timed)
    return found


def _gather(exchange: Exchange) -> None:
    """Wait until all members are here, and not forever: the other pipelines may have no profile.

    Raises `PipelineError`.
    """
    if exchange.group is None:
        return
    store = store_of(exchange.group)
    key, deadline = "pipec/profile", time.monotonic() + PATIENCE
    wanted = -(-store.add(key, 1) // exchange.size) * exchange.size
    while store.add(key, 0) < wanted:
        if time.monotonic() > deadline:
            store.add(key, -1)
            raise PipelineError(
                "the other members of an expert group do not measure their all-to-alls",
                expected="a Profile in every pipeline, and `measure` or `save` called by all ranks",
                found=f"nobody came within {PATIENCE:g} s",
            )
        time.sleep(0.002)
