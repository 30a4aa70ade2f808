"""Programs tried out on real processes, whatever the verifier says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from piped import assert_same, batch_of, gradients_of, loss_of, make_stage, unpipelined
from ranks import Answer, Ranks
from torch.distributed import ProcessGroup

from pipec import Channels
from pipec.compiler import Compiled, Settings, build, certify, plan_of
from pipec.program.plan import Plan
from pipec.runtime import Pipeline


def plan_of_listing(listing: str, path: Path, channels: Channels) -> tuple[Plan, bool]:
    """A plan whose certificate says that everything is safe, and what the verifier says."""
    path.write_text(listing)
    return pretending(build(str(path), {}), channels)


def pretending(compiled: Compiled, channels: Channels) -> tuple[Plan, bool]:
    """The same of a program that is built already."""
    certificate = certify(compiled, Settings(channels=channels))
    verdict = certificate.safety[channels.topology]
    needed = verdict.credits_needed
    plan = plan_of(compiled, certificate)
    pretended = {name: {"safe": True, "credits_needed": 0} for name in certificate.safety}
    said = {**plan.certificate, "ok": True, "channels": pretended}
    return replace(plan, certificate=said), needed is not None and needed <= channels.credits


def step(rank: int, group: ProcessGroup, plan: Plan, channels: Channels, timeout: float) -> int:
    """Two steps, each compared with the un-pipelined model; how many gradients were."""
    flows = plan.program.placement.flows
    count = sum(flow.microbatches for flow in flows)
    stages = {stage: make_stage(stage, flows[0].stages) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=loss_of, channels=channels, timeout=timeout)
    _, _, expected = unpipelined(flows[0].stages, count, torch.float64)
    compared = 0
    for _ in range(2):
        for module in stages.values():
            module.zero_grad()
        pipe.step(*batch_of(count))
        for stage, module in stages.items():
            compared += assert_same(gradients_of(module), expected[stage], 1e-10, f"stage {stage}")
    pipe.close()
    return compared


def attempt(ranks: Ranks, plan: Plan, channels: Channels, timeout: float) -> list[Answer]:
    """What comes of two steps on each rank; `timeout` is the watchdog's."""
    return ranks.answers(step, plan, channels, timeout, limit=timeout + 20)
