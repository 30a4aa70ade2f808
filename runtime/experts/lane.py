"""The lane of all-to-alls: work that runs beside compute, one piece after the other."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
Job = Callable[[], Result]

_HIGH = -1
"""The priority of the lane's stream: its kernels are few, and compute waits for them."""


class Pending(Generic[Result]):
    """A job of a lane. `wait` gives its result, or raises what it raised."""

    __slots__ = ("_device", "_done", "_error", "_event", "_job", "_result")

    def __init__(self, job: Job[Result], device: torch.device):
        self._job: Job[Result] | None = job  # keeps what the job reads alive until it is through
        self._device = device
        self._event: torch.Event | None = None
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the job in the current stream."""
        assert self._job is not None
        try:
            with torch.no_grad():
                self._result = self._job()
            if self._device.type != "cpu":
                self._event = torch.Event(self._device)
                self._event.record()
        except BaseException as error:
            self._error = error
        self._done.set()

    def wait(self) -> Result:
        """The result; on an accelerator the current stream waits for it, and not the host."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        if self._event is not None:
            stream = torch.accelerator.current_stream(self._device)
            stream.wait_event(self._event)
            for tensor in tensors_in(self._result):
                tensor.record_stream(stream)
        result = self._result
        self._job = self._result = None
        return result


class Lane:
    """One queue of jobs, started in order.

    The size of what arrives in a dispatch is known only when the counts have arrived, so a job is a
    sequence of waits. On a CPU one thread runs the jobs, so that the host's loop goes on; on an
    accelerator the host issues them to a stream of high priority, in the order of the program.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._jobs: queue.SimpleQueue[Pending[Any] | None] | None = None
        self._stream: torch.Stream | None = None
        if device.type == "cpu":
            self._jobs = queue.SimpleQueue()
            threading.Thread(
                target=_work, args=(self._jobs,), name="pipec-all-to-all", daemon=True
            ).start()
            weakref.finalize(self, self._jobs.put, None)
        else:
            self._stream = torch.Stream(device, priority=_HIGH)

    def mark(self) -> torch.Event | None:
        """The point in the current stream behind which tensors made until now are ready."""
        if self._stream is None:
            return None
        event = torch.Event(self._device)
        event.record()
        return event

    def start(self, job: Job[Result], ready: torch.Event | None) -> Pending[Result]:
        """Begin a job when what it reads is ready, and all jobs before it are through."""
        pending = Pending(job, self._device)
        if self._jobs is not None:
            self._jobs.put(pending)
            return pending
        assert self._stream is not None
        if ready is not None:
            self._stream.wait_event(ready)
        with self._stream:
            pending.run()
        return pending


def _work(jobs: "queue.SimpleQueue[Pending[Any] | None]") -> None:
    while (pending := jobs.get()) is not None:
        pending.run()
        del pending


def tensors_in(value: Any) -> Iterable[Tensor]:
    """The tensors in a result: a tensor, a tuple, or a record."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_in(one)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name))
