"""Real processes for the tests of the runtime: they import torch once and run many cases.

A process is forked from a server that has imported everything already, so a fresh set of ranks
takes a tenth of a second. Every process is ended by its own id, and every wait has a limit.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

Work = Callable[..., Any]
"""`work(rank, group, *arguments)`: what one rank does; its answer goes back to the test."""

LIMIT = 60.0
"""Seconds that a case may take; far more than any needs."""

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when the server imports torch
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "pipec", "pipec.runtime"])


@dataclass(frozen=True)
class Answer:
    """What came of one rank: a value, an error, or the end of its process."""

    value: Any = None
    error: str = ""
    kind: str = ""
    trace: str = ""
    exit: int | None = None
    seconds: float = 0.0


class Ranks:
    """Some processes that form a gloo group; rank 0 hosts the store, as under torchrun."""

    def __init__(self, count: int):
        pipes = [_CONTEXT.Pipe() for _ in range(count)]
        self._ends: list[Connection] = [ours for ours, _ in pipes]
        self.processes = [
            _CONTEXT.Process(target=_serve, args=(rank, count, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()
        assert self._ends[0].poll(LIMIT), "rank 0 did not come up"
        self._groups = {tuple(range(count))}
        port = self._ends[0].recv()
        for end in self._ends[1:]:
            end.send(port)

    @property
    def alive(self) -> bool:
        """Whether all processes run, so that another case may be given to them."""
        return all(process.is_alive() for process in self.processes)

    def run(self, work: Work, *arguments: Any, on: Sequence[int] | None = None) -> list[Any]:
        """The values of `work` on the ranks of `on`, all of them if left out; no rank may fail."""
        answers = self.answers(work, *arguments, on=on)
        wrong = [
            f"rank {rank} (exit {answer.exit}): {answer.trace or answer.error}"
            for rank, answer in enumerate(answers)
            if answer.kind
        ]
        assert not wrong, "\n".join(wrong)
        return [answer.value for answer in answers]

    def answers(
        self, work: Work, *arguments: Any, on: Sequence[int] | None = None, limit: float = LIMIT
    ) -> list[Answer]:
        """What came of `work` on each rank; after a case that some rank failed, they are ended."""
        members = tuple(range(len(self.processes))) if on is None else tuple(on)
        self.begin(work, *arguments, on=members)
        return self.collect(members, limit)

    def begin(self, work: Work, *arguments: Any, on: Sequence[int]) -> None:
        """Let ranks begin with `work`."""
        if (members := tuple(on)) not in self._groups:
            self._groups.add(members)
            for end in self._ends:
                end.send((None, members, ()))
        for member in on:
            self._ends[member].send((work, members, arguments))

    def collect(self, members: Sequence[int], limit: float = LIMIT) -> list[Answer]:
        """Wait for the answers of ranks, or for their ends."""
        begin = time.monotonic()
        answers: dict[int, Answer] = {}
        while len(answers) < len(members) and time.monotonic() < begin + limit:
            open_ends = {self._ends[m]: m for m in members if m not in answers}
            for end in wait(list(open_ends), begin + limit - time.monotonic()):
                member = open_ends[end]
                answers[member] = self._answer(member, time.monotonic() - begin)
        for member in members:
            late = Answer(kind="late", error=f"nothing came within {limit:g} s", seconds=limit)
            answers.setdefault(member, late)
        for member in members:
            if answers[member].kind == "late" and self.processes[member].is_alive():
                os.kill(self.processes[member].pid or 0, signal.SIGUSR1)  # show where it stands
                time.sleep(0.2)
        if any(answer.kind in ("late", "ended") for answer in answers.values()):
            self.end()
        return [answers[member] for member in members]

    def _answer(self, member: int, seconds: float) -> Answer:
        try:
            value, error, kind, trace = self._ends[member].recv()
        except (EOFError, ConnectionResetError):
            self.processes[member].join(5)
            exit_code = self.processes[member].exitcode
            return Answer(kind="ended", error="", exit=exit_code, seconds=seconds)
        return Answer(value, error, kind, trace, None, seconds)

    def end(self) -> None:
        """End every process, each by its own id, and wait until it is gone."""
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.join(10)


def _serve(rank: int, count: int, end: Connection) -> None:
    """A rank: take cases until the test's end of the connection is closed."""
    faulthandler.register(signal.SIGUSR1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        end.send(store.port)
    else:
        store = dist.TCPStore("127.0.0.1", end.recv(), is_master=False)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(minutes=2)
    )
    groups: dict[tuple[int, ...], ProcessGroup | None] = {tuple(range(count)): None}
    while True:
        try:
            work, members, arguments = end.recv()
        except EOFError:
            return
        if work is None:
            groups[members] = dist.new_group(list(members))
        else:
            end.send(_outcome(work, groups[members], arguments))


def _outcome(
    work: Work, group: ProcessGroup | None, arguments: Sequence[Any]
) -> tuple[Any, str, str, str]:
    try:
        return work(dist.get_rank(group), group, *arguments), "", "", ""
    except BaseException as error:
        return None, str(error), type(error).__name__, traceback.format_exc()
