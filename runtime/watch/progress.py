"""Where every rank of a pipeline is: one line of shared memory each, one store per instruction.

Ranks of one host share a file that is unlinked as soon as all have opened it, so nothing is left
behind however they end. Lines of other hosts are copied through the store by the watchdogs.
"""

import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

STEP, POSITION, BEAT, PROCESS, MODE = range(5)
"""Fields of a line: steps begun, position in the stream, the watchdog's heartbeat, process id, and
which stream (TRAIN or EVAL)."""

TRAIN, EVAL = range(2)

_FIELDS = 8
_LINE = 8 * _FIELDS
REASON = 8192
"""Bytes that a reason may have."""
IDLE = 2**62
"""The position of a rank that is in no step: at work in the user's own code."""


@dataclass(frozen=True)
class Seen:
    """What is known of a rank at one moment."""

    step: int
    position: int
    beat: int
    process: int
    mode: int


class Board:
    """The lines of all ranks. `line` is this rank's own, a writable view of 64-bit integers."""

    def __init__(self, name: str, rank: int, ranks: int):
        """name: the same on all ranks of this host and of no other pipeline."""
        self._path = _directory() / f"pipec-{os.getuid()}-{name}"
        size = ranks * _LINE + 8 + REASON
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._lines = memoryview(self._map)[: ranks * _LINE].cast("Q")
        self._end = ranks * _LINE
        self.line = self._lines[rank * _FIELDS : (rank + 1) * _FIELDS]
        self.line[STEP] = 0
        self.line[POSITION] = IDLE
        self.line[PROCESS] = os.getpid()

    def opened(self) -> None:
        """Every rank has opened the board: its name is not needed any more."""
        self._path.unlink(missing_ok=True)

    def read(self, rank: int) -> Seen:
        """The line of a rank of this host."""
        return Seen(*self._lines[rank * _FIELDS : rank * _FIELDS + 5].tolist())

    def reason(self) -> str:
        """Why the pipeline failed, as a rank of this host wrote it; empty while nothing failed."""
        size = int.from_bytes(self._map[self._end : self._end + 8], "little")
        return self._map[self._end + 8 : self._end + 8 + size].decode(errors="replace")

    def give_reason(self, text: str) -> None:
        """Let the ranks of this host know why the pipeline failed, even if the store is gone."""
        content = text.encode()[:REASON]
        if not self.reason():
            self._map[self._end + 8 : self._end + 8 + len(content)] = content
            self._map[self._end : self._end + 8] = len(content).to_bytes(8, "little")

    def write(self, rank: int, seen: Seen) -> None:
        """Copy in the line of a rank of another host."""
        for field, value in enumerate(
            (seen.step, seen.position, seen.beat, seen.process, seen.mode)
        ):
            self._lines[rank * _FIELDS + field] = value


def _directory() -> Path:
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
