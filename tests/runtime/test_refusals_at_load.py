"""What a pipeline refuses at load: every rank says what is wrong and on which rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from piped import compiled, loss_of, make_stage
from ranks import Ranks
from refusing import Said, refused, stages_for
from torch import nn
from torch.distributed import ProcessGroup

from pipec import Channels
from pipec.compiler import Settings, build, certify, plan_of
from pipec.program.memory import Limit, Memory
from pipec.program.plan import Plan
from pipec.runtime import Pipeline, TensorSpec
from pipec.runtime.checks import check_certified
from pipec.runtime.errors import PipelineError

pytestmark = pytest.mark.slow


def badly_made(rank: int, group: ProcessGroup, mistake: str) -> Said:
    plan = compiled("interleaved" if mistake == "missing" else "1f1b", 2, 2)
    stages: dict[int, Any] = dict(stages_for(plan, rank))
    options: dict[str, Any] = {}
    if rank == 1:
        match mistake:
            case "missing":
                del stages[3]
            case "extra":
                stages[0] = make_stage(0, 2)
            case "no module":
                stages[1] = torch.tanh
            case "size":
                plan = compiled("1f1b", 3, 2)
            case "plan":
                plan = compiled("1f1b", 2, 3)
            case "reduction":
                options["reduction"] = "max"
            case "replicated":
                stages[1] = Replicated()
            case "shapes":
                options["shapes"] = {1: [TensorSpec((1,), torch.float32)]}
    if mistake == "shapes" and rank == 0:
        options["shapes"] = {1: [TensorSpec((2,), torch.float32)]}
    return refused(lambda: Pipeline(plan, stages, loss_fn=loss_of, group=group, **options))


class Replicated(nn.parallel.DistributedDataParallel):
    """One of the modules that a stage may not be, without what it takes to make one."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


@pytest.mark.parametrize(
    ("mistake", "message", "found"),
    [
        ("missing", "the stages of rank 1 are not those of the plan", "stage 3 is missing"),
        ("extra", "the stages of rank 1 are not those of the plan", "stage 0 belongs elsewhere"),
        ("no module", "stage 1 is not a module", "builtin_function_or_method"),
        ("size", "plan `1f1b` is for 3 ranks", "2"),
        ("reduction", "unknown reduction", "'max'"),
        (
            "replicated",
            "stage 1: module 'Replicated' of the stage",
            "reduces gradients",
        ),
    ],
)
def test_one_rank_is_wrong(four: Ranks, mistake: str, message: str, found: str) -> None:
    """What is wrong on one rank is said there, and the other one says where it was."""
    zero, one = four.run(badly_made, mistake, on=(0, 1))
    assert one[0] == message and found in str(one[2])
    assert zero[0].startswith("rank 1 cannot begin: ") and message in zero[0] and found in zero[0]


def test_different_plans(four: Ranks) -> None:
    """Ranks with different plans all say whose is different."""
    for message, expected, found, hint in four.run(badly_made, "plan", on=(0, 1)):
        assert message == "the ranks do not have the same plan"
        assert expected and expected.startswith(f"digest {compiled('1f1b', 2, 2).digest[:16]}")
        assert found == f"{compiled('1f1b', 2, 3).digest[:16]} on rank 1"
        assert hint


def test_different_shapes(four: Ranks) -> None:
    """Ranks that declare different shapes all say which stage it is."""
    for message, expected, found, _ in four.run(badly_made, "shapes", on=(0, 1)):
        assert message == "the ranks declare different shapes for the input of stage 1"
        assert (expected, found) == ("float32[2]", "float32[1] on rank 1")


def test_not_initialised() -> None:
    """Without torch.distributed, the error says what to call."""
    plan = compiled("1f1b", 2, 2)
    message, *_, hint = refused(lambda: Pipeline(plan, stages_for(plan, 0)))
    assert message == "torch.distributed is not initialised"
    assert hint and "init_process_group" in hint


def outsider(rank: int, group: ProcessGroup | None) -> Said | None:
    pair = dist.new_group([0, 1])
    if rank < 2:
        return None
    plan = compiled("1f1b", 2, 2)
    chosen = pair if isinstance(pair, ProcessGroup) else dist.GroupMember.NON_GROUP_MEMBER
    return refused(lambda: Pipeline(plan, {}, group=chosen))


def test_outside_the_group(four: Ranks) -> None:
    """A process that is not in the group is told so."""
    said = four.run(outsider)
    assert said[0] is None
    assert said[2] and said[2][0] == "this process is not in the group of the pipeline"


UNSAFE = """
ranks 2
flow main microbatches 2 ranks 0 1

rank 0:
    F     main 0 0
    F     main 0 1
    SEND  F main 1 0 -> 1
    SEND  F main 1 1 -> 1
    RECV  B main 0 0 <- 1
    BW    main 0 0
    RECV  B main 0 1 <- 1
    BW    main 0 1

rank 1:
    RECV  F main 1 0 <- 0
    F     main 1 0
    BW    main 1 0
    SEND  B main 0 0 -> 0
    RECV  F main 1 1 <- 0
    F     main 1 1
    BW    main 1 1
    SEND  B main 0 1 -> 0
"""


def plan_from(listing: str, path: Any, channels: Channels) -> Plan:
    """The plan of a listing, certified under channels."""
    path.write_text(listing)
    compiled_listing = build(str(path), {})
    certificate = certify(compiled_listing, Settings(channels=channels))
    return plan_of(compiled_listing, certificate)


def uncertified(rank: int, group: ProcessGroup, plan: Plan, channels: Channels) -> Said:
    stages = stages_for(plan, rank)
    return refused(lambda: Pipeline(plan, stages, loss_fn=loss_of, group=group, channels=channels))


def test_a_plan_with_findings() -> None:
    """Channels may be safe, and the plan be refused all the same."""
    good = build("1f1b", {"P": 2, "M": 2})
    nowait = good.program.nowait.copy()
    nowait[good.program.entries] = True
    hazardous = replace(good, program=replace(good.program, nowait=nowait))
    for settings, made, code in (
        (Settings(), hazardous, "hazard"),
        (Settings(memory=Memory(limit=Limit.of(1))), None, "memory-limit"),
    ):
        broken = made or build("1f1b", {"P": 2, "M": 2}, settings)
        plan = plan_of(broken, certify(broken, settings))
        assert plan.certificate["channels"]["pair"]["safe"]
        with pytest.raises(PipelineError, match="is not certified") as caught:
            check_certified(plan, Channels("pair"))
        assert caught.value.findings[0].found == code
    check_certified(plan_of(good, certify(good, Settings())), Channels("pair"))


def test_uncertified_topology(four: Ranks, tmp_path: Any) -> None:
    """Channels under which the plan may hang are refused, with the credits that would do."""
    plan = plan_from(UNSAFE, tmp_path / "unsafe.listing", Channels("directed"))
    needed = plan.certificate["channels"]["pair"]["credits_needed"]
    assert needed
    for message, _, found, _ in four.run(uncertified, plan, Channels("pair"), on=(0, 1)):
        assert "is not certified for channels `pair` with 0 credits" in message
        assert found == f"{needed} credits needed"
