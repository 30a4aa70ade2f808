"""Processes that work for a command: they end with it, and signals are the command's to answer."""

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.getsignal(one) for one in _ASKING}
    before = {one: kept for one, kept in before.items() if kept not in (signal.SIG_IGN, None)}
    try:
        for one in before:
            signal.signal(one, interrupt)
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def begin_worker() -> None:
    """In a new process of a pool: leave Ctrl-C to the command, and end when it does."""
    for one in _ASKING:
        signal.signal(one, signal.SIG_IGN if one == signal.SIGINT else signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """Ask the kernel to end this process if its parent is gone, however that came about."""
    parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
