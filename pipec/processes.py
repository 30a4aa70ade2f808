"""Processes that work for a command: they end with it, and signals are the command's to answer."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from types import FrameType
from typing import NoReturn

_ASKING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""Signals that ask a command to end."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, the first signal that asks to end raises `KeyboardInterrupt`; more change nothing.

    So what is cleaned up inside is cleaned up whole. A signal that was ignored stays ignored, as
    under `nohup`. Only the main thread may enter.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for one in _ASKING:
            if signal.getsignal(one) is interrupt:
                signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _answered(interrupt):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, signals that ask to end change nothing, but where it is `interruptible` again.

    Only the main thread may enter.
    """

    def wait(number: int, frame: FrameType | None) -> None:
        """Not `SIG_IGN`, which `interruptible` would leave alone."""

    with _answered(wait):
        yield


@contextmanager
def _answered(answer: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, signals that ask to end are answered so, but for those that were ignored."""
    before = {one: signal.getsignal(one) for one in _ASKING}
    before = {one: kept for one, kept in before.items() if kept not in (signal.SIG_IGN, None)}
    try:
        for one in before:
            signal.signal(one, answer)
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _answered_later() -> Iterator[None]:
    """Inside, the first signal that asks to end is only noted; it is answered when this is left.

    For forking, which calls functions back that lose what is raised in them.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _answered(lambda number, frame: asked.append(number)):
        yield
    if asked:
        signal.raise_signal(asked[0])


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """So many forked processes, which end when this is left, whatever they are at.

    Raises `ChildProcessError` where one of them dies while results are waited for.
    """
    before = active_children()
    pool = ProcessPoolExecutor(count, get_context("fork"), _begin)
    try:
        with _answered_later():
            pool.submit(int)  # forks all of them
        yield pool
    except BrokenExecutor:
        raise ChildProcessError("a process was killed, perhaps for want of memory") from None
    finally:
        for process in active_children():
            if process not in before:
                process.kill()
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a new worker: leave signals to the command, and end when that is gone."""
    for one in _ASKING:
        signal.signal(one, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """Ask the kernel to end this process if its parent is gone, however that came about."""
    parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
