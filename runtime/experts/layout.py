"""Which ranks share what: pipelines, expert groups, and copies of the data-parallel kind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.stage import ExpertStage

AXES = ("pipeline", "data", "expert")
"""The names of a mesh's dimensions."""


@dataclass(frozen=True)
class Layout:
    """The process groups of one rank; ranks of an expert group are at the same pipeline rank.

    shared: the ranks that hold the same attention, router, shared expert and embedding, which are
        those of all expert and data groups at this pipeline rank.
    """

    pipeline: ProcessGroup
    expert: ProcessGroup
    data: ProcessGroup
    shared: ProcessGroup

    def equalise(self, stages: Mapping[int, nn.Module]) -> None:
        """Give ranks that hold the same parameter or buffer the first one's, at the start."""
        for stage in _ordered(stages):
            replicated, sharded = _parameters(stage)
            for tensor in (*replicated, *stage.buffers()):
                _copy(tensor, self.shared)
            for tensor in sharded:
                _copy(tensor, self.data)

    def average_gradients(self, stages: Mapping[int, nn.Module]) -> None:
        """After a step: gradients as of one batch that all ranks of `shared` had parts of.

        Replicated parameters are summed over `shared`, experts over `data` alone, since all tokens
        of an expert group have reached them already; both are divided by the size of `shared`.
        """
        ranks = self.shared.size()
        replicated, sharded = [], []
        for stage in _ordered(stages):
            both = _parameters(stage)
            replicated += both[0]
            sharded += both[1]
        _sum(replicated, self.shared, ranks)
        _sum(sharded, self.data, ranks)


def make_layout(mesh: DeviceMesh) -> Layout:
    """The layout of a mesh with the dimensions `AXES`, in any order; called by all its ranks.

        mesh = init_device_mesh("cpu", (P, D, E), mesh_dim_names=("pipeline", "data", "expert"))

    "data" may be missing. Raises `PipelineError` for other dimensions.
    """
    names = mesh.mesh_dim_names or ()
    if not {"pipeline", "expert"} <= set(names) <= set(AXES):
        raise PipelineError(
            "the mesh does not say which ranks form pipelines and which share experts",
            expected=f"mesh_dim_names {AXES}, or without 'data'",
            found=str(names),
        )
    axes = [names.index(name) if name in names else None for name in AXES]
    ranks = mesh.mesh.permute([axis for axis in axes if axis is not None])
    if "data" not in names:
        ranks = ranks[:, None, :]
    pipelines, replicas, experts = ranks.shape
    return Layout(
        pipeline=_mine(ranks.permute(1, 2, 0).reshape(-1, pipelines)),
        expert=_mine(ranks.reshape(-1, experts)),
        data=_mine(ranks.permute(0, 2, 1).reshape(-1, replicas)),
        shared=_mine(ranks.reshape(pipelines, -1)),
    )


def _mine(groups: Tensor) -> ProcessGroup:
    """The group of this rank, one of `[groups, ranks]`, all of which are made by all ranks."""
    mine, _ = dist.new_subgroups_by_enumeration(groups.tolist())  # type: ignore[no-untyped-call]
    assert mine is not None
    return mine


def _ordered(stages: Mapping[int, nn.Module]) -> Iterable[nn.Module]:
    """Stages in the same order on all ranks of a group."""
    return [stages[stage] for stage in sorted(stages)]


def _parameters(stage: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those that all ranks of `shared` have, and those of experts."""
    sharded = list(stage.sharded()) if isinstance(stage, ExpertStage) else []
    apart = {id(parameter) for parameter in sharded}
    return [one for one in stage.parameters() if id(one) not in apart], sharded


def _copy(tensor: Tensor, group: ProcessGroup) -> None:
    with torch.no_grad():
        copy = tensor.detach().contiguous()
        dist.broadcast(copy, group=group, group_src=0)
        tensor.copy_(copy)


def _sum(parameters: Sequence[nn.Parameter], group: ProcessGroup, divisor: int) -> None:
    """Sum gradients over a group, in one message for each type, and divide them."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:  # as on ranks that no token of an expert reached
            parameter.grad = torch.zeros_like(parameter)
    for dtype in dict.fromkeys(parameter.dtype for parameter in trained):
        gradients = [one.grad for one in trained if one.dtype is dtype and one.grad is not None]
        if group.size() > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat, group=group)
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))
        torch._foreach_div_(gradients, divisor)
