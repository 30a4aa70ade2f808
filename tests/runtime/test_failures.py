"""A rank raises, dies, hangs or stops in the middle of a step: every rank ends and says why."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from piped import WIDTH, compiled
from ranks import Answer, Ranks
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from pipec import Channels
from pipec.runtime import Pipeline

pytestmark = pytest.mark.slow

MICROBATCHES, STEPS = 4, 3
AT = STEPS * MICROBATCHES - 1
"""The call in which a stage fails: the third microbatch of the last step but one."""

LIMIT = 20.0
"""Seconds in which every rank must have ended; they take a tenth of a second to three."""

Fresh = Callable[[int], Ranks]


def fail(how: str) -> None:
    match how:
        case "raise":
            raise ValueError("stage broke")
        case "long":
            raise ValueError("stage bröke" + "ö" * 20000)
        case "interrupt":
            raise KeyboardInterrupt
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "hold":
            ctypes.PyDLL(None).sleep(600)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)


class Failing(nn.Module):
    """A stage that fails in one of its calls, forward or backward."""

    def __init__(self, how: str, backward: bool) -> None:
        super().__init__()
        self.linear, self.how, self.calls, self.backward = nn.Linear(WIDTH, WIDTH), how, 0, backward

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.linear(x)
        if self.calls == AT and self.backward:
            y.register_hook(lambda _: fail(self.how))
        elif self.calls == AT:
            fail(self.how)
        return y


def train(
    rank: int,
    group: ProcessGroup | None,
    culprit: int,
    how: str,
    options: dict[str, Any],
    errors: str = os.devnull,
) -> None:
    """Train until the culprit fails; the error of this rank goes back to the test."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if options.get("apart"):
        node = platform.node()
        platform.node = lambda: f"{node}-{rank}"  # type: ignore[assignment]
    plan = compiled(options.get("schedule", "1f1b"), torch.distributed.get_world_size(), 4)
    mine = how if rank == culprit else ""
    stages = {stage: Failing(mine, options.get("backward", False)) for stage in plan.stages(rank)}
    pipe = Pipeline(
        plan,
        stages,
        loss_fn=functional.mse_loss,
        channels=options.get("channels"),
        timeout=options.get("timeout", 60.0),
    )
    token = pipe._key.rpartition("/")[2]
    torch.distributed.barrier()  # each host's ranks remove the file of their host
    assert not [path for path in shared_files() if token in path.name], "a file was left behind"
    x = torch.ones(MICROBATCHES, WIDTH)
    for number in range(STEPS + 1):
        if options.get("evaluate") and number:
            pipe.eval(x, x)
        else:
            pipe.step(x, x)


def shared_files() -> Sequence[Path]:
    return [*Path("/dev/shm").glob("pipec-*"), *Path("/tmp").glob("pipec-*")]


def failing(fresh: Fresh, count: int, culprit: int, how: str, **options: Any) -> list[Answer]:
    """The answers of all ranks, none of which may come too late."""
    return fresh(count).answers(train, culprit, how, options, limit=LIMIT)


def check_error(answer: Answer, *words: str) -> None:
    assert answer.kind == "PipelineError", answer
    for word in words:
        assert word in answer.error, f"`{word}` is not in: {answer.error}"
    assert re.match(r"\S*1f1b\.pipe:\d+:\d+: ", answer.error), answer.error


INSTRUCTION = "`F main 1 2`"


@pytest.mark.parametrize("wires", ["tagged", "pair", "rank"])
@pytest.mark.parametrize("apart", [False, True])
def test_raise(fresh: Fresh, wires: str, apart: bool) -> None:
    """All ranks name the rank, its instruction and its exception, on one host and on several."""
    channels = None if wires == "tagged" else Channels(wires)
    answers = failing(fresh, 3, 1, "raise", channels=channels, apart=apart)
    for rank, answer in enumerate(answers):
        check_error(answer, "rank 1 failed at index", INSTRUCTION, "ValueError: stage broke")
        assert rank == 1 or f"; rank {rank} " in answer.error


