"""Launches: messages that a link issues as one, and any other message alone but in the same way."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.distributed import Work

from pipec.runtime.links import Link
from pipec.runtime.wires import Handle, Post

Operation = Callable[[list[Tensor], int, int], Work]


class LaunchWire:
    """Messages over links, one for each directed pair of ranks; all of them in launches.

    NCCL issues what is grouped on other communicators and streams than single messages: those of
    the collectives. So single messages are launches of one: all messages of a link have one queue.
    Whoever waits for one message of a launch waits for all of it.
    """

    retires = False

    def __init__(self, rank: int, links: Mapping[tuple[int, int], Link]):
        """links: for each (source, destination) that this rank is one of."""
        self._rank = rank
        self._links = links
        self._launch: _Launch | None = None

    def sender(self, peer: int) -> Post:
        """Sends on the link of the pair."""
        link = self._links[self._rank, peer]
        return self._poster(link, link.backend.send, link.number(peer))

    def receiver(self, peer: int) -> Post:
        """Receives on the link of the pair."""
        link = self._links[peer, self._rank]
        return self._poster(link, link.backend.recv, link.number(peer))

    def begin_launch(self) -> None:
        """Until `end_launch`, what is posted is issued as one."""
        self._launch = _Launch()

    def end_launch(self) -> None:
        """Issue it."""
        launch, self._launch = self._launch, None
        assert launch is not None
        launch.issue()

    def drain(self) -> None:
        """Nothing to do: posted messages complete by themselves."""

    def close(self) -> None:
        """Nothing to let go of: links are closed by who made them."""

    def _poster(self, link: Link, operation: Operation, number: int) -> Post:
        def post(tensors: Sequence[Tensor], tag: int) -> Handle:
            launch = self._launch or _Launch()
            launch.add(link, operation, tensors, number, tag)
            if self._launch is None:
                launch.issue()
            return launch

        return post


class _Launch:
    """Messages of one link, and the handle of them all."""

    __slots__ = ("_link", "_posted", "_works")

    def __init__(self) -> None:
        self._link: Link | None = None
        self._posted: list[tuple[Operation, Tensor, int, int]] = []
        self._works: Sequence[Work] = ()

    def add(
        self, link: Link, operation: Operation, tensors: Sequence[Tensor], number: int, tag: int
    ) -> None:
        """One more message, over the link of those before."""
        assert self._link in (None, link), "what is issued as one goes over one link"
        self._link = link
        self._posted += [(operation, tensor, number, tag) for tensor in tensors]

    def issue(self) -> None:
        """Begin all of it."""
        posted, self._posted = self._posted, []
        if self._link is None or not posted:
            return
        with self._link.together() as works:
            for operation, tensor, number, tag in posted:
                works.append(operation([tensor], number, tag))
        self._works = works

    def wait(self) -> None:
        """Wait for all of it, once: gloo's works do not come back from a second wait."""
        works, self._works = self._works, ()
        for work in works:
            work.wait()
