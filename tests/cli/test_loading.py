"""Ctrl-C while the command is still being loaded."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = "import sys; sys.argv[0] = {name!r}; from pipec.cli import main; main(['list'])"
NUMPY = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
"""Stands for numpy, which takes most of the time: it is interrupted."""


@pytest.mark.parametrize(
    ("name", "ignored", "status", "said"),
    [
        ("/usr/bin/pipec", False, 1, "Aborted!"),
        ("pipec.exe", False, 1, "Aborted!"),
        ("train.py", False, -signal.SIGINT, "KeyboardInterrupt"),
        ("pipec", True, 7, ""),
    ],
)
def test_an_interruption_ends_it_as_later(
    name: str, ignored: bool, status: int, said: str, tmp_path: Path
) -> None:
    """Without a traceback, with the same words and status; other programs keep their own ways,
    and what was ignored stays ignored.
    """
    (tmp_path / "numpy.py").write_text(NUMPY)
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        ended = subprocess.run(
            [sys.executable, "-c", LOAD.format(name=name)],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
    finally:
        if kept is not None:
            signal.signal(signal.SIGINT, kept)
    assert ended.returncode == status and ended.stdout == ""
    assert said in ended.stderr
    assert ("Traceback" in ended.stderr) == (name == "train.py")


def test_a_loaded_command_answers_itself() -> None:
    """What was set while it was loaded is taken back: commands clean up what they have begun."""
    check = "import signal; assert signal.getsignal(2) is signal.default_int_handler"
    code = LOAD.format(name="pipec").replace("(['list'])", "(['list'], standalone_mode=False)")
    lines = f"{code}\n{check}"
    ended = subprocess.run([sys.executable, "-c", lines], stdout=subprocess.DEVNULL, timeout=60)
    assert ended.returncode == 0
