"""What the members of an expert group must have in common: the order of their all-to-alls."""

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist

from pipec.program.plan import Plan
from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.exchange import Exchange


def agree_on_exchanges(exchanges: Iterable[Exchange], plan: Plan, rank: int) -> None:
    """Make sure that all members of each group run the same stream: rank `rank` of `plan`.

    Otherwise their all-to-alls would wait for each other, or take each other's tokens. Called by
    all members. Raises `PipelineError` on all of them.
    """
    for exchange in exchanges:
        if exchange.group is None or exchange.size == 1:
            continue
        said: list[Any] = [None] * exchange.size
        dist.all_gather_object(said, (plan.digest, rank), group=exchange.group)
        other = next((member for member, one in enumerate(said) if one != said[0]), None)
        if other is not None:
            digests = [f"rank {at} of plan {digest[:16]}" for digest, at in said]
            raise PipelineError(
                "the members of an expert group would issue their all-to-alls in different orders",
                expected=f"{digests[0]} (the first member's) on all of them",
                found=f"{digests[other]} on member {other}",
                hint="give every pipeline the same plan, and group ranks that stand at the same "
                "place in their pipelines",
            )
