"""Signals that ask a command to end: once, as `KeyboardInterrupt`, and none is lost or doubled."""

import os
import signal
from collections.abc import Iterator

import pytest

from pipec.processes import interruptible

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A test that goes wrong leaves no handler behind."""
    before = {one: signal.getsignal(one) for one in ENDING}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("asked", ENDING)
def test_the_first_one_interrupts_and_more_change_nothing(asked: signal.Signals) -> None:
    """What is cleaned up is cleaned up whole; behind it everything is as it was."""
    before, cleaned = [signal.getsignal(one) for one in ENDING], []
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), asked)
        finally:
            for again in ENDING:
                os.kill(os.getpid(), again)
            cleaned.append(asked)
    assert cleaned == [asked]
    assert [signal.getsignal(one) for one in ENDING] == before


def test_what_was_ignored_stays_ignored() -> None:
    """Under `nohup` a terminal may go."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
