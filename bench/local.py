"""Local processes for benchmarks: P ranks over gloo on loopback, all ended by their own ids."""

import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(work: Callable[..., Any], ranks: int, *arguments: Any, limit: float = 900) -> Any:
    """Call `work(rank, *arguments)` in `ranks` processes that form a group; rank 0's result.

    All are ended when one fails, or after `limit` seconds: then `TimeoutError` is raised.
    """
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_rank, args=(work, rank, ranks, port, results, arguments))
        for rank in range(ranks)
    ]
    try:
        for process in processes:
            process.start()
        deadline = time.monotonic() + limit
        while any(process.is_alive() for process in processes):
            if any(process.exitcode for process in processes):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{ranks} processes did not end within {limit:g} s")
            time.sleep(0.02)
        if any(process.exitcode != 0 for process in processes):
            sys.exit(f"a rank failed: exit codes {[p.exitcode for p in processes]}")
        return results.get()
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def _rank(
    work: Callable[..., Any], rank: int, ranks: int, port: int, results: Any, arguments: Any
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCH_CPP_LOG_LEVEL="ERROR")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=timedelta(minutes=10))
    value = work(rank, *arguments)
    if rank == 0:
        results.put(value)
    dist.barrier()
    dist.destroy_process_group()


def spread(values: list[float]) -> str:
    """`median (min to max)` of ratios."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{middle:.3f} ({ordered[0]:.3f} to {ordered[-1]:.3f})"
