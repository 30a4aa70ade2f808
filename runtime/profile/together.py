"""Work of all ranks between steps: whatever fails on one of them is heard by all."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from pipec.runtime.errors import PipelineError
from pipec.runtime.inside import Inside

Result = TypeVar("Result")


def together(inside: Inside, doing: str, job: Callable[[], Result]) -> list[Result]:
    """What a job gives on each rank; called by all of them.

    Where it fails on this rank, raises what it raised; where on another one, `PipelineError`.
    """
    failed: Exception | None = None
    mine: Result | None = None
    try:
        mine = job()
    except Exception as error:
        failed = error
    said: list[Any] = [None] * inside.plan.ranks
    dist.all_gather_object(said, (mine, failed and _words(failed)), group=inside.group)
    if failed is not None:
        raise failed
    for rank, (_, words) in enumerate(said):
        if words:
            raise PipelineError(f"rank {rank} cannot {doing}", found=words)
    return [result for result, _ in said]


def talking(inside: Inside, job: Callable[[], Result]) -> Result:
    """Runs a job in which ranks wait for each other: where it fails, none of them waits on.

    The pipeline ends with it, as it does when an instruction fails.
    """
    try:
        return job()
    except Exception as error:
        first = inside.fail(f"rank {inside.rank} failed between steps: {_words(error)}")
        if first.rank != inside.rank:
            raise PipelineError(first.message) from error
        raise


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
