"""What crosses from one stage to the next: shapes, types, and which tensors need a gradient."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipec.runtime.errors import PipelineError


@dataclass(frozen=True)
class TensorSpec:
    """One tensor between two stages."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool = True

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{kind}{list(self.shape)}{'' if self.requires_grad else ' without gradient'}"

    def empty(self, device: torch.device) -> Tensor:
        """A buffer to receive into; a leaf of the graph where a gradient is needed."""
        return torch.empty(
            self.shape, dtype=self.dtype, device=device, requires_grad=self.requires_grad
        )


Specs = tuple[TensorSpec, ...]


def specs_of(tensors: Sequence[Tensor]) -> Specs:
    """The specs of tensors at hand."""
    return tuple(
        TensorSpec(tuple(tensor.shape), tensor.dtype, tensor.requires_grad) for tensor in tensors
    )


def declared(values: Sequence[TensorSpec | Tensor]) -> Specs:
    """Specs as users declare them: specs, or example tensors (also on the meta device)."""
    return tuple(
        value if isinstance(value, TensorSpec) else specs_of([value])[0] for value in values
    )


def tensors_of(output: Any, stage: int) -> tuple[Tensor, ...]:
    """What a stage returned, as a tuple of tensors. Raises `PipelineError` for anything else."""
    tensors = tuple(output) if isinstance(output, tuple | list) else (output,)
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            where = f"output {number}" if len(tensors) > 1 else "output"
            raise PipelineError(
                f"stage {stage} returned something that cannot be sent to the next stage",
                expected="a tensor or a tuple of tensors",
                found=f"{where} is of type {type(tensor).__name__}",
                hint="leave out what is not a tensor, or make it one (torch.tensor(...))",
            )
        if tensor.layout is not torch.strided:
            raise PipelineError(
                f"stage {stage} returned a tensor that cannot be sent to the next stage",
                expected="a dense tensor",
                found=str(tensor.layout),
            )
    return tensors


def encode(specs: Specs) -> str:
    """Specs as text, for the store."""
    return json.dumps(
        [[list(s.shape), str(s.dtype).removeprefix("torch."), s.requires_grad] for s in specs]
    )


def decode(text: str) -> Specs:
    """The inverse of `encode`."""
    return tuple(
        TensorSpec(tuple(shape), getattr(torch, dtype), requires_grad)
        for shape, dtype, requires_grad in json.loads(text)
    )


def wordy(specs: Specs) -> str:
    """Specs for a message."""
    return ", ".join(map(str, specs)) or "nothing"
