"""Which SEND meets which RECV: by position in each directed pair of ranks, as the wire does it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.columns import look_up, narrow, rows_where
from pipec.program.program import Program

Array = NDArray[Any]


@dataclass(frozen=True)
class Ends:
    """Rows of a program that meet in pairs: `first[i]` meets `second[i]`, the i-th of their
    channel.

    `channel` is `source * ranks + destination` of each match; `unmatched` are rows that meet
    nobody.
    """

    first: Array
    second: Array
    channel: Array
    unmatched: Array


@dataclass(frozen=True)
class Links:
    """The meetings of a program: SENDs with RECVs, and the two ends of each gradient sum."""

    program: Program

    @cached_property
    def messages(self) -> Ends:
        """SEND rows (first) and RECV rows (second), by position in their directed pair."""
        program = self.program
        return _meet(program.sends, self._out, program.recvs, self._back)

    @cached_property
    def _out(self) -> Array:
        """The directed pair of each SEND, as one number."""
        program = self.program
        return _pair(program, program.rank, program.peer, program.sends)

    @cached_property
    def _back(self) -> Array:
        """The directed pair of each RECV, as one number."""
        program = self.program
        return _pair(program, program.peer, program.rank, program.recvs)

    @cached_property
    def wrong(self) -> Array:
        """The messages (places in `messages`) whose ends carry something else."""
        program, known = self.program, self.messages
        sent = look_up(program.operation, known.first)
        return rows_where(sent != look_up(program.operation, known.second))

    @cached_property
    def by_operation(self) -> Ends:
        """SEND and RECV rows matched by what they carry, as tagged channels do."""
        program, known = self.program, self.messages
        if not len(known.unmatched) and not len(self.wrong):
            return known
        sends, recvs, size = program.sends, program.recvs, max(program.placement.size, 1)
        keys = (
            self._out * np.int64(size) + program.operation[sends],
            self._back * np.int64(size) + program.operation[recvs],
        )
        _, keys_together = np.unique(np.concatenate(keys), return_inverse=True)
        ends = _meet(sends, keys_together[: len(sends)], recvs, keys_together[len(sends) :])
        channel = _pair(program, program.rank, program.peer, ends.first)
        posted = np.lexsort((ends.first, channel))  # credits count messages as they are posted
        first, second = ends.first[posted], ends.second[posted]
        return Ends(first, second, channel[posted], ends.unmatched)

    @cached_property
    def sums(self) -> Ends:
        """SUM rows of the lower rank (first) and of the higher one (second), by position."""
        program, rows = self.program, self.program.sums
        rank, peer = program.rank.take(rows), program.peer.take(rows)
        group = np.minimum(rank, peer).astype(np.int64) * program.ranks + np.maximum(rank, peer)
        low = rank < peer
        return _meet(rows[low], group[low], rows[~low], group[~low])


def _pair(program: Program, source: Array, target: Array, rows: Array) -> Array:
    """`source * ranks + target` of rows."""
    pair = look_up(source, rows).astype(narrow(program.ranks**2), copy=False)
    pair *= program.ranks
    pair += look_up(target, rows)
    return pair


def _meet(first: Array, code: Array, second: Array, other: Array) -> Ends:
    """Match the i-th row of each code on one side with the i-th of the same code on the other."""
    by_code, by_other = code.argsort(kind="stable"), other.argsort(kind="stable")
    first, code = first.take(by_code), code.take(by_code)
    second, other = second.take(by_other), other.take(by_other)
    if len(code) == len(other) and bool((code == other).all()):
        return Ends(first, second, code, np.empty(0, first.dtype))
    left, right = _number(code), _number(other)
    _, at, its = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    lonely = [np.delete(first, at), np.delete(second, its)]
    return Ends(first[at], second[its], code[at], np.sort(np.concatenate(lonely)))


def _number(code: Array) -> Array:
    """Each sorted code joined with its position among equals, as one number."""
    begins = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]])) if len(code) else code
    position = np.arange(len(code)) - np.repeat(begins, np.diff([*begins, len(code)]))
    return code.astype(np.int64) * (2**32) + position
