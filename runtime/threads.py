"""Threads beside the main one: how long they are waited for; gloo's own, kept out of its way."""

import contextlib
import os
from pathlib import Path

FAREWELL = 10.0
"""Seconds that a thread has to end before the interpreter does: more than a store takes to answer,
or a busy machine to run it. One that is still inside C++ then aborts the process.
"""


def calm_gloo_threads() -> None:
    """Let gloo's loops not preempt the thread that computes and posts (Linux; elsewhere nothing).

    A loop that cannot take a connection's lock asks again at once. Woken on the core of the thread
    that holds the lock, it takes that core away and spins for the rest of its time slice: on two
    cores two thirds of all CPU time went there (bench/overhead.py). As a batch thread it waits
    until the core is free, or runs on another; where cores are idle nothing changes.
    """
    tasks = Path("/proc/self/task")
    if not hasattr(os, "SCHED_BATCH") or not tasks.is_dir():
        return
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):
            if "gloo" in (task / "comm").read_text():
                os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
