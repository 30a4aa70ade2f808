"""The command `pipec` while it is still being loaded: Ctrl-C ends it then as it does later.

Loaded before everything else. Where `pipec` is imported by another program, nothing is changed.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

ABORTED = 1
"""The exit status of a command that is interrupted."""


def is_loaded() -> None:
    """From here on Ctrl-C raises `KeyboardInterrupt`, which the command answers."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    return os.path.splitext(name)[0] in ("pipec", "pipec-script")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """There is nothing to clean up yet; an exception would go through half of an import."""
    os.write(2, b"\nAborted!\n")
    os._exit(ABORTED)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, _end)
