"""The watchdog: a thread per rank that notices failures anywhere and ends this rank in time."""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch.distributed import Store

from pipec.findings import Place
from pipec.program.program import Program
from pipec.runtime.errors import PipelineError
from pipec.runtime.links import Closable
from pipec.runtime.threads import FAREWELL
from pipec.runtime.watch.progress import BEAT, IDLE, MODE, POSITION, REASON, STEP, Board, Seen
from pipec.runtime.watch.story import Scene
from pipec.source import Span

_PERIOD = 0.1
"""Seconds between two looks."""

_GRACE = 2.0
"""Seconds that a rank gets to leave its step by itself after a failure."""

_PATIENCE = 1.0
"""Seconds without progress after which a rank looks whether what it waits for is still there."""

_STALE = 2.0
"""Seconds without a heartbeat after which a rank counts as stopped."""


@dataclass(frozen=True)
class Failure:
    """Why a pipeline ended: the first reason that any rank reported."""

    rank: int
    message: str
    instruction: str | None = None
    index: int | None = None
    span: tuple[int, int] | None = None

    @property
    def place(self) -> Place | None:
        """The instruction that failed."""
        if self.instruction is None or self.index is None:
            return None
        span = Span(*self.span) if self.span else None
        return Place(self.rank, self.index, self.instruction, span)


def failure_at(rank: int, message: str, where: Place | None) -> Failure:
    """A failure at an instruction."""
    if where is None:
        return Failure(rank, message)
    span = (where.span.start, where.span.end) if where.span else None
    return Failure(rank, message, where.instruction, where.index, span)


