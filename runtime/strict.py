"""Strict channels on gloo: the queues of NCCL, to try for real what the verifier says, without
GPUs.

Each channel is a queue with a thread that completes one message after the other, without tags: a
SEND completes when the receiver has posted (rendezvous), or runs ahead by `credits` messages. A
program that the verifier rejects for a topology hangs here, or delivers the wrong message.
"""

from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread
from time import monotonic
from typing import Any

from torch import Tensor
from torch.distributed import Work

from pipec.program.graph import Channels
from pipec.runtime.links import Link
from pipec.runtime.threads import FAREWELL
from pipec.runtime.wires import Post


class _Posted:
    """A message in the queue of its channel."""

    __slots__ = ("_done", "failure", "peer", "sends", "tensors")

    def __init__(self, sends: bool, tensors: Sequence[Tensor], peer: int):
        self.sends = sends
        self.tensors = tensors
        self.peer = peer
        self.failure: BaseException | None = None
        self._done = Event()

    def finish(self, failure: BaseException | None = None) -> None:
        """Say that the message is through, or why it never will be."""
        self.failure = self.failure or failure
        self._done.set()

    def wait(self) -> None:
        """Wait until the channel's thread has completed the message."""
        self._done.wait()
        if self.failure is not None:
            raise self.failure


class _Launch:
    """Messages that are issued as one, and how many of their queues have come to them."""

    def __init__(self) -> None:
        self.members: list[_Posted] = []
        self.queues: list[SimpleQueue[Any]] = []
        self.done = Event()
        self._lock, self._arrived = Lock(), 0

    def add(self, queue: SimpleQueue[Any], posted: _Posted) -> None:
        """One more member, posted to a queue."""
        self.members.append(posted)
        if queue not in self.queues:
            self.queues.append(queue)

    def arrive(self) -> bool:
        """Called by the thread of each queue; true for the last one, which runs the launch."""
        with self._lock:
            self._arrived += 1
            return self._arrived == len(self.queues)


class StrictWire:
    """Messages through emulated channels over one link of all ranks of the pipeline."""

    retires = False

    def __init__(self, link: Link, rank: int, channels: Channels):
        self._link = link
        self._rank = rank
        self._channels = channels
        self._queues: dict[tuple[int, ...], Queue] = {}
        self._threads: list[Thread] = []
        self._launch: _Launch | None = None

    def sender(self, peer: int) -> Post:
        """Puts sends into the queue of their channel."""
        queue = self._queue(self._rank, peer)
        return lambda tensors, tag: self._put(queue, _Posted(True, tensors, peer))

    def receiver(self, peer: int) -> Post:
        """Puts receives into the queue of their channel."""
        queue = self._queue(peer, self._rank)
        return lambda tensors, tag: self._put(queue, _Posted(False, tensors, peer))

    def begin_launch(self) -> None:
        """Until `end_launch`, what is posted is issued as one."""
        self._launch = _Launch()

    def end_launch(self) -> None:
        """Put the launch into the queue of each of its members."""
        launch, self._launch = self._launch, None
        assert launch is not None
        for queue in launch.queues:
            queue.put(launch)

    def _put(self, queue: "Queue", posted: _Posted) -> _Posted:
        if self._launch is None:
            queue.put(posted)
        else:
            self._launch.add(queue, posted)
        return posted

    def drain(self) -> None:
        """Let every channel complete what it was allowed to run ahead by."""
        for queue in self._queues.values():
            queue.put("drain")

    def close(self) -> None:
        """Let the threads end after what they have, and wait a little for those that can.

        One that is inside C++ when the interpreter ends would abort it.
        """
        for queue in self._queues.values():
            queue.put("end")
        deadline = monotonic() + FAREWELL
        for thread in set(self._threads) - {current_thread()}:
            thread.join(max(deadline - monotonic(), 0.0))

    def _queue(self, source: int, destination: int) -> "Queue":
        """The queue of a channel; its thread begins with it."""
        key = self._key(source, destination)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = SimpleQueue()
            name = f"channel {key}"
            self._threads.append(Thread(target=self._serve, args=(queue,), daemon=True, name=name))
            self._threads[-1].start()
        return queue

    def _key(self, source: int, destination: int) -> tuple[int, ...]:
        match self._channels.topology:
            case "rank":
                return ()
            case "pair":
                return (min(source, destination), max(source, destination))
            case _:
                return (source, destination)

    def _serve(self, queue: "Queue") -> None:
        """Complete the messages of one channel in order, at most `credits` SENDs behind."""
        ahead: deque[tuple[_Posted, list[Work]]] = deque()
        while (item := queue.get()) != "end":
            allowed = 0
            if isinstance(item, _Launch):
                if item.arrive():
                    _complete_all([(one, self._begin(one)) for one in item.members])
                    item.done.set()
                item.done.wait()
                continue
            if isinstance(item, _Posted):
                works = self._begin(item)
                if not item.sends:
                    _complete(item, works)
                    continue
                ahead.append((item, works))
                allowed = self._channels.credits
            while len(ahead) > allowed:
                _complete(*ahead.popleft())
        for entry in ahead:
            _complete(*entry)

    def _begin(self, posted: _Posted) -> list[Work]:
        """Post the tensors of a message; one tag per directed pair, so that they meet in order."""
        backend, peer = self._link.backend, posted.peer
        try:
            if posted.sends:
                return [backend.send([tensor], peer, 0) for tensor in posted.tensors]
            return [backend.recv([tensor], peer, 0) for tensor in posted.tensors]
        except RuntimeError as failure:
            posted.finish(failure)
            return []


Queue = SimpleQueue[_Posted | _Launch | str]


def _complete_all(begun: Sequence[tuple[_Posted, list[Work]]]) -> None:
    """A launch is done when all its members are, and each of them not before."""
    failure = None
    for _, works in begun:
        try:
            for work in works:  # once each: gloo's works do not come back from a second wait
                work.wait()
        except RuntimeError as error:
            failure = error
    for posted, _ in begun:
        posted.finish(failure)


def _complete(posted: _Posted, works: list[Work]) -> None:
    try:
        for work in works:
            work.wait()
    except RuntimeError as failure:
        posted.finish(failure)
    else:
        posted.finish()
