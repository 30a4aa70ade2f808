"""A batch -> microbatches: tensors are cut along their first dimension, and into slices along their
second one; lists are taken as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipec.runtime.errors import PipelineError

Microbatch = tuple[Any, ...]


def microbatches(batch: Any, count: int, what: str, slices: int = 1) -> list[Microbatch]:
    """Cut a batch into `count` equal microbatches, each a tuple of what the stage is called with.

    batch: a tensor or a tuple of tensors (cut along dimension 0, and along dimension 1 if `slices`
    of them are one sequence; None stays None), or a list of `count` microbatches, each a tensor or
    a tuple. Raises `PipelineError`.
    """
    if isinstance(batch, list):
        if len(batch) != count:
            raise PipelineError(
                f"the list of {what} has the wrong length",
                expected=f"{count} microbatches, those of all flows together",
                found=str(len(batch)),
            )
        return [part if isinstance(part, tuple) else (part,) for part in batch]
    parts = batch if isinstance(batch, tuple) else (batch,)
    cut = [_cut(part, count, what, slices) for part in parts]
    return [tuple(column[number] for column in cut) for number in range(count)]


def _cut(part: Any, count: int, what: str, slices: int) -> Sequence[Any]:
    if part is None:
        return [None] * count
    if not isinstance(part, Tensor):
        raise PipelineError(
            f"the {what} cannot be cut into microbatches",
            expected="a tensor, a tuple of tensors, or a list of microbatches",
            found=type(part).__name__,
        )
    if slices == 1:
        return _equal(part, count, what, 0)
    sequences = _equal(part, count // slices, what, 0)
    return [piece.contiguous() for one in sequences for piece in _equal(one, slices, what, 1)]


def _equal(tensor: Tensor, count: int, what: str, dimension: int) -> Sequence[Tensor]:
    """Equal pieces along the first dimension, or slices along the second."""
    size = tensor.shape[dimension] if tensor.dim() > dimension else 0
    if size == 0 or size % count:
        pieces, which = (("microbatches", "first"), ("slices", "second"))[dimension]
        raise PipelineError(
            f"the {what} cannot be cut into {count} equal {pieces}",
            expected=f"a {which} dimension that {count} divides",
            found=f"shape {tuple(tensor.shape)}",
            hint="drop or pad the rest of the batch, or give a list of microbatches",
        )
    return torch.chunk(tensor, count, dimension)
