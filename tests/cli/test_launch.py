"""Local processes: started like torchrun's, all ended however the command ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipec.cli import main
from pipec.cli.launch import launch


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\nrank = os.environ['RANK']\n{code}"]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_every_rank_knows_its_place(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The environment is torchrun's; only rank 0 writes to the terminal."""
    code = (
        "keys = 'RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT'.split()\n"
        f"open(f'{tmp_path}/{{rank}}', 'w').write(' '.join(os.environ[key] for key in keys))\n"
        "print('hello from', rank)"
    )
    assert launch(python(code), 3) == 0
    lines = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    for rank, line in enumerate(lines):
        assert line[:5] == [str(rank), str(rank), "3", "3", "127.0.0.1"]
    assert len({line[5] for line in lines}) == 1
    assert capfd.readouterr().out == "hello from 0\n"


def test_the_first_failure_is_shown_and_ends_all(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, what the culprit wrote, who failed; the others do not stay behind."""
    monkeypatch.setattr("pipec.cli.launch._GRACE", 0.2)
    code = (
        f"open(f'{tmp_path}/{{rank}}', 'w').write(str(os.getpid()))\n"
        "if rank == '1': sys.exit('the reason')\n"
        "time.sleep(600)"
    )
    assert launch(python(code), 3) == 1
    told = capfd.readouterr().err
    assert "the reason\n" in told and "rank 1 failed first" in told
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert pids and gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind_an_interrupted_launcher(how: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, a polite end or -9 of the launcher: its processes go with it."""
    code = f"open(f'{tmp_path}/{{rank}}', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    starter = f"from pipec.cli.launch import launch; launch({python(code)!r}, 2)"
    process = subprocess.Popen([sys.executable, "-c", starter], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        files = [tmp_path / "0", tmp_path / "1"]
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, how)
        assert process.wait(30) != 0
        assert gone([int(file.read_text()) for file in files])
    finally:
        process.kill()
        process.wait()


def test_run_refuses_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch, or with a schedule that is not certified, no process starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipec.cli.training.launch", lambda *_: pytest.fail("started"))
    line = "run gpipe P=2 M=4 --memory-limit 1"
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 1 and "error[memory-limit]" in result.stderr
    monkeypatch.setattr("pipec.cli.training.find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["run", "gpipe", "P=2", "M=4"])
    assert result.exit_code == 2 and "pip install 'pipec[runtime]'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_run_starts_the_example_with_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process per rank, each given the verified plan; their status is that of the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    started = []
    monkeypatch.setattr(
        "pipec.cli.training.launch", lambda command, ranks: started.append((command, ranks)) or 1
    )
    line = "run 1f1b P=2 M=4 --steps 7 --batch 3 --out here"
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 1 and "certified 1f1b P=2 M=4" in result.stdout
    ((command, ranks),) = started
    assert ranks == 2 and command[1:3] == ["-m", "pipec.examples.train_lm"]
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert options["--steps"] == "7" and options["--batch"] == "3" and options["--out"] == "here"
    assert CliRunner().invoke(main, ["verify", options["--plan"]]).exit_code == 0
