"""Point-to-point wires: how a message is posted, and the handle that it is waited for by."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor
from torch.distributed import ProcessGroup, Work


class Handle(Protocol):
    """A posted message. `wait` returns when it may be used (on CUDA: orders the current stream)."""

    def wait(self) -> object:
        """Wait for completion."""


class Wire(Protocol):
    """Posts messages between ranks of the pipeline, without waiting."""

    retires: bool
    """Whether a SEND can be waited for in the middle of a step, once it is surely through."""

    def send(self, tensors: Sequence[Tensor], peer: int, tag: int) -> Handle:
        """Send tensors to a rank; they stay untouched until the handle was waited for."""

    def recv(self, tensors: Sequence[Tensor], peer: int, tag: int) -> Handle:
        """Receive into tensors from a rank."""

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


class GroupWire:
    """Messages over process groups, one per directed pair of ranks (the same one where a topology joins them).

    Tags are honoured by gloo and ignored by NCCL, where messages of a group go in order.
    """

    retires = True

    def __init__(self, rank: int, groups: Mapping[tuple[int, int], tuple[ProcessGroup, int]]):
        """groups: for (source, destination) the group and the number in it of the rank at the other end."""
        self._out = {pair[1]: group for pair, group in groups.items() if pair[0] == rank}
        self._in = {pair[0]: group for pair, group in groups.items() if pair[1] == rank}

    def send(self, tensors: Sequence[Tensor], peer: int, tag: int) -> Handle:
        """Post a send on the group of the pair."""
        group, number = self._out[peer]
        if len(tensors) == 1:
            return group.send([tensors[0]], number, tag)
        return Works([group.send([tensor], number, tag) for tensor in tensors])

    def recv(self, tensors: Sequence[Tensor], peer: int, tag: int) -> Handle:
        """Post a receive on the group of the pair."""
        group, number = self._in[peer]
        if len(tensors) == 1:
            return group.recv([tensors[0]], number, tag)
        return Works([group.recv([tensor], number, tag) for tensor in tensors])

    def drain(self) -> None:
        """Nothing to do: posted messages complete by themselves."""

    def close(self) -> None:
        """Nothing to let go of: groups are destroyed by who made them."""
