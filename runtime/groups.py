"""What the ranks of a pipeline agree on at load, and the links that its messages and sums take."""

import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup, Store

from pipec.program.effects import Kind
from pipec.program.graph import Channels, Topology
from pipec.program.plan import Plan
from pipec.runtime.errors import PipelineError
from pipec.runtime.launches import LaunchWire
from pipec.runtime.links import Link, Linker
from pipec.runtime.specs import Specs, wordy
from pipec.runtime.strict import StrictWire
from pipec.runtime.wires import LinkWire, Wire


@dataclass(frozen=True)
class Agreement:
    """What the ranks of a pipeline know of each other from the start."""

    token: str
    """A name that no other pipeline has."""
    hosts: tuple[str, ...]
    """The host of each rank."""
    shapes: Mapping[int, Specs]
    """What any rank has declared of the inputs of stages."""


def agree(
    group: ProcessGroup, plan: Plan, shapes: Mapping[int, Specs], mistake: PipelineError | None
) -> Agreement:
    """Make sure that all ranks can begin, and with the same plan. Raises `PipelineError` on all.

    mistake: what is wrong on this rank alone; told to the others, which would wait for it in vain.
    """
    said: list[Any] = [None] * dist.get_world_size(group)
    told = None if mistake is None else str(mistake)
    mine = (told, plan.digest, shapes, secrets.token_hex(8), platform.node())
    dist.all_gather_object(said, mine, group=group)
    mistakes, digests, declared, tokens, hosts = zip(*said, strict=True)
    if mistake is not None:
        raise mistake
    for rank, other in enumerate(mistakes):
        if other is not None:
            raise PipelineError(f"rank {rank} cannot begin: {other}")
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise PipelineError(
            "the ranks do not have the same plan",
            expected=f"digest {digests[0][:16]} (rank 0's) everywhere",
            found=", ".join(f"{digests[rank][:16]} on rank {rank}" for rank in different[:4]),
            hint="give every rank the same plan file, or compile with the same arguments",
        )
    return Agreement(tokens[0], hosts, _together(declared))


def _together(declared: tuple[Mapping[int, Specs], ...]) -> Mapping[int, Specs]:
    """What all ranks have declared; both sides of a boundary have to know it."""
    together: dict[int, Specs] = {}
    for rank, shapes in enumerate(declared):
        for stage, specs in shapes.items():
            if together.setdefault(stage, specs) != specs:
                raise PipelineError(
                    f"the ranks declare different shapes for the input of stage {stage}",
                    expected=wordy(together[stage]),
                    found=f"{wordy(specs)} on rank {rank}",
                )
    return together


def store_of(group: ProcessGroup) -> Store:
    """The key-value store that the processes of a group share.

    Not a clone of it: connecting anew took 5 s now and then (torch 2.13). Once training has begun
    only calls that return at once are made on it, since a client that waits blocks all threads that
    use it.
    """
    return dist.distributed_c10d._get_process_group_store(group)


def default_topology(device: torch.device) -> Topology:
    """What the wires of a device are like unless said otherwise: gloo has tags, NCCL does not."""
    return "tagged" if device.type == "cpu" else "pair"


def make_wire(linker: Linker, channels: Channels, plan: Plan) -> tuple[Wire, list[Link]]:
    """The wire of this rank, and the links that it goes over."""
    if linker.device.type != "cpu":
        return _native_wire(linker, channels.topology, plan)
    own = linker.link("all", range(plan.ranks))
    if channels.topology != "tagged":
        return StrictWire(own, linker.rank, channels), [own]
    return LinkWire(linker.rank, dict.fromkeys(_pairs(plan, linker.rank), own)), [own]


def _pairs(plan: Plan, rank: int) -> list[tuple[int, int]]:
    """The directed pairs of ranks, one of them `rank`, that exchange messages; in one order."""
    program = plan.program
    wired = program.peer >= 0
    pairs = set(zip(program.rank[wired].tolist(), program.peer[wired].tolist(), strict=True))
    return sorted(pair for pair in pairs | {(b, a) for a, b in pairs} if rank in pair)


def _native_wire(linker: Linker, topology: Topology, plan: Plan) -> tuple[Wire, list[Link]]:
    """Communicators as the topology says: one for all, per pair, or per directed pair.

    NCCL makes a communicator when it is first used, and the queue of a pair at its first message.
    All are made here, in one order on all ranks: made in the order in which streams come to them,
    they could wait for each other. Launches use that of the collectives, which all members make.
    """
    made: dict[str, Link] = {}
    links: dict[tuple[int, int], Link] = {}
    wire: Wire = (LaunchWire if plan.program.grouped else LinkWire)(linker.rank, links)
    if topology == "rank":
        made["all"] = _begun(linker.link("all", range(plan.ranks)), linker, plan)
    for source, destination in _pairs(plan, linker.rank):
        ends = (source, destination) if topology == "directed" else sorted((source, destination))
        name = "all" if topology == "rank" else f"{topology}/{ends[0]}-{ends[1]}"
        if name not in made:
            made[name] = _begun(linker.link(name, sorted(ends)), linker, plan)
        links[source, destination] = made[name]
        first = torch.zeros(1, device=linker.device)
        if linker.rank == source:
            wire.sender(destination)([first], 0).wait()
        else:
            wire.receiver(source)([first], 0).wait()
    return wire, list(made.values())


def _begun(link: Link, linker: Linker, plan: Plan) -> Link:
    """A link whose members have all used it once, if it is for launches."""
    if plan.program.grouped:
        link.sum(torch.zeros(1, device=linker.device)).wait()
    return link


def sum_links(linker: Linker, plan: Plan) -> dict[int, Link]:
    """For each stage of this rank that another rank holds too, the link of the two.

    In the order in which the stages are summed.
    Tried once by summing the ranks' numbers: a link that sums other ranks would corrupt silently.
    """
    copies = plan.program.placement.copies
    twice = {holders for holders in copies if len(holders) == 2 and linker.rank in holders}
    made: dict[tuple[int, ...], Link] = {
        holders: linker.link(f"sum/{holders[0]}-{holders[1]}", holders) for holders in sorted(twice)
    }
    for holders, link in made.items():
        total = torch.tensor(float(linker.rank), device=linker.device)
        link.sum(total).wait()
        if int(total) != sum(holders):
            raise PipelineError(
                f"the link of ranks {holders} sums other ranks",
                expected=str(sum(holders)),
                found=str(int(total)),
            )
    return {stage: made[copies[stage]] for stage in _summed(plan, linker.rank)}


def _summed(plan: Plan, rank: int) -> list[int]:
    """The stages that a rank sums with another one, in the order of its stream."""
    program = plan.program
    rows = np.arange(program.start[rank], program.start[rank + 1])
    return list(program.operation[rows[program.kind[rows] == Kind.SUM]].tolist())
