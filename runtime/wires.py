"""Point-to-point wires: how a message is posted, and the handle that it is waited for by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor
from torch.distributed import Work

from pipec.runtime.links import Link


class Handle(Protocol):
    """A posted message. `wait` returns when it may be used (on CUDA: orders the current stream)."""

    def wait(self) -> object:
        """Wait for completion."""


Post = Callable[[Sequence[Tensor], int], Handle]
"""Posts a message, given its tensors and its tag, and does not wait."""


class Wire(Protocol):
    """Posts messages between ranks of the pipeline."""

    retires: bool
    """Whether a SEND can be waited for in the middle of a step, once it is surely through."""

    def sender(self, peer: int) -> Post:
        """What posts sends to a rank; tensors stay untouched until their handle was waited for."""

    def receiver(self, peer: int) -> Post:
        """What posts receives from a rank."""

    def begin_launch(self) -> None:
        """What is posted until `end_launch` is issued as one."""

    def end_launch(self) -> None:
        """Issue it."""

    def drain(self) -> None:
        """Before SENDs are waited for at the end of a step: let all of them complete."""

    def close(self) -> None:
        """Let go of threads, if there are any."""


class Works:
    """Several posted tensors of one message."""

    __slots__ = ("_works",)

    def __init__(self, works: Sequence[Work]):
        self._works = works

    def wait(self) -> None:
        """Wait for all of them."""
        for work in self._works:
            work.wait()


class LinkWire:
    """Messages over links, one for each directed pair of ranks (some may be the same).

    Tags are honoured by gloo and ignored by NCCL, where messages of a link go in order.
    """

    retires = True

    def __init__(self, rank: int, links: Mapping[tuple[int, int], Link]):
        """links: for each (source, destination) that this rank is one of."""
        self._rank = rank
        self._links = links

    def sender(self, peer: int) -> Post:
        """Sends on the link of the pair."""
        link = self._links[self._rank, peer]
        return _poster(link.backend.send, link.number(peer))

    def receiver(self, peer: int) -> Post:
        """Receives on the link of the pair."""
        link = self._links[peer, self._rank]
        return _poster(link.backend.recv, link.number(peer))

    def begin_launch(self) -> None:
        """Nothing to do: with tags a launch is nothing but its members."""

    def end_launch(self) -> None:
        """Nothing to do either."""

    def drain(self) -> None:
        """Nothing to do: posted messages complete by themselves."""

    def close(self) -> None:
        """Nothing to let go of: a wire has no threads, and links are closed by who made them."""


def _poster(operation: Callable[[list[Tensor], int, int], Work], number: int) -> Post:
    def post(tensors: Sequence[Tensor], tag: int) -> Handle:
        if len(tensors) == 1:
            return operation([tensors[0]], number, tag)
        return Works([operation([tensor], number, tag) for tensor in tensors])

    return post
