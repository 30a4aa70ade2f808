"""A stage whose chunk the plan opens: rows of the program run parts of it."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pipec.program.effects import Kind
from pipec.program.parts import Layout, layout_text
from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.layer import OUT, PARTS
from pipec.runtime.experts.parts import Parts
from pipec.runtime.experts.stage import ExpertStage
from pipec.runtime.held import Held, Run, Tensors


class Opened:
    """Runs parts of `held`'s stage, numbered as the plan does."""

    def __init__(self, held: Held, layout: Layout):
        """Raises `PipelineError` for a stage without these parts."""
        self._held = held
        self._covers = covers(held.stage, held.module, layout)
        assert isinstance(held.module, ExpertStage)
        self._parts = Parts(held.module, held.count)
        self._last = len(layout) - 1
        self._deferred: set[int] = set()

    @property
    def parts(self) -> Parts:
        """The parts of the stage, and what they hold."""
        return self._parts

    def defer(self, number: int) -> None:
        """Run W of a microbatch apart from its B."""
        if number not in self._deferred:
            self._deferred.add(number)
            self._parts.defer(number)

    def clear(self) -> None:
        """Let go of everything, after a step that failed."""
        self._parts.clear()

    def wait(self, number: int) -> Run:
        """Wait for the all-to-all that brings what the next part takes."""
        return partial(self._parts.wait, number)

    def forward(
        self,
        part: int,
        number: int,
        source: Callable[[], Tensors],
        finish: Callable[[Any], Tensors],
    ) -> Run:
        """A part of F, or an all-to-all; `source` and `finish` are for the first and the last."""
        held, parts = self._held, self._parts
        steps = [partial(parts.forward, one, number) for one in self._covers[part]]

        def begin() -> None:
            given = source()
            if held.trains and held.stage > 0:
                held.inputs[number] = given
            parts.begin(number, given)
            _each(steps)

        def end() -> None:
            held.outputs[number] = finish(_each(steps))

        return begin if part == 0 else end if part == self._last else _run(steps)

    def backward(
        self, kind: Kind, part: int, number: int, gradients: Callable[[], Sequence[Tensor]]
    ) -> Run:
        """A part of B or BW, or its all-to-all; `gradients` are those of the stage's output."""
        held, parts = self._held, self._parts
        steps: list[Callable[[], Any]] = [
            partial(parts.backward, one, number) for one in reversed(self._covers[part])
        ]
        if kind is Kind.BW and number in self._deferred:  # other parts have their W apart
            steps.append(self.weights(part, number))

        def begin() -> None:
            given, roots = gradients(), held.outputs[number]
            held.outputs[number] = ()
            needing = [tensor for tensor in roots if tensor.requires_grad]
            parts.begin_backward(number, needing, given)
            _each(steps)

        return begin if part == self._last else _run(steps)

    def weights(self, part: int, number: int) -> Run:
        """A part of W."""
        computing = [one for one in self._covers[part] if one % 2 == 0]
        return _run([partial(self._parts.weights, one, number) for one in computing])


def covers(stage: int, module: nn.Module, layout: Layout) -> list[Sequence[int]]:
    """For each part of a plan's layout those parts of the stage that it runs.

    The plan may leave out the all-to-alls of a dense layer, and after a dense last layer the part
    `out`: they are run by the part before. What follows the last layer may have any name. Raises
    `PipelineError` if the plan's parts are not the stage's.
    """
    if not isinstance(module, ExpertStage):
        raise PipelineError(
            f"the plan opens stage {stage} into parts: {layout_text(layout)}",
            expected="a stage made of layers with parts (pipec.runtime.experts.ExpertStage)",
            found=type(module).__name__,
            hint="make it one, or leave `layers` out of the schedule",
        )
    own = _own(module)
    begins, at = [], 0
    for place, part in enumerate(layout):
        while at < len(own) and not _same(own[at], part.name, place == len(layout) - 1):
            if not own[at][1]:
                raise _unfit(stage, module, layout, f"from `{part}` on")
            at += 1
        if at == len(own):
            raise _unfit(stage, module, layout, f"from `{part}` on")
        begins.append(at)
        at += 1
    if not all(idle for _, idle in own[at:]):
        raise _unfit(stage, module, layout, "which end too early")
    return [range(first, after) for first, after in pairwise([*begins, len(own)])]


def _own(module: ExpertStage) -> list[tuple[str, bool]]:
    """The parts of a stage, and whether a plan may leave them out."""
    own = []
    for number in range(len(module.layers)):
        dense = module.layer(number).total == 0
        own += [(name, dense and name in ("dispatch", "combine")) for name in PARTS]
    return [*own, (OUT, module.layer(len(module.layers) - 1).total == 0)]


def _same(own: tuple[str, bool], name: str, last: bool) -> bool:
    return own[0] == name or (own[0] == OUT and last and name not in PARTS)


def _unfit(stage: int, module: ExpertStage, layout: Layout, at: str) -> PipelineError:
    layers = [
        " ".join(PARTS) if module.layer(number).total else "attention mlp"
        for number in range(len(module.layers))
    ]
    return PipelineError(
        f"the parts of stage {stage} are not those of the plan, {at}",
        expected=layout_text(layout),
        found=f"layers of {' | '.join(layers)}",
        hint="give `layers` as many as the stage has, with the parts attention, dispatch, mlp "
        "and combine",
    )


def _run(steps: Sequence[Callable[[], Any]]) -> Run:
    """The steps one after the other."""
    return steps[0] if len(steps) == 1 else partial(_each, steps)


def _each(steps: Sequence[Callable[[], Any]]) -> Any:
    """Run all of them; what the last one returns."""
    result = None
    for step in steps:
        result = step()
    return result
