"""What is checked before a pipeline is made, with the words for what is wrong."""

from collections.abc import Mapping
from inspect import signature

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from pipec.program.graph import Channels
from pipec.program.launches import uneven_launches
from pipec.program.plan import Plan
from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.opened import covers
from pipec.runtime.split import Split, SplitError
from pipec.verify.place import place


def group_of(group: ProcessGroup | None) -> ProcessGroup:
    """The group of the pipeline, the default one if none is given. Raises `PipelineError`."""
    if not dist.is_initialized():
        raise PipelineError(
            "torch.distributed is not initialised",
            hint="call torch.distributed.init_process_group() first, as under torchrun",
        )
    chosen = group or dist.group.WORLD
    assert chosen is not None
    if dist.get_rank(chosen) < 0:
        raise PipelineError(
            "this process is not in the group of the pipeline",
            hint="make the Pipeline only where the group's ranks run",
        )
    return chosen


def device_of(device: torch.device | str | None, stages: Mapping[int, nn.Module]) -> torch.device:
    """Where stages run: where the first parameter is, unless said otherwise."""
    if device is not None:
        return torch.device(device)
    for module in stages.values():
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                return parameter.device
    return torch.device("cpu")


def mistake_of(
    plan: Plan,
    stages: Mapping[int, nn.Module],
    group: ProcessGroup,
    device: torch.device,
    channels: Channels,
    reduction: str,
) -> PipelineError | None:
    """What keeps this rank from beginning, if anything does.

    Not raised here: the other ranks, where all may be well, have to hear of it first.
    """
    try:
        _check_size(plan, group)
        _check_stages(plan, stages, dist.get_rank(group))
        _check_slices(plan, stages)
        _check_parts(plan, stages)
        _check_device(device, channels)
        check_certified(plan, channels)
        _check_launches(plan, device, channels)
        if reduction not in ("mean", "sum"):
            raise PipelineError("unknown reduction", expected="mean or sum", found=repr(reduction))
    except PipelineError as mistake:
        return mistake
    return None


def splits_of(
    stages: Mapping[int, nn.Module],
) -> tuple[dict[int, Split], PipelineError | None]:
    """What runs F, B and W of each stage, or what is wrong with one of them."""
    splits = {}
    for stage, module in stages.items():
        try:
            splits[stage] = Split(module)
        except SplitError as mistake:
            (found,) = mistake.findings
            return splits, PipelineError(
                f"stage {stage}: {found.message}",
                expected=found.expected,
                found=found.found,
                hint=found.hint,
            )
    return splits, None


def _check_size(plan: Plan, group: ProcessGroup) -> None:
    size = dist.get_world_size(group)
    if size != plan.ranks:
        raise PipelineError(
            f"plan `{plan.name}` is for {plan.ranks} ranks",
            expected=f"a group of {plan.ranks} processes",
            found=str(size),
            hint=f"start {plan.ranks} processes, or compile with P={size}",
        )


def _check_stages(plan: Plan, stages: Mapping[int, nn.Module], rank: int) -> None:
    held, given = set(plan.stages(rank)), set(stages)
    if given != held:
        found = [f"stage {stage} is missing" for stage in sorted(held - given)]
        found += [f"stage {stage} belongs elsewhere" for stage in sorted(given - held)]
        raise PipelineError(
            f"the stages of rank {rank} are not those of the plan",
            expected=", ".join(f"stage {stage}" for stage in sorted(held)),
            found=", ".join(found),
            hint="make the modules of plan.stages(rank) and no others",
        )
    for stage, module in stages.items():
        if not isinstance(module, nn.Module):
            raise PipelineError(
                f"stage {stage} is not a module",
                expected="an nn.Module",
                found=type(module).__name__,
            )


def _check_parts(plan: Plan, stages: Mapping[int, nn.Module]) -> None:
    layouts = plan.program.placement.layouts
    for stage, module in stages.items():
        if layouts and len(layouts[stage]) > 1:
            covers(stage, module, layouts[stage])


def _check_slices(plan: Plan, stages: Mapping[int, nn.Module]) -> None:
    """Stages of a flow with slices are called with what the slice before has returned."""
    placement = plan.program.placement
    if not placement.sliced:
        return
    if placement.layouts:
        raise PipelineError(
            f"plan `{plan.name}` opens the chunks of a flow with slices",
            expected="whole chunks",
            hint="leave `chunk` lines out of the listing",
        )
    for stage, module in stages.items():
        known = signature(module.forward).parameters.values()
        if not any(one.name == "carried" or one.kind is one.VAR_KEYWORD for one in known):
            raise PipelineError(
                f"plan `{plan.name}` has slices, and stage {stage} carries nothing between them",
                expected="`forward(x, carried)`, which returns `output, carried`",
                found=f"`forward({', '.join(one.name for one in known)})`",
                hint="`carried` is None for the first slice of a sequence",
            )


def _check_device(device: torch.device, channels: Channels) -> None:
    if device.type == "cpu":
        return
    if channels.topology == "tagged":
        raise PipelineError(
            f"channels `tagged` on device `{device}`",
            expected="`pair`, `directed` or `rank`",
            hint="NCCL matches messages by order and ignores tags",
        )
    current = torch.accelerator.current_device_index()
    if device.index not in (None, current):
        raise PipelineError(
            f"the pipeline is for `{device}`, which is not the current device of this process",
            expected=f"{device.type}:{current}",
            found=str(device),
            hint=f"call torch.accelerator.set_device_index({device.index}) before making groups",
        )


def check_certified(plan: Plan, channels: Channels) -> None:
    """Raises `PipelineError` for a plan with findings, or one that these channels may hang."""
    if not plan.certificate.get("ok"):
        found = [str(one.get("code")) for one in plan.certificate.get("findings", [])]
        raise PipelineError(
            f"plan `{plan.name}` is not certified",
            expected="a plan without findings",
            found=", ".join(dict.fromkeys(found)) or "no certificate",
            hint="`pipec verify` shows what is wrong with it",
        )
    verdict = plan.certificate.get("channels", {}).get(channels.topology, {})
    needed = verdict.get("credits_needed")
    if needed is None or needed > channels.credits:
        raise PipelineError(
            f"plan `{plan.name}` is not certified for channels `{channels.topology}` with "
            f"{channels.credits} credits",
            expected="a topology that its certificate calls safe",
            found="deadlock" if needed is None else f"{needed} credits needed",
        )


def _check_launches(plan: Plan, device: torch.device, channels: Channels) -> None:
    """Launches are issued without credits, and on NCCL only where both ends are one launch.

    With tags they mean nothing.
    """
    if not plan.program.grouped or channels.topology == "tagged":
        return
    if channels.credits or (device.type != "cpu" and channels.topology == "directed"):
        raise PipelineError(
            f"plan `{plan.name}` has grouped launches, which these channels cannot issue",
            expected="channels without credits, on NCCL `pair` or `rank`; or a plan compiled "
            "without `--grouped`",
            found=f"`{channels.topology}` on {device.type}, {channels.credits} credits",
        )
    uneven = uneven_launches(plan.program).tolist() if device.type != "cpu" else []
    if uneven:
        where = place(plan.program, uneven[0])
        raise PipelineError(
            f"plan `{plan.name}` has a launch whose other ends are not one launch of one rank",
            expected="launches of messages with one rank, which issues their other ends as one: "
            "NCCL promises nothing else",
            found=f"{len(uneven)} messages in other launches",
            place=where,
            source=plan.program.origins.source,
        )
