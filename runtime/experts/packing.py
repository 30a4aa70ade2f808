"""Rows of several tensors as rows of bytes, so that they travel as one message."""

from collections.abc import Sequence

import torch
from torch import Tensor

Column = tuple[int, torch.dtype]
"""How many numbers a row has, and their type."""

_ALIGNMENT = 8
"""Bytes: a column begins where any type may begin."""


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors `[rows, ...]` side by side as bytes `[rows, width]`."""
    columns = [(part.shape[1], part.dtype) for part in parts]
    packed = torch.empty(
        parts[0].shape[0], width_of(columns), dtype=torch.uint8, device=parts[0].device
    )
    for part, (begin, end) in zip(parts, _places(columns), strict=True):
        packed[:, begin:end] = part.contiguous().view(torch.uint8)
    return packed


def unpack(packed: Tensor, columns: Sequence[Column]) -> list[Tensor]:
    """The tensors that were packed, as views of the bytes."""
    return [
        packed[:, begin:end].view(dtype)
        for (begin, end), (_, dtype) in zip(_places(columns), columns, strict=True)
    ]


def width_of(columns: Sequence[Column]) -> int:
    """Bytes of a row."""
    return sum(_padded(numbers * dtype.itemsize) for numbers, dtype in columns)


def _places(columns: Sequence[Column]) -> list[tuple[int, int]]:
    places, begin = [], 0
    for numbers, dtype in columns:
        size = numbers * dtype.itemsize
        places.append((begin, begin + size))
        begin += _padded(size)
    return places


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
