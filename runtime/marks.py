"""Where an accelerator is in its stream, while the host has issued all of it already."""

import time
from collections.abc import Callable

import torch

from pipec.runtime.watch.progress import POSITION

Run = Callable[[], None]

_PAUSE = 20e-6
"""Seconds between two looks at the device: as long as an instruction takes to issue."""


class Marks:
    """Events behind the waits of a stream. On a CPU there are none, for the host runs it itself.

    A wait only orders the device's work, so the host reaches the end of a step long before the
    device does. It then follows the marks, so that the watchdog sees where the device stands; a
    blocking synchronisation could never be left again if a message does not come.
    """

    __slots__ = ("_device", "_events", "_last")

    def __init__(self, device: torch.device):
        self._device = device
        self._events: list[tuple[int, torch.Event]] = []
        self._last = None if device.type == "cpu" else torch.Event(device)

    def behind(self, position: int, run: Run) -> Run:
        """A wait with a mark behind it."""
        if self._last is None:
            return run
        event = torch.Event(self._device)
        self._events.append((position, event))

        def marked() -> None:
            run()
            event.record()

        return marked

    def follow(self, line: "memoryview[int]", failed: Callable[[], bool]) -> None:
        """Wait until the device is through, storing its position in `line` like the host does.

        Raises `RuntimeError` when the pipeline has failed, since its messages do not come any more.
        """
        if self._last is None:
            return
        self._last.record()
        for position, event in self._events:
            line[POSITION] = position
            _until_done(event, failed)
        _until_done(self._last, failed)


def _until_done(event: torch.Event, failed: Callable[[], bool]) -> None:
    while not event.query():
        if failed():
            raise RuntimeError("the links were closed while the device waited")
        time.sleep(_PAUSE)
