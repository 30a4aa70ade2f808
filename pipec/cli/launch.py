"""Local processes: started together, ended together, each by its own id."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipec.processes import end_with_parent, interruptible

_GRACE = 5.0
"""Seconds that processes get to end by themselves once one of them has failed."""


def launch(command: Sequence[str], ranks: int) -> int:
    """Run `command` in `ranks` processes, as torchrun does on one machine; the worst exit status.

    Rank 0 writes to this terminal; what the others wrote to stderr is shown for the first one that
    failed. However this function is left, no process stays behind.
    """
    with interruptible(), tempfile.TemporaryDirectory(prefix="pipec-") as folder:
        logs = [Path(folder) / f"rank{rank}" for rank in range(ranks)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            port = _free_port()
            for rank in range(ranks):
                processes.append(_start(command, rank, ranks, port, logs[rank]))
            return _watch(processes, logs)
        finally:
            _end(processes)


def _start(
    command: Sequence[str], rank: int, ranks: int, port: int, log: Path
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    with log.open("wb") as errors:
        return subprocess.Popen(
            command,
            env=environment,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _watch(processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> int:
    """Wait for all, or for the first failure and then a while for the others."""
    deadline = None
    first: int | None = None
    while any(process.poll() is None for process in processes):
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        if failed and deadline is None:
            first, deadline = failed[0], time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    failed = [rank for rank, process in enumerate(processes) if process.poll() != 0]
    if not failed:
        return 0
    shown = first if first is not None else failed[0]
    sys.stderr.write(logs[shown].read_text(errors="replace"))
    codes = ", ".join(f"rank {rank}: {processes[rank].poll()}" for rank in failed)
    sys.stderr.write(f"pipec: rank {shown} failed first (exit status {codes})\n")
    return 1


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