def test_raise_at_length(fresh: Fresh) -> None:
    """A message of any length ends the others too; they are told how it begins."""
    answers = failing(fresh, 3, 1, "long")
    assert len(answers[1].error) > 20000
    for rank in (0, 2):
        check_error(answers[rank], "rank 1 failed at index", INSTRUCTION, "ValueError: stage bröke")
        assert len(answers[rank].error) < 8000


def test_raise_in_backward(fresh: Fresh) -> None:
    """An exception in the backward of a stage is told likewise, with the instruction it was in."""
    for answer in failing(fresh, 3, 1, "raise", backward=True):
        check_error(answer, "rank 1 failed at index", "`BW main 1 2`", "ValueError: stage broke")


def test_interrupt(fresh: Fresh) -> None:
    """A rank that is interrupted ends the others too, and stays interrupted."""
    answers = failing(fresh, 3, 1, "interrupt")
    assert answers[1].kind == "KeyboardInterrupt"
    for answer in (answers[0], answers[2]):
        assert answer.kind == "PipelineError"
        assert "rank 1 was interrupted (KeyboardInterrupt)" in answer.error


@pytest.mark.parametrize("culprit", [0, 1, 2])
@pytest.mark.parametrize("apart", [False, True])
def test_kill(fresh: Fresh, culprit: int, apart: bool) -> None:
    """A rank that is killed, the host of the store too, is named with where it was last seen."""
    answers = failing(fresh, 3, culprit, "kill", apart=apart)
    assert answers[culprit].kind == "ended" and answers[culprit].exit == -signal.SIGKILL
    for rank, answer in enumerate(answers):
        if rank == culprit:
            continue
        assert answer.kind == "PipelineError", answer
        if apart:
            assert re.search(r"connection|store", answer.error), answer.error
        else:
            check_error(answer, f"rank {culprit} died", f"`F main {culprit} 2`", f"rank {rank} ")


@pytest.mark.parametrize("wires", ["pair", "directed"])
def test_kill_under_strict_channels(fresh: Fresh, wires: str) -> None:
    """Strict channels end as well, with the same words."""
    answers = failing(fresh, 3, 1, "kill", channels=Channels(wires))
    for rank in (0, 2):
        check_error(answers[rank], "rank 1 died", INSTRUCTION, f"rank {rank} ")


def test_exit(fresh: Fresh) -> None:
    """A rank whose process exits in a stage is named."""
    answers = failing(fresh, 4, 2, "exit")
    assert answers[2].exit == 3
    for rank in (0, 1, 3):
        check_error(answers[rank], "rank 2 died", "`F main 2 2`")


@pytest.mark.parametrize(("wires", "apart"), [("tagged", False), ("pair", False), ("tagged", True)])
def test_hang(fresh: Fresh, tmp_path: Path, wires: str, apart: bool) -> None:
    """After the timeout all ranks end, the hung one by force with the stacks of its threads."""
    channels = None if wires == "tagged" else Channels(wires)
    options = {"timeout": 1.0, "channels": channels, "apart": apart}
    log = tmp_path / "errors"
    answers = fresh(3).answers(train, 1, "hang", options, str(log), limit=LIMIT)
    assert answers[1].kind == "ended" and answers[1].exit == 1
    for rank in (0, 2):
        check_error(
            answers[rank],
            "nothing has moved for 1 s",
            "rank 1 at index",
            f"{INSTRUCTION} computes; rank 1 does not move",
        )
    assert "rank 0 at index 11 `BW main 0 1` waits for `RECV B main 0 1 <- 1`" in answers[0].error
    assert "rank 2 at index 9 `F main 2 2` waits for `RECV F main 2 2 <- 1`" in answers[2].error
    said = log.read_text()
    assert "pipec: rank 1 is ended: nothing has moved for 1 s" in said
    assert "test_failures.py" in said and "in fail" in said


