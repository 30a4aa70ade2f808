"""Ordinary scripts, from start to exit: what a rank prints, and with which code it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LIMIT = 120
"""Seconds for a script, most of which go into importing torch on a busy machine."""

SCRIPT = """
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

import pipec
from pipec.runtime import Pipeline

rank, path, fails, topology = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "fails", sys.argv[4]
dist.init_process_group(
    "gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(minutes=1)
)


class Stage(nn.Linear):
    calls = 0

    def forward(self, x):
        Stage.calls += 1
        if fails and rank == 1 and Stage.calls == 5:
            raise ValueError("stage broke")
        return super().forward(x)


plan = pipec.compile("1f1b", P=2, M=3)
channels = None if topology == "tagged" else pipec.Channels(topology)
pipe = Pipeline(plan, {rank: Stage(4, 4)}, loss_fn=nn.functional.mse_loss, channels=channels)
for _ in range(4):
    pipe.step(torch.ones(3, 4), torch.zeros(3, 4))
print(f"rank {rank} is through")
"""


def ended(tmp_path: Path, how: str, topology: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of both ranks."""
    script, store = tmp_path / "train.py", tmp_path / "store"
    script.write_text(SCRIPT)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(store), how, topology],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=LIMIT) for process in ranks]
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [(process.returncode, *words) for process, words in zip(ranks, said, strict=True)]


@pytest.mark.parametrize("topology", ["tagged", "pair"])
def test_a_script_that_fails(tmp_path: Path, topology: str) -> None:
    """Both ranks end with code 1 and the same cause, and no thread aborts the interpreter."""
    for code, output, errors in ended(tmp_path, "fails", topology):
        assert code == 1, errors
        assert output == ""
        assert "PipelineError" in errors and "ValueError: stage broke" in errors
        assert "rank 1 failed at index" in errors and "1f1b.pipe:" in errors
        assert "terminate called" not in errors and "Fatal Python error" not in errors


def test_a_script_that_does_not_close(tmp_path: Path) -> None:
    """A pipeline needs no close and a file may be the store: both ranks end well and silently."""
    for rank, (code, output, errors) in enumerate(ended(tmp_path, "works", "pair")):
        assert (code, output) == (0, f"rank {rank} is through\n"), errors
        assert "Error" not in errors and "terminate called" not in errors


SLOW = """
import sys, time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

import pipec
from pipec.runtime import Pipeline

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)


class Slow:
    def check(self, keys):
        store.wait(["never"], timedelta(seconds=3))


plan = pipec.compile("1f1b", P=1, M=1)
pipe = Pipeline(plan, {0: nn.Linear(4, 4)}, loss_fn=nn.functional.mse_loss)
pipe.step(torch.ones(1, 4), torch.zeros(1, 4))
pipe._watchdog._store = Slow()
time.sleep(0.5)
"""


def test_a_script_that_ends_while_its_store_answers_slowly() -> None:
    """The watchdog's thread is waited for: within C++ it would abort the interpreter that ends."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SLOW], capture_output=True, text=True, env=environment, timeout=LIMIT
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_runtime_comes_with_its_first_use() -> None:
    """`import pipec` is enough for `pipec.runtime`, and leaves torch alone until then."""
    lines = [
        "import sys, pipec",
        "assert 'torch' not in sys.modules",
        "assert pipec.runtime.Pipeline and 'torch' in sys.modules",
        "assert not hasattr(pipec, 'runtim')",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=LIMIT)
