"""How tokens reach their experts and come back: one interface, and the implementations by name."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch.distributed import ProcessGroup

from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.collective import CollectiveExchange
from pipec.runtime.experts.deepep import DeepEPExchange
from pipec.runtime.experts.layer import Arrived
from pipec.runtime.experts.local import LocalExchange

Result_co = TypeVar("Result_co", covariant=True)


class Pending(Protocol[Result_co]):
    """An all-to-all that has been started."""

    def wait(self) -> Result_co:
        """The result, which the current stream may use."""


class Exchange(Protocol):
    """The all-to-alls of one rank. All members of its group start the same ones in the same order.

    Nothing is differentiated here. The backward of `spread` is `gather`, and that of `gather` is
    `spread_again`. Tensors that are given stay untouched until the result was waited for.
    `ready` is what `mark` gave when they were made.
    """

    rank: int
    size: int
    group: ProcessGroup | None
    """The members; None where there is one."""

    def mark(self) -> Any:
        """The point in the current stream behind which tensors made until now are ready."""

    def spread(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, total: int, ready: Any
    ) -> Pending[Arrived]:
        """DISPATCH: each token to the ranks of its experts, of which there are `total`."""

    def spread_again(self, tokens: Tensor, route: Any, ready: Any) -> Pending[Tensor]:
        """Backward of COMBINE: other rows `[tokens, width]` on a known route."""

    def gather(
        self, rows: Tensor, route: Any, ready: Any, weights: Tensor | None = None
    ) -> Pending[tuple[Tensor, Tensor | None]]:
        """COMBINE, and backward of DISPATCH: for each token the sum of what came of it.

        rows: `[arrived, width]`; weights: `[arrived, k]`, summed likewise.
        """

    def close(self) -> None:
        """End all communication, on this rank and on those that wait for it."""


def make_exchange(name: str, group: ProcessGroup | None) -> Exchange:
    """An exchange over an expert group, used by nothing else at the same time.

    name: "torch" (`torch.distributed.all_to_all_single`) or "deepep". Without a group, and in a
    group of one, tokens stay where they are. Raises `PipelineError`.
    """
    make = _EXCHANGES.get(name)
    if make is None:
        raise PipelineError(
            "unknown all-to-all", expected=" or ".join(map(repr, _EXCHANGES)), found=repr(name)
        )
    if group is None or group.size() == 1:
        return LocalExchange()
    return make(group)


_EXCHANGES: dict[str, Callable[[ProcessGroup], Exchange]] = {
    "torch": CollectiveExchange,
    "deepep": DeepEPExchange,
}
