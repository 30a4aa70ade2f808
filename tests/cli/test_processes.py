"""How commands and their processes end: once, together, and whatever they are at."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import active_children
from typing import Any

import pytest

from pipec.processes import interruptible, uninterrupted, workers

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


@pytest.mark.parametrize("asked", ENDING)
def test_what_is_not_to_be_interrupted_is_not(asked: signal.Signals) -> None:
    """But for what is interruptible inside it; behind it everything is as it was."""
    before = [signal.getsignal(one) for one in ENDING]
    with uninterrupted():
        os.kill(os.getpid(), asked)
        with pytest.raises(KeyboardInterrupt), interruptible():
            os.kill(os.getpid(), asked)
        os.kill(os.getpid(), asked)
    assert [signal.getsignal(one) for one in ENDING] == before


def test_what_was_ignored_stays_ignored() -> None:
    """Under `nohup` a terminal may go."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_workers_end_when_they_are_left() -> None:
    """Whatever they are at, and signals to the whole group of processes leave them alone."""
    before = active_children()
    with workers(2) as pool:
        assert list(pool.map(signal.getsignal, ENDING)) == [signal.SIG_IGN] * len(ENDING)
        pool.submit(time.sleep, 600)
    assert active_children() == before


class Forking(ProcessPoolExecutor):
    """Is interrupted while it forks, in a function that forking calls back."""

    def submit(self, *job: Any, **more: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):  # is lost there
            os.kill(os.getpid(), signal.SIGINT)
        return super().submit(*job, **more)


def test_an_interruption_while_workers_are_made_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is answered behind that, and nobody is left."""
    monkeypatch.setattr("pipec.processes.ProcessPoolExecutor", Forking)
    before = active_children()
    with pytest.raises(KeyboardInterrupt), interruptible(), workers(1) as pool:
        pool.submit(int).result()
        pytest.fail("it went on")
    assert active_children() == before


def test_workers_of_another_thread() -> None:
    """Only the main thread answers signals; others may have workers all the same."""
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(_one_job).result() == 3


def _one_job() -> int:
    with workers(1) as pool:
        return pool.submit(abs, -3).result()


def test_a_worker_that_dies_is_told() -> None:
    """Nobody waits for what it was at."""
    with pytest.raises(ChildProcessError, match="memory"), workers(1) as pool:
        list(pool.map(os._exit, [1]))
