"""Which SEND meets which RECV: by position in each directed pair of ranks, as the wire does it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.program.effects import Kind
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
        sends = np.flatnonzero(program.kind == Kind.SEND)
        recvs = np.flatnonzero(program.kind == Kind.RECV)
        out = program.rank[sends].astype(np.int64) * program.ranks + program.peer[sends]
        back = program.peer[recvs].astype(np.int64) * program.ranks + program.rank[recvs]
        return _meet(sends, out, recvs, back, program.ranks)

    @cached_property
    def by_operation(self) -> Ends:
        """SEND and RECV rows matched by what they carry, as tagged channels do."""
        program, known = self.program, self.messages
        same = program.operation[known.first] == program.operation[known.second]
        if not len(known.unmatched) and same.all():
            return known
        sends = np.flatnonzero(program.kind == Kind.SEND)
        recvs = np.flatnonzero(program.kind == Kind.RECV)
        ranks, size = program.ranks, max(program.placement.size, 1)
        out = program.rank[sends].astype(np.int64) * ranks + program.peer[sends]
        back = program.peer[recvs].astype(np.int64) * ranks + program.rank[recvs]
        keys = out * size + program.operation[sends], back * size + program.operation[recvs]
        _, keys_together = np.unique(np.concatenate(keys), return_inverse=True)
        keys = keys_together[: len(sends)], keys_together[len(sends) :]
        ends = _meet(sends, keys[0], recvs, keys[1], 0)
        channel = program.rank[ends.first].astype(np.int64) * ranks + program.peer[ends.first]
        posted = np.lexsort((ends.first, channel))  # credits count messages as they are posted
        first, second = ends.first[posted], ends.second[posted]
        return Ends(first, second, channel[posted], ends.unmatched)

    @cached_property
    def sums(self) -> Ends:
        """SUM rows of the lower rank (first) and of the higher one (second), by position."""
        program = self.program
        rows = np.flatnonzero(program.kind == Kind.SUM)
        rank, peer = program.rank[rows].astype(np.int64), program.peer[rows].astype(np.int64)
        group = np.minimum(rank, peer) * program.ranks + np.maximum(rank, peer)
        low = rank < peer
        return _meet(rows[low], group[low], rows[~low], group[~low], program.ranks)


def _meet(first: Array, code: Array, second: Array, other: Array, ranks: int) -> Ends:
    """Match the i-th row of each code on one side with the i-th of the same code on the other."""
    by_code, by_other = np.argsort(code, kind="stable"), np.argsort(other, kind="stable")
    first, code = first[by_code], code[by_code]
    second, other = second[by_other], other[by_other]
    if np.array_equal(code, other):
        return Ends(first, second, code, np.empty(0, np.int64))
    left, right = _number(code), _number(other)
    both, at, its = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    lonely = [np.delete(first, at), np.delete(second, its)]
    del both
    return Ends(first[at], second[its], code[at], np.sort(np.concatenate(lonely)))


def _number(code: Array) -> Array:
    """Each sorted code joined with its position among equals, as one number."""
    begins = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]])) if len(code) else code
    position = np.arange(len(code)) - np.repeat(begins, np.diff([*begins, len(code)]))
    return code * (2**32) + position
