"""The process groups of a pipeline: made by all of its ranks in one order, used by nothing else."""

import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pipec.runtime.errors import PipelineError
from pipec.runtime.strict import StrictWire
from pipec.runtime.wires import GroupWire, Wire
from torch.distributed import ProcessGroup, Store

from pipec.program.graph import Channels, Topology
from pipec.program.plan import Plan

FOREVER = timedelta(days=30)
"""The timeout of the groups: the pipeline's own watchdog is faster and knows more."""


def store_of(group: ProcessGroup) -> Store:
    """The key-value store that the processes of a group share.

    Not a clone of it: connecting anew took 5 s now and then (torch 2.13). Only calls that return at
    once are made on it, since a client that waits blocks all threads that use it.
    """
    return dist.distributed_c10d._get_process_group_store(group)


def global_ranks(group: ProcessGroup) -> list[int]:
    """The global rank of each rank of the pipeline."""
    return dist.get_process_group_ranks(group)


def make_group(members: list[int], parent: ProcessGroup) -> ProcessGroup:
    """A new group of some ranks (global numbers); only they call this, all in one order."""
    backend = dist.get_backend(parent)
    return dist.new_group(members, FOREVER, backend, use_local_synchronization=True)


def default_topology(group: ProcessGroup) -> Topology:
    """What the wires of a group are like unless said otherwise: gloo has tags, NCCL does not."""
    return "tagged" if dist.get_backend(group) == "gloo" else "pair"


def make_wire(
    group: ProcessGroup, channels: Channels, plan: Plan
) -> tuple[Wire, list[ProcessGroup]]:
    """The wire of this rank, and the groups that it goes over."""
    backend, rank = dist.get_backend(group), dist.get_rank(group)
    if backend != "gloo" and channels.topology == "tagged":
        raise PipelineError(
            f"channels `tagged` on {backend}",
            expected="`pair`, `directed` or `rank`",
            hint=f"{backend} matches messages by order and ignores tags",
        )
    if backend != "gloo":
        return _native_wire(group, channels.topology, plan)
    own = make_group(global_ranks(group), group)
    if channels.topology != "tagged":
        return StrictWire(own, rank, channels), [own]
    every = {(a, b): (own, b if a == rank else a) for a, b in _pairs(plan) if rank in (a, b)}
    return GroupWire(rank, every), [own]


def _pairs(plan: Plan) -> list[tuple[int, int]]:
    """The directed pairs of ranks that exchange messages, in one order."""
    program = plan.program
    wired = program.peer >= 0
    pairs = set(zip(program.rank[wired].tolist(), program.peer[wired].tolist(), strict=True))
    return sorted(pairs | {(b, a) for a, b in pairs})


def _native_wire(
    group: ProcessGroup, topology: Topology, plan: Plan
) -> tuple[GroupWire, list[ProcessGroup]]:
    """Communicators as the topology says: one for all, per pair, or per directed pair."""
    rank, ranks = dist.get_rank(group), global_ranks(group)
    made: dict[tuple[int, ...], ProcessGroup] = {}
    groups: dict[tuple[int, int], tuple[ProcessGroup, int]] = {}
    everyone = tuple(range(len(ranks)))
    for a, b in _pairs(plan):
        members = everyone if topology == "rank" else (min(a, b), max(a, b))
        if rank not in members:
            continue
        key: tuple[int, ...] = (a, b) if topology == "directed" else members
        if key not in made:
            made[key] = make_group([ranks[member] for member in members], group)
            _warm_up(made[key])
        if rank in (a, b):
            groups[a, b] = (made[key], members.index(b if a == rank else a))
    return GroupWire(rank, groups), list(made.values())


def _warm_up(group: ProcessGroup) -> None:
    """Make the communicator now, in one order on all ranks: made lazily, it can deadlock."""
    dist.barrier(group)


def sum_groups(group: ProcessGroup, plan: Plan) -> dict[int, ProcessGroup]:
    """For each stage of this rank that another rank holds too, the group of the two.

    Checked once by summing rank numbers: groups made in different orders would sum wrong ranks.
    """
    rank, ranks = dist.get_rank(group), global_ranks(group)
    made: dict[tuple[int, ...], ProcessGroup] = {}
    groups: dict[int, ProcessGroup] = {}
    twice = {holders for holders in plan.program.placement.copies if len(holders) == 2}
    for holders in sorted(holders for holders in twice if rank in holders):
        made[holders] = make_group([ranks[holder] for holder in holders], group)
        _check_sum(made[holders], holders, rank)
    for stage, owners in enumerate(plan.program.placement.copies):
        if owners in made:
            groups[stage] = made[owners]
    return groups


def _check_sum(group: ProcessGroup, holders: tuple[int, ...], rank: int) -> None:
    on_host = dist.get_backend(group) == "gloo"
    device = torch.device("cpu") if on_host else torch.accelerator.current_accelerator()
    total = torch.tensor(float(rank), device=device)
    dist.all_reduce(total, group=group)
    if int(total) != sum(holders):
        raise PipelineError(
            f"the group of ranks {holders} sums other ranks",
            expected=str(sum(holders)),
            found=str(int(total)),
            hint="make process groups in the same order on every rank",
        )


@dataclass(frozen=True)
class Agreement:
    """What the ranks of a pipeline know of each other from the start."""

    token: str
    """A name that no other pipeline has."""
    hosts: tuple[str, ...]
    """The host of each rank."""


def agree(group: ProcessGroup, plan: Plan) -> Agreement:
    """Make sure that all ranks execute the same plan. Raises `PipelineError` on all if not."""
    mine = (plan.digest, secrets.token_hex(8), platform.node())
    said: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(said, mine, group=group)
    digests = [digest for digest, _, _ in said]
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise PipelineError(
            "the ranks do not have the same plan",
            expected=f"digest {digests[0][:16]} (rank 0's) everywhere",
            found=", ".join(f"{digests[rank][:16]} on rank {rank}" for rank in different[:4]),
            hint="give every rank the same plan file, or compile with the same arguments",
        )
    return Agreement(said[0][1], tuple(host for _, _, host in said))


def by_stage(groups: Mapping[int, ProcessGroup], plan: Plan, ranks: list[int]) -> dict[int, int]:
    """For each stage held twice, the global rank of its lower holder."""
    return {stage: ranks[plan.program.placement.copies[stage][0]] for stage in groups}