class Watchdog:
    """Watches one pipeline on one rank.

    The loop stores its position in `board.line`; everything else happens in the thread: it reads a
    flag in the store that any rank raises when it fails, follows the chain of waits when nothing
    has moved for `timeout` seconds, and closes the links, so that the main thread leaves its wait.
    If it does not (it is stuck in the user's code), the process is ended.
    """

    def __init__(
        self,
        program: Program,
        board: Board,
        store: Store,
        key: str,
        rank: int,
        remote: Sequence[int],
        links: Sequence[Closable],
        timeout: float,
    ):
        """remote: the ranks on other hosts, whose lines come through the store."""
        self.board = board
        self.failure: Failure | None = None
        self._store, self._key = store, key
        self._rank, self._remote, self._links = rank, remote, links
        self._timeout = timeout
        self._scene = Scene(program, board.read)
        self._gone_store = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._left = threading.Event()
        self._left.set()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="pipec watchdog")
        self._closing = threading.Thread(
            target=self._close_links, daemon=True, name="pipec closing"
        )
        self._thread.start()

    # --- called by the step -----------------------------------------------------------------------

    def enter(self, mode: int) -> None:
        """A step begins, TRAIN or EVAL. Raises `PipelineError` if the pipeline has ended."""
        if self.failure is not None:
            raise self.error("the pipeline failed before and cannot go on")
        if self._ended.is_set():
            raise PipelineError("the pipeline is closed", hint="make a new one")
        self.board.line[MODE] = mode
        self.board.line[POSITION] = 0
        self.board.line[STEP] += 1
        self._left.clear()

    def leave(self) -> None:
        """A step ended, well or not."""
        self.board.line[POSITION] = IDLE
        self._left.set()

    def report(self, failure: Failure) -> Failure:
        """Tell all ranks; the first reason wins and is returned."""
        text = self.board.reason() or _told(failure)
        with contextlib.suppress(RuntimeError):
            text = self._store.compare_set(f"{self._key}/failed", "", text).decode()
        return self._fail(text)

    def broken(self, error: BaseException) -> Failure:
        """A wait ended with an error: somebody else failed. Find out who, and report it."""
        deadline = time.monotonic() + 1.5
        while self.failure is None and time.monotonic() < deadline:
            if reason := self.board.reason():
                return self._fail(reason)
            if gone := self._gone():
                return self.report(self._death(gone[0]))
            self._ended.wait(0.02)
        if self.failure is not None:
            return self.failure
        return self.report(self._lost(error))

    def error(self, message: str) -> PipelineError:
        """The error that a step ends with: the first failure, and what this rank was doing."""
        failure = self.failure
        if failure is None:
            return PipelineError(message)
        source = self._scene.program.origins.source
        return PipelineError(
            f"{failure.message}; {message}", place=failure.place, source=source, code="failed"
        )

    def close(self) -> None:
        """Stop watching; a thread that is inside C++ when the interpreter ends would abort it."""
        self._ended.set()
        for thread in (self._thread, self._closing):
            if thread.is_alive() and threading.current_thread() is not thread:
                thread.join(FAREWELL)

    # --- the thread -------------------------------------------------------------------------------

    def _watch(self) -> None:
        last: object = None
        since, published = time.monotonic(), 0.0
        while not self._ended.wait(_PERIOD):
            line = self.board.line
            line[BEAT] += 1
            now = time.monotonic()
            self._look(now - published > 0.5)
            published = now if now - published > 0.5 else published
            if self.failure is not None:
                self._end()
                return
            places = None if self._left.is_set() else self._places()
            if places is None or places != last:
                last, since = places, now
            elif now - since > self._timeout:
                self.report(self._hang())
            elif now - since > _PATIENCE and (death := self._dead_end()):
                self.report(death)

    def _places(self) -> list[tuple[int, int]]:
        """Where all ranks are: while any of them moves, nobody hangs."""
        seen = [self.board.read(rank) for rank in range(self._scene.program.ranks)]
        return [(one.step, one.position) for one in seen]

    def _dead_end(self) -> Failure | None:
        """The death of the rank that this one waits for in the end, if its process is gone.

        Not every way of dying breaks a connection that somebody waits on. With rank 0 goes the
        store, from which alone that is no failure: it may have ended its work well.
        """
        culprit = self._scene.chain(self._rank).culprit
        if culprit in self._gone():
            return self._death(culprit)
        if culprit == 0 and self._rank != 0 and self._gone_store:
            return Failure(0, f"rank 0 is gone with its store ({self._gone_store})")
        return None

    def _look(self, exchange: bool) -> None:
        """Look for news: on this host's board, then in the store.

        The store ends with its host, which may have ended its work well: alone that is no failure.
        """
        if reason := self.board.reason():
            self._fail(reason)
        if self.failure is not None or self._gone_store:
            return
        try:
            if self._store.check([f"{self._key}/failed"]):
                self._fail(self._store.get(f"{self._key}/failed").decode())
            elif self._remote and exchange:
                self._exchange()
        except RuntimeError as error:
            self._gone_store = _short(error) or "no answer"

    def _exchange(self) -> None:
        """Publish this rank's line and read those of other hosts."""
        seen = self.board.read(self._rank)
        self._store.set(f"{self._key}/at/{self._rank}", json.dumps(asdict(seen)))
        for rank in self._remote:
            if self._store.check([f"{self._key}/at/{rank}"]):
                self.board.write(
                    rank, Seen(**json.loads(self._store.get(f"{self._key}/at/{rank}")))
                )

    def _fail(self, text: str) -> Failure:
        """Note the first reason, and pass it on to the ranks of this host."""
        with self._lock:
            if self.failure is None:
                self.failure = _parsed(text)
                self.board.give_reason(text)
            return self.failure

    def _end(self) -> None:
        """Free the main thread; if it does not come, end the process."""
        self._closing.start()  # not here: to abort a communicator of NCCL can block
        if self._left.wait(_GRACE):
            return
        failure = self.failure
        message = failure.message if failure else "unknown"
        sys.stderr.write(f"pipec: rank {self._rank} is ended: {message}\n")
        sys.stderr.write("pipec: its main thread did not return; its threads are here:\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        os._exit(1)

    def _close_links(self) -> None:
        for link in self._links:
            link.close()

    # --- who is to blame --------------------------------------------------------------------------

    def _hang(self) -> Failure:
        found = self._scene.chain(self._rank)
        culprit = found.culprit
        blame = f"rank {culprit} does not move"
        if found.circle:
            blame = "they wait for each other"
        elif self._is_stale(culprit):
            blame = f"rank {culprit} is stopped or unreachable (its record is not renewed)"
        message = f"nothing has moved for {self._timeout:g} s: {found}; {blame}"
        return failure_at(culprit, message, found.place)

    def _is_stale(self, rank: int) -> bool:
        """Whether a rank's watchdog has stopped; judged by watching, not by its clock."""
        if rank == self._rank:
            return False
        before, until = self.board.read(rank).beat, time.monotonic() + _STALE
        while time.monotonic() < until:
            time.sleep(_PERIOD)
            self.board.line[BEAT] += 1
            if rank in self._remote:
                with contextlib.suppress(RuntimeError):
                    self._exchange()
            if self.board.read(rank).beat != before:
                return False
        return True

    def _gone(self) -> list[int]:
        """The ranks of this host whose process is gone."""
        processes = {
            rank: self.board.read(rank).process
            for rank in range(self._scene.program.ranks)
            if rank != self._rank and rank not in self._remote
        }
        return [rank for rank, process in processes.items() if process and not _alive(process)]

    def _death(self, rank: int) -> Failure:
        seen = self._scene.standing(rank)
        return failure_at(rank, f"rank {rank} died; last seen: {seen.sentence}", seen.place)

    def _lost(self, error: BaseException) -> Failure:
        seen = self._scene.standing(self._rank)
        peer = "" if seen.waits_for is None else f" to rank {seen.waits_for}"
        message = f"the connection{peer} broke: {_short(error)}; {seen.sentence}"
        return failure_at(self._rank, message, seen.place)


def _told(failure: Failure) -> str:
    """A failure as text that fits on the board; a message that is too long is cut."""
    text = json.dumps(asdict(failure))
    while len(text) > REASON and failure.message:
        failure = replace(failure, message=f"{failure.message[: len(failure.message) // 2]} ...")
        text = json.dumps(asdict(failure))
    return text


def _parsed(text: str) -> Failure:
    fields: dict[str, Any] = json.loads(text)
    fields["span"] = tuple(fields["span"]) if fields["span"] else None
    return Failure(**fields)


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _alive(process: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
    except OSError:
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
