"""A stage of a flow on this rank: its module, and what microbatches hold in between."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipec.runtime.batch import Microbatch
from pipec.runtime.boundary import Boundary
from pipec.runtime.carried import Carried
from pipec.runtime.errors import PipelineError
from pipec.runtime.specs import tensors_of
from pipec.runtime.split import Record, Split
from pipec.runtime.split.internals import engine_backward

Tensors = tuple[Any, ...]
Run = Callable[[], None]


class Held:
    """One stage of one flow. Lists have one place per microbatch, empty while nothing is held.

    `after` are the boundaries behind the stage, one per slice of a sequence; none behind the last.
    """

    __slots__ = (
        "after",
        "carried",
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
        after: Sequence[Boundary],
        trains: bool,
        slices: int = 1,
    ):
        self.stage = stage
        self.module = module
        self.split = split
        self.count = count
        self.after = after
        self.trains = trains
        self.carried = Carried(stage, slices, count) if slices > 1 else None
        self.inputs: list[Tensors] = [()] * count
        self.outputs: list[Tensors] = [()] * count
        self.records: list[Record | None] = [None] * count

    def clear(self) -> None:
        """Let go of everything, after a step that failed."""
        self.inputs[:] = self.outputs[:] = [()] * self.count
        for record in self.records:
            if record is not None:
                record.clear()
        if self.carried is not None:
            self.carried.clear()

    # --- F ----------------------------------------------------------------------------------------

    def forward(
        self, number: int, source: Callable[[], Tensors], finish: Callable[[Any], Tensors]
    ) -> Run:
        """F of a microbatch: `source` gives the input, `finish` takes what the module returned.

        The input is kept for the gradient that its producer waits for, if there is one.
        """
        inputs, outputs, call = self.inputs, self.outputs, self._call(number)

        def keep() -> None:
            given = inputs[number] = source()
            outputs[number] = finish(call(*given))

        def pass_on() -> None:
            outputs[number] = finish(call(*source()))

        return keep if self.trains and self.stage > 0 else pass_on

    def _call(self, number: int) -> Callable[..., Any]:
        record, call = self.records[number], cast("Callable[..., Any]", self.module)
        if record is not None:
            assert self.split is not None
            call = partial(self.split.forward, record, self.module)
        return call if self.carried is None else self.carried.call(number, call)

    def to_next(self, number: int) -> Callable[[Any], Tensors]:
        """What checks the output of a stage other than the last, before it leaves the stage."""
        after = self.after[number % len(self.after)]
        checked = partial(self._checked, after)
        if after.specs is None or len(after.specs) != 1:
            return checked
        shape, dtype = torch.Size(after.specs[0].shape), after.specs[0].dtype
        needs = after.specs[0].requires_grad

        def check(output: Any) -> Tensors:
            if (
                type(output) is Tensor
                and output.shape == shape
                and output.dtype is dtype
                and output.requires_grad is needs
            ):
                return (output,)
            return checked(output)

        return check

    def _checked(self, after: Boundary, output: Any) -> Tensors:
        tensors = tensors_of(output, self.stage)
        after.check(tensors)
        return tensors

    def handed_over(self, number: int) -> Tensors:
        """The output of a microbatch as leaves, for the next stage on the same rank."""
        return tuple(
            tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._output(number)
        )

    def sent(self, number: int) -> Sequence[Tensor]:
        """The output of a microbatch, for the next stage on another rank."""
        return [tensor.detach().contiguous() for tensor in self._output(number)]

    def _output(self, number: int) -> Tensors:
        """An output; kept for the backward if there is one."""
        outputs = self.outputs[number]
        if not self.trains:
            self.outputs[number] = ()
        return outputs

    # --- B, BW, W ---------------------------------------------------------------------------------

    def backward(self, number: int, gradients: Callable[[], Sequence[Tensor]]) -> Run:
        """B or BW of one microbatch: `gradients` are those of the outputs that need one."""
        outputs, record, split = self.outputs, self.records[number], self.split
        execute = engine_backward
        if record is not None:
            assert split is not None
            execute = partial(split.backward, record)

        def run() -> None:
            given, roots = gradients(), outputs[number]
            outputs[number] = ()
            if len(roots) != 1:
                roots = tuple(tensor for tensor in roots if tensor.requires_grad)
            if roots and roots[0].requires_grad:
                execute(roots, given)

        return run if self.carried is None else self._of_slice(number, gradients, execute)

    def _of_slice(
        self,
        number: int,
        gradients: Callable[[], Sequence[Tensor]],
        execute: Callable[[Sequence[Tensor], Sequence[Tensor]], None],
    ) -> Run:
        """The same for a slice: from its outputs, and from what it handed on to the next one."""
        outputs, carried = self.outputs, self.carried
        assert carried is not None

        def run() -> None:
            given = gradients()
            roots = [tensor for tensor in outputs[number] if tensor.requires_grad]
            outputs[number] = ()
            handed_on, returned = carried.returned(number)
            if not roots:
                given = ()
            if roots or handed_on:
                execute([*roots, *handed_on], [*given, *returned])

        return run

    def weights(self, number: int) -> Run:
        """W of one microbatch."""
        assert self.split is not None
        record = self.records[number]
        assert record is not None
        return partial(self.split.weights, record)

    def gradients(self, number: int) -> Sequence[Tensor]:
        """The gradients of a microbatch's input, where one is needed; zeros where none came."""
        given = self.inputs[number]
        self.inputs[number] = ()
        gradients = []
        for tensor in given:
            if tensor.requires_grad:
                gradient = tensor.grad
                if gradient is None:
                    gradient = torch.zeros_like(tensor, requires_grad=False)
                gradients.append(gradient.contiguous())
        return gradients


