"""The documentation is true: its commands and code run, its output is what they print."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import PAGES, ROOT, Block, anchors, blocks, links, output_of

from pipec.cli import main
from pipec.findings import PipecError
from pipec.language import read
from pipec.source import Source

RANKS = {"README.md": 4, "experts.md": 4}
"""How many processes run the Python of a page that needs torch; else two."""

GIVEN = {
    "README.md": """
import torch
torch.distributed.init_process_group("gloo")
rank, device = torch.distributed.get_rank(), "cpu"
build_stage = lambda stage: torch.nn.Linear(4, 4)
loss_fn = torch.nn.functional.mse_loss
loader = [(torch.ones(8, 4), torch.zeros(8, 4))] * 2
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
"""
}
"""What the reader of a page has already."""


def _needs_ranks(page: Path) -> bool:
    """Whether the Python of a page runs on ranks."""
    code = (block.content for block in blocks(page) if block.language == "python")
    return any("torch" in content or "runtime" in content for content in code)


by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@by_page
def test_commands_and_code_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Every block of a page does what the page says it does, and prints what the page shows."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    rewritten: list[tuple[Block, str]] = []
    needs_ranks = _needs_ranks(page)
    for block in blocks(page):
        where = f"{page.name}:{block.begin}"
        if "not run" in block.marks:
            continue
        if "file" in block.marks:
            Path(block.marks["file"]).write_text(block.content, encoding="utf-8")
        if block.language == "sh":
            printed = _commands(block, where)
            shown = output_of(page, block)
            if shown and page.parent.name == "docs" and shown.content != printed:
                rewritten.append((shown, printed))
        elif block.language == "pipe" and "exit" not in block.marks:
            _reads(block, where)
        elif block.language == "python" and not needs_ranks:
            exec(compile(block.content, where, "exec"), names)
    if request.config.getoption("--update-goldens"):
        _rewrite(page, rewritten)
        return
    for block, printed_ in rewritten:
        assert block.content == printed_, f"{page.name}:{block.begin}: `pytest --update-goldens`"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if _needs_ranks(page)], ids=lambda page: page.stem
)
def test_code_runs_on_ranks(page: Path, tmp_path: Path) -> None:
    """The Python of a page that uses torch runs as one program in several processes."""
    code = [block for block in blocks(page) if block.language == "python"]
    code = [block for block in code if "not run" not in block.marks]
    script = tmp_path / f"{page.stem}.py"
    script.write_text(
        GIVEN.get(page.name, "") + "".join(block.content for block in code), encoding="utf-8"
    )
    _on_ranks(script, RANKS.get(page.name, 2))


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that exists, and a heading that is in it."""
    for target in links(page):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert path.is_relative_to(ROOT), f"{page.name} links out of the project: {target}"
        assert not heading or heading in anchors(path), f"{page.name} links to {target}"


# --- running --------------------------------------------------------------------------------------


def _commands(block: Block, where: str) -> str:
    """Run the commands of a block, one after the other; what the last one prints."""
    printed = ""
    commands = block.commands
    for number, line in enumerate(commands, 1):
        status = int(block.marks.get("exit", 0)) if number == len(commands) else 0
        found, printed = _command(line, where)
        assert found == status, f"{where}: {line}\n{printed}"
    if "code" in block.marks:
        assert f"[{block.marks['code']}]: " in printed, f"{where}: {printed}"
    return printed


def _command(line: str, where: str) -> tuple[int, str]:
    """The exit status of a command, and what it prints."""
    words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
    assert "&" not in words, f"{where}: quote the `&`, or a shell takes it: {line}"
    if words[0] != "pipec" or {"|", ">", "<", ";"} & set(words) or " --for " in line:
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "118"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        shell = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(shell, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "118", "RANK": None})
    result = runner.invoke(main, shlex.split(line, comments=True)[1:], prog_name="pipec")
    lines = [text.rstrip() for text in result.output.strip("\n").splitlines()]
    return result.exit_code, "\n".join(lines) + "\n"


def _reads(block: Block, where: str) -> None:
    """A `pipe` block is a schedule, lines of a schedule, or lines of a rank's program."""
    try:
        read(Source(where, _whole(block.content)))
    except PipecError as error:
        pytest.fail(f"{where}: {error}")


def _whole(content: str) -> str:
    first = content.lstrip('"').split(maxsplit=1)[0]
    if content.startswith(('"""', "schedule")):
        return content
    indented = "".join(f"    {line}\n" for line in content.splitlines())
    in_program = first.startswith(("F", "B", "W", "repeat", "for", "if"))
    head = "schedule fragment(P, M, v=2):\n"
    if "flow " not in content:
        head += "    flow main(stages=P, microbatches=M): rank = stage\n"
    if in_program:
        return (
            head
            + "    on rank r:\n"
            + indented.replace("    ", "        ", 1).replace("\n    ", "\n        ")
        )
    return head + indented + ("" if "on rank" in content else "    on rank r:  F\n")


def _rewrite(page: Path, rewritten: list[tuple[Block, str]]) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for block, printed in reversed(rewritten):
        lines[block.begin : block.end] = printed.splitlines()
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _on_ranks(script: Path, ranks: int) -> None:
    """Run a script as torchrun would; every process must end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    size = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "forked.py"), str(script), str(ranks)],
        env={**os.environ, **size, **place},
        cwd=script.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors[-6000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
