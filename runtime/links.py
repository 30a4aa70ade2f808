"""The communicators of a pipeline, made of its own ranks alone, and used by nothing else.

They are not made by `torch.distributed.new_group`: that one wants every process of the job to take
part, or (`use_local_synchronization`) every member to have made equally many groups before, which
neighbours in a pipeline have not. Here the members find each other in the store, under a name that
no other pipeline has, and numbers in a link are those of its members in the plan.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, Work

from pipec.runtime.errors import PipelineError

FOREVER = timedelta(days=30)
"""The timeout of operations: the pipeline's own watchdog is faster and knows more."""

_RESERVED_TAG = 2**31 - 2


class Backend(Protocol):
    """What is used of torch's `Backend`, whose stubs leave most of it out."""

    def rank(self) -> int:
        """This rank's number."""

    def size(self) -> int:
        """How many members there are."""

    def send(self, tensors: Sequence[Tensor], to: int, tag: int, /) -> Work:
        """Begin to send."""

    def recv(self, tensors: Sequence[Tensor], source: int, tag: int, /) -> Work:
        """Begin to receive."""

    def allreduce(self, tensors: Sequence[Tensor], options: Any, /) -> Work:
        """Begin to sum."""

    def broadcast(self, tensors: Sequence[Tensor], options: Any, /) -> Work:
        """Begin to give everybody one rank's tensor."""

    @property
    def supports_coalescing(self) -> bool:
        """Whether several operations can be issued as one."""

    def _start_coalescing(self) -> None:
        """Until `_end_coalescing`, nothing is issued, and what operations return means nothing."""

    def _end_coalescing(self) -> Work | None:
        """Issue it."""

    def abort(self) -> None:
        """End everything that is under way."""

    def shutdown(self) -> None:
        """Release what the library holds."""


class Closable(Protocol):
    """Communication that a failed pipeline ends, so that no thread waits in it."""

    def close(self) -> None:
        """End it, on this rank and on those that wait for it."""


@dataclass(frozen=True)
class Link:
    """A communicator of some ranks of the pipeline."""

    members: tuple[int, ...]
    backend: Backend
    on_host: bool
    """Whether it is gloo's, which has tags and completes by itself."""

    def number(self, rank: int) -> int:
        """What a rank of the pipeline is called here."""
        return self.members.index(rank)

    @contextlib.contextmanager
    def together(self) -> Iterator[list[Work]]:
        """What is sent and received inside is issued as one, where the library can do that.

        The works that are put into the list are then those to be waited for: one of all of it, or
        one of each.
        """
        works: list[Work] = []
        if not self.backend.supports_coalescing:
            yield works
            return
        self.backend._start_coalescing()
        try:
            yield works
        finally:
            whole = self.backend._end_coalescing()
        works[:] = [] if whole is None else [whole]

    def sum(self, tensor: Tensor) -> Work:
        """Begin to sum a tensor over the members, in place."""
        options = dist.AllreduceOptions()
        if hasattr(options, "asyncOp"):
            options.asyncOp = True  # else NCCL sums on the compute stream
        return self.backend.allreduce([tensor], options)

    def copy(self, tensor: Tensor) -> None:
        """Give all members the first one's tensor."""
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self.backend.broadcast([tensor], options).wait()

    def close(self) -> None:
        """End all communication, on this rank and on those that wait for it.

        On gloo nothing else works: aborting a work or a backend has no effect, but a receive that
        times out closes the connection to its peer, which frees both sides. NCCL has an abort.
        """
        if not self.on_host:
            with contextlib.suppress(RuntimeError):
                self.backend.abort()
            return
        works = []
        for peer in range(self.backend.size()):
            if peer != self.backend.rank():
                with contextlib.suppress(RuntimeError):
                    works.append(self.backend.recv([torch.empty(1)], peer, _RESERVED_TAG))
        for work in works:
            with contextlib.suppress(RuntimeError):
                work.wait(timedelta(milliseconds=1))

    def let_go(self) -> None:
        """Release what an accelerator's library holds; nothing is in flight any more."""
        if not self.on_host:
            with contextlib.suppress(RuntimeError):
                self.backend.shutdown()


@dataclass(frozen=True)
class Linker:
    """Makes the links of one rank. All members make those they share in one order.

    store: shared by the ranks of the pipeline, under a name that no other pipeline has.
    """

    store: Store
    rank: int
    device: torch.device

    def link(self, name: str, members: Sequence[int]) -> Link:
        """A link of some ranks, this one among them; `name` is given to no other."""
        make = _BACKENDS.get(self.device.type)
        if make is None:
            raise PipelineError(
                f"no communication is known for device `{self.device}`",
                expected=" or ".join(f"`{known}`" for known in _BACKENDS),
            )
        store = PrefixStore(name, self.store)
        backend = make(store, members.index(self.rank), len(members), name)
        return Link(tuple(members), backend, self.device.type == "cpu")


def _gloo(store: Store, rank: int, size: int, name: str) -> Backend:
    return cast(Backend, dist.ProcessGroupGloo(store, rank, size, FOREVER))


def _nccl(store: Store, rank: int, size: int, name: str) -> Backend:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = FOREVER
    options.group_name = cast(Any, name)
    options.global_ranks_in_group = list(range(size))  # else it takes itself for the default group
    backend = dist.ProcessGroupNCCL(store, rank, size, options)
    backend._set_sequence_number_for_group()
    return cast(Backend, backend)


_BACKENDS: dict[str, Callable[[Store, int, int, str], Backend]] = {"cpu": _gloo, "cuda": _nccl}