def test_hang_in_evaluation(fresh: Fresh) -> None:
    """In `eval`, ranks are placed in the stream of the forwards."""
    answers = failing(fresh, 3, 1, "hang", timeout=1.0, evaluate=True)
    assert answers[1].kind == "ended"
    for rank in (0, 2):
        check_error(answers[rank], f"rank 1 at index 7 {INSTRUCTION} computes")
    assert "rank 2 at index 5 `F main 2 2` waits for `RECV F main 2 2 <- 1`" in answers[2].error


def test_stop(fresh: Fresh) -> None:
    """A stopped rank is told from one that computes, and ends as soon as it goes on."""
    ranks = fresh(3)
    ranks.begin(train, 1, "stop", {"timeout": 1.0}, on=range(3))
    for answer in ranks.collect((0, 2), LIMIT):
        check_error(answer, "nothing has moved for 1 s", INSTRUCTION, "rank 1 is stopped")
    stopped = ranks.processes[1]
    assert stopped.is_alive() and stopped.pid is not None
    os.kill(stopped.pid, signal.SIGCONT)
    (answer,) = ranks.collect((1,), LIMIT)
    check_error(answer, "nothing has moved for 1 s", "rank 1 is stopped")


def test_hang_in_c(fresh: Fresh) -> None:
    """A rank whose interpreter is held looks stopped, and the others do not wait for it."""
    ranks = fresh(3)
    ranks.begin(train, 1, "hold", {"timeout": 1.0}, on=range(3))
    for answer in ranks.collect((0, 2), LIMIT):
        check_error(answer, "nothing has moved for 1 s", INSTRUCTION, "rank 1 is stopped")


def outside(rank: int, group: ProcessGroup | None) -> None:
    """Rank 1 stays in its own code after the first step, where the others wait for it."""
    plan = compiled("1f1b", 3, 4)
    stages = {stage: Failing("", False) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=functional.mse_loss, timeout=1.0)
    x = torch.ones(MICROBATCHES, WIDTH)
    pipe.step(x, x)
    if rank == 1:
        time.sleep(2.5)
    pipe.step(x, x)


def test_away(fresh: Fresh) -> None:
    """A rank that does not come to the step is named as being in the user's own code."""
    for answer in fresh(3).answers(outside, limit=LIMIT):
        assert answer.kind == "PipelineError", answer
        assert "nothing has moved for 1 s" in answer.error
        assert "rank 1 is in no step (it is in your own code)" in answer.error


class Slow(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.linear, self.seconds = nn.Linear(WIDTH, WIDTH), seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.linear(x)


def slowly(rank: int, group: ProcessGroup | None) -> int:
    """Rank 3 waits longer than the timeout for its first message, while the others are at work."""
    plan = compiled("forward", 4, 1)
    stages = {stage: Slow(1.0 if stage < 3 else 0.0) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=functional.mse_loss, timeout=2.2)
    x = torch.ones(1, WIDTH)
    pipe.eval(x, x)
    pipe.close()
    return len(pipe.losses)


def test_slow_is_not_hung(fresh: Fresh) -> None:
    """Nobody is ended for waiting while other ranks make progress."""
    assert fresh(4).run(slowly) == [0, 0, 0, 1]


def gone(rank: int, group: ProcessGroup | None) -> float:
    """Rank 0, which hosts the store, has ended its part of the step and exits; rank 2 computes."""
    plan = compiled("forward", 3, 1)
    stages = {stage: Slow(2.5 if stage == 2 else 0.0) for stage in plan.stages(rank)}
    pipe = Pipeline(plan, stages, loss_fn=functional.mse_loss, timeout=60.0)
    x = torch.ones(1, WIDTH)
    pipe.eval(x, x)  # finds the shapes out, through the store
    pipe.eval(x, x)
    if rank == 0:
        os._exit(0)
    return float(len(pipe.outputs))


def test_rank_zero_ends_first(fresh: Fresh) -> None:
    """That rank 0 has ended its work and is gone with the store is no failure of the others."""
    zero, one, two = fresh(3).answers(gone, limit=LIMIT)
    assert zero.kind == "ended" and zero.exit == 0
    assert (one.kind, one.value) == ("", 0.0), one
    assert (two.kind, two.value) == ("", 1.0), two
