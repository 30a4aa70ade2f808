"""The example with experts trains: its loss falls, also with more ranks than two by two."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("schedule", "ranks", "steps"), [("dualpipe", 4, 8)])
def test_loss_falls(tmp_path: Path, schedule: str, ranks: int, steps: int) -> None:
    """A few steps on local processes, as under torchrun, with half of the ranks per expert."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = tmp_path / "example.py"
    options = ["--schedule", schedule, "--steps", str(steps), "--batch", "1"]
    script.write_text(
        "import sys\n"
        "from pipec.examples.train_moe import main\n"
        f"sys.argv[1:] = {options!r}\n"
        "main()\n"
    )
    environment = {
        **os.environ,
        **{"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
    }
    forked = ROOT / "tests" / "docs" / "forked.py"
    done = subprocess.run(
        [sys.executable, str(forked), str(script), str(ranks)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"{schedule}: {ranks // 2} pipeline ranks x 2 pipelines" in done.stdout
    losses = [float(found) for found in re.findall(r"step .* loss ([\d.]+)", done.stdout)]
    assert losses[-1] < losses[0] - 0.5
