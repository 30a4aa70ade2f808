"""The boundary before a stage: what its input looks like, found out at the first microbatch."""

import time
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributed import Store

from pipec.runtime.errors import PipelineError
from pipec.runtime.specs import Specs, decode, encode, specs_of, wordy


class Boundary:
    """The input of one stage of one flow, as seen by the rank before it and by the rank of it.

    The rank before learns the specs from its first output and publishes them; the rank of the stage
    reads them when it first needs a buffer. Gradients that go back have the specs of those tensors
    that need one.
    """

    __slots__ = ("_device", "_failed", "_key", "_store", "needing", "specs", "stage")

    def __init__(
        self,
        stage: int,
        key: str,
        store: Store | None,
        device: torch.device,
        specs: Specs | None,
        failed: Callable[[], bool],
    ):
        """failed: whether the pipeline has failed, so that nobody will publish any more."""
        self.stage = stage
        self._key = key
        self._store = store
        self._device = device
        self._failed = failed
        self.specs: Specs | None = None
        self.needing: tuple[int, ...] = ()
        if specs is not None:
            self._set(specs)

    def _set(self, specs: Specs) -> None:
        self.specs = specs
        self.needing = tuple(i for i, spec in enumerate(specs) if spec.requires_grad)

    @property
    def size(self) -> int:
        """Bytes of one message through the boundary; 0 while its shape is not known."""
        return sum(prod(spec.shape) * spec.dtype.itemsize for spec in self.specs or ())

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Learn from the first output, or compare a later one. Raises `PipelineError`."""
        specs = self.specs
        if specs is None:
            self._set(specs_of(tensors))
            if self._store is not None:
                self._store.set(self._key, encode(self.specs or ()))
            return
        if len(tensors) == len(specs):
            for tensor, spec in zip(tensors, specs, strict=True):
                if (
                    tensor.shape != spec.shape
                    or tensor.dtype != spec.dtype
                    or tensor.requires_grad != spec.requires_grad
                ):
                    break
            else:
                return
        raise PipelineError(
            f"stage {self.stage - 1} returned something else than before",
            expected=wordy(specs),
            found=wordy(specs_of(tensors)),
            hint="what crosses stages stays the same from step to step; call forget_shapes() on "
            "every rank before a step with other shapes",
        )

    def resolve(self) -> Specs:
        """The specs, waiting for the rank before to publish them if need be."""
        if self.specs is None:
            assert self._store is not None
            while not self._store.check([self._key]):
                if self._failed():
                    raise RuntimeError("the shapes were never published")
                time.sleep(0.001)
            self._set(decode(self._store.get(self._key).decode()))
            self._store.delete_key(self._key)  # nobody else reads it
        return self.specs or ()

    def buffers(self) -> tuple[Tensor, ...]:
        """Fresh buffers for the input of the stage."""
        return tuple(spec.empty(self._device) for spec in self.resolve())

    def gradient_buffers(self) -> tuple[Tensor, ...]:
        """Fresh buffers for the gradient of the input, of the tensors that need one."""
        specs = self.resolve()
        return tuple(
            torch.empty(specs[i].shape, dtype=specs[i].dtype, device=self._device)
            for i in self.needing
        )
