"""What the taps of one Split see while they are on: its parameters, and whose microbatch runs."""

from __future__ import annotations

from collections.abc import Iterable
from threading import get_ident

from torch import Tensor, nn

from .errors import SplitError
from .leaf import Bias, Leaf, Target, hooked
from .record import Record


class Scope:
    """The parameters of one Split, and the record of the forward or backward that runs now.

    Between `enter` and `leave` the class of its weights is `tap`, and `targets` knows, by identity,
    where the gradient of a weight or of a view of one may be deferred to. Biases keep their class:
    `owed` are, by identity, those whose gradient may be deferred with their weight's.
    """

    __slots__ = (
        *("biases", "leaves", "ordinary", "owed", "record"),
        *("tap", "targets", "thread", "view", "watched"),
    )

    def __init__(self, weights: Iterable[nn.Parameter], biases: Iterable[nn.Parameter]) -> None:
        self.leaves = [Leaf(weight) for weight in weights]
        self.biases = [Bias(bias) for bias in biases]
        self.targets: dict[int, Target] = {}
        self.owed: dict[int, Bias] = {}
        self.watched: dict[int, Leaf] = {}
        """Weights that have hooks: one read by an operation that is not covered is left in B."""
        self.record: Record | None = None
        self.thread = 0
        self.tap: type[nn.Parameter] = nn.Parameter
        self.view: type[Tensor] = Tensor
        self.ordinary: frozenset[type] = frozenset({Tensor, nn.Parameter})
        """The tensor classes whose operations are understood; others keep their own rules."""

    def enter_forward(self, record: Record) -> Record | None:
        """Turns the taps on for an F; the answer goes to `leave`."""
        outer = self._begin(record)
        if outer is not None:
            record.taken, record.owed = outer.taken, outer.owed
            return outer
        record.owed = self.owed = {}
        for bias in self.biases:
            parameter = bias.parameter
            if parameter.requires_grad and not hooked(parameter):
                self.owed[id(parameter)] = bias
        record.taken = []
        for leaf in self.leaves:
            parameter = leaf.parameter
            if not parameter.requires_grad:
                continue
            if parameter.data_ptr() != leaf.pointer:
                leaf.renew()
            if not hooked(parameter) or self._watch(leaf):
                self.targets[id(parameter)] = leaf.whole
                record.taken.append(leaf)
            parameter.__class__ = self.tap
        return None

    def enter_backward(self, record: Record) -> Record | None:
        """Turns the taps on for a B, for the same parameters as in this record's F."""
        outer = self._begin(record)
        if outer is None:
            self.owed = record.owed
            for leaf in record.taken:
                self.targets[id(leaf.parameter)] = leaf.whole
                leaf.parameter.__class__ = self.tap
        return outer

    def leave(self, outer: Record | None) -> None:
        """Turns the taps off again, unless an outer forward of the same Split still runs."""
        record, self.record = self.record, outer
        if outer is not None or record is None:
            return
        for leaf in record.taken:
            leaf.parameter.__class__ = nn.Parameter
        for leaf in self.watched.values():
            leaf.seen = True
            leaf.parameter.__class__ = nn.Parameter
        self.watched.clear()
        self.targets.clear()

    def _begin(self, record: Record) -> Record | None:
        outer, thread = self.record, get_ident()
        if outer is not None and thread != self.thread:
            raise SplitError(
                "split-threads",
                "a forward or backward of one Split began while another ran",
                expected="one thread at a time",
                found=f"threads {self.thread} and {thread}",
                hint="make one Split for each copy of the stage",
            )
        self.record, self.thread = record, thread
        return outer

    def _watch(self, leaf: Leaf) -> bool:
        """Notes a weight that has hooks; whether it may be deferred, going by the forwards seen."""
        self.watched[id(leaf.parameter)] = leaf
        return leaf.seen and not leaf.mixed
