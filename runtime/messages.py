"""Messages of a stream: posted when their row comes, waited for at their consumer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipec.runtime.boundary import Boundary
from pipec.runtime.wires import Handle, Post

Tensors = tuple[Tensor, ...]
Run = Callable[[], None]


class Line:
    """Messages of one queue that cannot be posted yet because their shapes are not known.

    Only in the first step: what comes later in the same queue has to wait for them, so that
    messages keep their order.
    """

    __slots__ = ("deferred",)

    def __init__(self) -> None:
        self.deferred: list[Incoming] = []

    def flush(self) -> None:
        """Post everything deferred, in order, waiting for shapes where needed."""
        while self.deferred:
            self.deferred[0].boundary.resolve()
            self.deferred.pop(0).start()


class Incoming:
    """A RECV: an activation into a stage, or the gradient of a stage's output."""

    __slots__ = (
        "_buffers",
        "_handle",
        "_line",
        "_recv",
        "_tag",
        "boundary",
        "post",
        "tensors",
        "wait",
    )

    def __init__(self, recv: Post, line: Line, boundary: Boundary, gradient: bool, tag: int):
        """recv: posts a receive from the sender of this message."""
        self._recv, self._line, self._tag = recv, line, tag
        self.boundary = boundary
        self._buffers = boundary.gradient_buffers if gradient else boundary.buffers
        self._handle: Handle | None = None
        self.tensors: Tensors = ()
        known = boundary.specs is not None
        self.post: Run = self._poster(gradient) if known else self._post_or_defer
        self.wait: Run = self._wait if known else self._flush_and_wait

    def clear(self) -> None:
        """Let go of buffers and what is in flight, after a step that failed."""
        self.tensors, self._handle = (), None

    def take(self) -> Tensors:
        """The received tensors, which are then no longer held here."""
        tensors = self.tensors
        self.tensors = ()
        return tensors

    def start(self) -> None:
        """Post the receive; its shapes are known."""
        self.tensors = self._buffers()
        if self.tensors:
            self._handle = self._recv(self.tensors, self._tag)

    def _poster(self, gradient: bool) -> Run:
        """`start` for one tensor of known shape, without anything that can be done now."""
        tensors = self._buffers()
        if len(tensors) != 1:
            return self.start
        like, needs = tensors[0].detach(), tensors[0].requires_grad
        recv, tag, empty = self._recv, self._tag, torch.empty_like

        def post() -> None:
            buffer = empty(like)
            if needs:
                buffer.requires_grad_()
            self.tensors = (buffer,)
            self._handle = recv(self.tensors, tag)

        return post

    def _post_or_defer(self) -> None:
        if self.boundary.specs is None or self._line.deferred:
            self._line.deferred.append(self)
        else:
            self.start()

    def _wait(self) -> None:
        if self._handle is not None:
            self._handle.wait()
            self._handle = None

    def _flush_and_wait(self) -> None:
        self._line.flush()
        self._wait()


class Outgoing:
    """A SEND: its tensors stay alive and untouched until it is retired."""

    __slots__ = ("_handle", "_line", "_payload", "_send", "_tag", "_tensors")

    def __init__(self, send: Post, line: Line, payload: Callable[[], Sequence[Tensor]], tag: int):
        """send: posts a send to the receiver of this message."""
        self._send, self._line, self._payload, self._tag = send, line, payload, tag
        self._handle: Handle | None = None
        self._tensors: Sequence[Tensor] = ()

    def clear(self) -> None:
        """Let go of tensors and what is in flight, after a step that failed."""
        self._tensors, self._handle = (), None

    def post(self) -> None:
        """Post the send, behind what its queue has deferred."""
        if self._line.deferred:
            self._line.flush()
        tensors = self._payload()
        if tensors:
            self._tensors = tensors
            self._handle = self._send(tensors, self._tag)

    def retire(self) -> None:
        """Wait until the send is through, and let go of its tensors."""
        if self._handle is not None:
            self._handle.wait()
            self._handle = None
            self._tensors = ()
