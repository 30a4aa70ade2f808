"""Messages of a stream: what is posted when its row comes, and what is waited for at its consumer."""

from collections.abc import Callable, Sequence

from pipec.runtime.boundary import Boundary
from pipec.runtime.wires import Handle, Wire
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Line:
    """Messages of one queue that cannot be posted yet because their shapes are not known.

    Only in the first step: what comes later in the same queue has to wait for them, so that messages
    keep their order.
    """

    __slots__ = ("deferred",)

    def __init__(self) -> None:
        self.deferred: list[Incoming] = []

    def flush(self) -> None:
        """Post everything deferred, in order, waiting for shapes where needed."""
        while self.deferred:
            self.deferred[0].fetch()
            self.deferred.pop(0).start()


class Incoming:
    """A RECV: an activation into a stage, or the gradient of a stage's output."""

    __slots__ = (
        "_boundary",
        "_buffers",
        "_handle",
        "_line",
        "_peer",
        "_tag",
        "_wire",
        "tensors",
    )

    def __init__(
        self, wire: Wire, line: Line, boundary: Boundary, gradient: bool, peer: int, tag: int
    ):
        self._wire, self._line, self._boundary = wire, line, boundary
        self._buffers = boundary.gradient_buffers if gradient else boundary.buffers
        self._peer, self._tag = peer, tag
        self._handle: Handle | None = None
        self.tensors: Tensors = ()

    def post(self) -> None:
        """Post the receive, or defer it until its shapes are known."""
        if self._boundary.specs is None or self._line.deferred:
            self._line.deferred.append(self)
        else:
            self.start()

    def fetch(self) -> None:
        """Wait for the shapes."""
        self._boundary.resolve()

    def start(self) -> None:
        """Post the receive; its shapes are known."""
        self.tensors = self._buffers()
        if self.tensors:
            self._handle = self._wire.recv(self.tensors, self._peer, self._tag)

    def wait(self) -> None:
        """Return when the tensors are there."""
        if self._line.deferred:
            self._line.flush()
        if self._handle is not None:
            self._handle.wait()
            self._handle = None

    def take(self) -> Tensors:
        """The received tensors, which are then no longer held here."""
        tensors = self.tensors
        self.tensors = ()
        return tensors


class Outgoing:
    """A SEND: its tensors stay alive and untouched until it is retired."""

    __slots__ = ("_handle", "_line", "_payload", "_peer", "_tag", "_tensors", "_wire")

    def __init__(
        self, wire: Wire, line: Line, payload: Callable[[], Sequence[Tensor]], peer: int, tag: int
    ):
        self._wire, self._line, self._payload = wire, line, payload
        self._peer, self._tag = peer, tag
        self._handle: Handle | None = None
        self._tensors: Sequence[Tensor] = ()

    def post(self) -> None:
        """Post the send."""
        if self._line.deferred:
            self._line.flush()
        tensors = self._payload()
        if tensors:
            self._handle = self._wire.send(tensors, self._peer, self._tag)
            self._tensors = tensors

    def retire(self) -> None:
        """Wait until the send is through, and let go of its tensors."""
        if self._handle is not None:
            self._handle.wait()
            self._handle = None
            self._tensors = ()
