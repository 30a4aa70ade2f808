"""A stage of a flow on this rank: its module, and what its microbatches hold between instructions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pipec.runtime.batch import Microbatch
from pipec.runtime.boundary import Boundary
from pipec.runtime.errors import PipelineError
from pipec.runtime.specs import tensors_of
from pipec.runtime.split import Record, Split
from pipec.runtime.split.internals import engine_backward
from torch import Tensor, nn

Tensors = tuple[Any, ...]
Run = Callable[[], None]


class Held:
    """One stage of one flow. Lists have one place per microbatch, empty while nothing is held.

    `after` is the boundary behind the stage, None behind the last one.
    """

    __slots__ = (
        "after",
        "count",
        "inputs",
        "module",
        "outputs",
        "records",
        "split",
        "stage",
        "trains",
    )

    def __init__(
        self,
        stage: int,
        module: nn.Module,
        split: Split | None,
        count: int,
        after: Boundary | None,
        trains: bool,
    ):
        self.stage = stage
        self.module = module
        self.split = split
        self.count = count
        self.after = after
        self.trains = trains
        self.inputs: list[Tensors] = [()] * count
        self.outputs: list[Tensors] = [()] * count
        self.records: list[Record | None] = [None] * count

    def clear(self) -> None:
        """Let go of everything, after a step that failed."""
        self.inputs = [()] * self.count
        self.outputs = [()] * self.count

    # --- F ------------------------------------------------------------------------------------------

    def forward(
        self, number: int, source: Callable[[], Tensors], finish: Callable[[Any], Tensors]
    ) -> Run:
        """F of one microbatch: `source` gives the input, `finish` takes what the module returned."""
        inputs, outputs, call = self.inputs, self.outputs, self._call(number)

        def train() -> None:
            given = inputs[number] = source()
            outputs[number] = finish(call(*given))

        def infer() -> None:
            outputs[number] = finish(call(*source()))

        return train if self.trains else infer

    def _call(self, number: int) -> Callable[..., Any]:
        record = self.records[number]
        if record is None:
            return self.module
        assert self.split is not None
        return partial(self.split.forward, record, self.module)

    def to_next(self, output: Any) -> Tensors:
        """What a stage other than the last returned, checked."""
        tensors = tensors_of(output, self.stage)
        assert self.after is not None
        self.after.check(tensors)
        return tensors

    def handed_over(self, number: int) -> Tensors:
        """The output of a microbatch as leaves, for the next stage on the same rank."""
        return tuple(
            tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._output(number)
        )

    def sent(self, number: int) -> Tensors:
        """The output of a microbatch, for the next stage on another rank."""
        return tuple(tensor.detach().contiguous() for tensor in self._output(number))

    def _output(self, number: int) -> Tensors:
        """An output; kept for the backward if there is one."""
        outputs = self.outputs[number]
        if not self.trains:
            self.outputs[number] = ()
        return outputs

    # --- B, BW, W -----------------------------------------------------------------------------------

    def backward(self, number: int, gradients: Callable[[], Sequence[Tensor]]) -> Run:
        """B or BW of one microbatch: `gradients` are those of the outputs that need one."""
        outputs, record, split = self.outputs, self.records[number], self.split

        def run() -> None:
            given = gradients()
            roots = [tensor for tensor in outputs[number] if tensor.requires_grad]
            outputs[number] = ()
            if not roots:
                return
            if record is None:
                engine_backward(roots, given)
            else:
                assert split is not None
                split.backward(record, roots, given)

        return run

    def weights(self, number: int) -> Run:
        """W of one microbatch."""
        assert self.split is not None
        record = self.records[number]
        assert record is not None
        return partial(self.split.weights, record)

    def gradients(self, number: int) -> tuple[Tensor, ...]:
        """The gradients of a microbatch's input, of the tensors that need one; zeros where none came."""
        given = self.inputs[number]
        self.inputs[number] = ()
        return tuple(
            torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.contiguous()
            for tensor in given
            if isinstance(tensor, Tensor) and tensor.requires_grad
        )


class Ends:
    """What flows begin and end with: microbatches, targets, losses, outputs; refilled every step.

    `number` is the place of a microbatch in the whole batch, over all flows.
    """

    def __init__(self, loss_fn: Callable[..., Tensor] | None, scale: float, finite: bool):
        self._loss_fn = loss_fn
        self._scale = scale
        self._finite = finite
        self._seeds: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self.batch: list[Microbatch] = []
        self.targets: list[Microbatch] = []
        self.losses: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensors] = {}
        self.keeps_outputs = False

    def input(self, number: int) -> Microbatch:
        """The input of the first stage."""
        return self.batch[number]

    def finish(self, stage: int, number: int, output: Any) -> Tensors:
        """What the last stage returned: keep it if wanted, and make it a loss."""
        if self.keeps_outputs:
            self.outputs[number] = tuple(tensor.detach() for tensor in tensors_of(output, stage))
        if not self.targets and not torch.is_grad_enabled():
            return ()
        if self._loss_fn is not None and self.targets:
            loss = self._loss_fn(output, *self.targets[number])
        else:
            loss = output
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise self._no_loss(stage, loss)
        if self._finite and not torch.isfinite(loss).item():
            raise PipelineError(
                f"the loss of microbatch {number} is {loss.item()}", expected="a finite number"
            )
        self.losses[number] = loss.detach()
        return (loss,)

    def _no_loss(self, stage: int, loss: Any) -> PipelineError:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        if self._loss_fn is None:
            message = f"stage {stage} is the last one and there is no loss_fn"
            hint = "give Pipeline a loss_fn, or let the last stage return its loss"
        elif not self.targets:
            message = f"rank has the last stage ({stage}) and got no target"
            hint = "call step(x, target) on every rank"
        else:
            message, hint = "the loss_fn did not return a loss", "reduce it to one number"
        return PipelineError(message, expected="a tensor with one element", found=found, hint=hint)

    def seed(self, loss: Tensor) -> Tensor:
        """The gradient that a loss's backward begins with."""
        key = (loss.dtype, loss.device)
        seed = self._seeds.get(key)
        if seed is None or seed.shape != loss.shape:
            seed = self._seeds[key] = torch.full_like(loss, self._scale, requires_grad=False)
        return seed