class Ends:
    """What flows begin and end with: microbatches, targets, losses, outputs; refilled every step.

    `number` is the place of a microbatch in the whole batch, over all flows.
    """

    def __init__(self, loss_fn: Callable[..., Tensor] | None, scale: float, finite: bool):
        self._loss_fn = loss_fn
        self._scale = scale
        self._finite = finite
        self._seed = torch.empty(0)
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
        loss = self._loss(stage, number, output)
        if loss is None:
            return ()
        if self._finite and not torch.isfinite(loss).item():
            raise PipelineError(
                f"the loss of microbatch {number} is {loss.item()}", expected="a finite number"
            )
        self.losses[number] = loss.detach()
        return (loss,)

    def _loss(self, stage: int, number: int, output: Any) -> Tensor | None:
        """The loss of a microbatch; without gradients there may be none."""
        trains = torch.is_grad_enabled()
        if self._loss_fn is not None and not self.targets:
            if not trains:
                return None
            raise PipelineError(
                f"this rank holds the last stage ({stage}) and got no target",
                hint="call step(batch, target) on every rank",
            )
        loss = output
        if self._loss_fn is not None:
            loss = self._loss_fn(output, *self.targets[number])
        if isinstance(loss, Tensor) and loss.numel() == 1:
            return loss
        if self._loss_fn is not None:
            message, hint = "the loss_fn did not return a loss", "reduce it to one number"
        elif trains:
            message = f"stage {stage} is the last one and there is no loss_fn"
            hint = "give Pipeline a loss_fn, or let the last stage return its loss"
        else:
            return None
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise PipelineError(message, expected="a tensor with one element", found=found, hint=hint)

    def seeds(self, losses: Tensors) -> Tensors:
        """The gradient that the backward of a loss begins with."""
        (loss,) = losses
        seed = self._seed
        if seed.dtype is not loss.dtype or seed.device != loss.device or seed.shape != loss.shape:
            seed = self._seed = torch.full_like(loss, self._scale, requires_grad=False)
        return (seed,)
