"""What the slices of a sequence hand on in a stage, and the gradients that come back for it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pipec.runtime.errors import PipelineError


class Carried:
    """One stage of one flow with slices. Lists have one place per microbatch.

    The stage is called with `carried`, which it returned for the slice before, as leaves of a graph
    of its own. The backward of a slice takes the gradients that the one of the next left in them.
    """

    __slots__ = ("_handed_on", "_leaves", "_slices", "_stage")

    def __init__(self, stage: int, slices: int, count: int):
        self._stage = stage
        self._slices = slices
        self._handed_on: list[Any] = [None] * count
        self._leaves: list[Sequence[tuple[Tensor, Tensor]]] = [()] * count

    def clear(self) -> None:
        """Let go of everything, after a step that failed."""
        self._handed_on[:] = [None] * len(self._handed_on)
        self._leaves[:] = [()] * len(self._leaves)

    def call(self, number: int, stage: Callable[..., Any]) -> Callable[..., Any]:
        """The call of a stage for one slice, which returns its output alone."""
        handed_on = self._handed_on
        first, last = number % self._slices == 0, (number + 1) % self._slices == 0

        def run(*given: Any) -> Any:
            before = None if first else handed_on[number - 1]
            returned = stage(*given, carried=before)
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise self._no_pair(returned)
            if not first:
                handed_on[number - 1] = None
            if not last:
                self._hand_on(number, returned[1])
            return returned[0]

        return run

    def _hand_on(self, number: int, carried: Any) -> None:
        """Detach tensors, at any depth of what is carried; everything else stays as it is."""
        values, shape = tree_flatten(carried)
        leaves = [_leaf(value) if isinstance(value, Tensor) else value for value in values]
        self._handed_on[number] = tree_unflatten(leaves, shape)
        pairs = zip(values, leaves, strict=True)
        self._leaves[number] = [
            (value, leaf)
            for value, leaf in pairs
            if isinstance(leaf, Tensor) and leaf.requires_grad
        ]

    def returned(self, number: int) -> tuple[list[Tensor], list[Tensor]]:
        """What a slice handed on, and the gradients that came back for it."""
        came = [(made, leaf.grad) for made, leaf in self._leaves[number]]
        self._leaves[number] = ()
        known = [(made, gradient) for made, gradient in came if gradient is not None]
        return [made for made, _ in known], [gradient for _, gradient in known]

    def _no_pair(self, returned: Any) -> PipelineError:
        many = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        return PipelineError(
            f"stage {self._stage} of a flow with slices did not return what it carries",
            expected="a pair: the output, and what the next slice is called with",
            found=f"{type(returned).__name__}{many}",
            hint="return `output, carried`; `output, None` where nothing is carried",
        )


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
