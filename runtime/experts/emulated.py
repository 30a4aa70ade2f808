"""An exchange whose all-to-alls take a stated time: for benchmarks of schedules on one machine."""

import time
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from pipec.runtime.experts.layer import Arrived
from pipec.runtime.experts.local import LocalExchange

Result = TypeVar("Result")


class EmulatedExchange:
    """Each all-to-all really exchanges one number, and then takes `seconds` on its own lane.

    It begins when all members have started it and the one before it is through. The members run on
    one host, whose clock they share. Tokens stay where they are: every rank has all experts.
    `seconds` may be changed between steps.
    """

    def __init__(self, group: ProcessGroup, seconds: float):
        self.rank, self.size = group.rank(), group.size()
        self.seconds = seconds
        self.group: ProcessGroup | None = group
        self._group = group
        self._local = LocalExchange()
        self._last: _Transfer[Any] | None = None

    def mark(self) -> None:
        """Nothing waits."""

    def spread(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, total: int, ready: object = None
    ) -> "_Transfer[Arrived]":
        """DISPATCH."""
        return self._start(self._local.spread(tokens, experts, weights, total).result)

    def spread_again(
        self, tokens: Tensor, route: object, ready: object = None
    ) -> "_Transfer[Tensor]":
        """Backward of COMBINE."""
        return self._start(tokens)

    def gather(
        self, rows: Tensor, route: object, ready: object = None, weights: Tensor | None = None
    ) -> "_Transfer[tuple[Tensor, Tensor | None]]":
        """COMBINE, and backward of DISPATCH."""
        return self._start((rows, weights))

    def close(self) -> None:
        """What is under way ends with the process."""

    def _start(self, result: Result) -> "_Transfer[Result]":
        transfer = _Transfer(self._group, self.seconds, self._last, result)
        self._last = transfer
        return transfer


class _Transfer(Generic[Result]):
    """One all-to-all under way."""

    __slots__ = ("_before", "_end", "_result", "_seconds", "_sent", "_starts", "_work")

    def __init__(
        self,
        group: ProcessGroup,
        seconds: float,
        before: "_Transfer[Any] | None",
        result: Result,
    ):
        self._seconds, self._before, self._result = seconds, before, result
        self._end: float | None = None
        self._sent = torch.full((group.size(),), time.monotonic(), dtype=torch.float64)
        self._starts = torch.empty_like(self._sent)
        self._work = dist.all_to_all_single(self._starts, self._sent, group=group, async_op=True)

    def wait(self) -> Result:
        """Sleep until it is through."""
        time.sleep(max(0.0, self.end() - time.monotonic()))
        return self._result

    def end(self) -> float:
        """When it is through, by the host's clock."""
        if self._end is None:
            assert self._work is not None
            self._work.wait()
            lane_free = self._before.end() if self._before is not None else 0.0
            self._before = None
            self._end = max(float(self._starts.max()), lane_free) + self._seconds
        return self._end
