"""Whatever is on the command line, in the files or at the other end of a pipe: no traceback, the
right status, a message that helps, and no half-written file.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipec.cli import main
from pipec.cli.ending import BUG

PIPEC = str(Path(sys.executable).with_name("pipec"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipec(*words: str) -> Result:
    result = CliRunner().invoke(main, words)
    assert "Traceback" not in result.output and "bug of pipec" not in result.output
    return result


def process(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which `pipec` is ours; `pipefail` keeps its status."""
    path = os.pathsep.join([str(Path(PIPEC).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=60,
    )


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("1f1b", "1f1b"),
        ("1F1B", "1f1b"),
        ("onef1b", "1f1b"),
        ("OneF1B", "1f1b"),
        ("zb-h1", "zb1p"),
        ("ZB_1P", "zb1p"),
        ("zb-h2", "zb2p"),
        ("Interleaved-ZB", "interleavedzb"),
        ("LoopedBFS", "loopedbfs"),
        ("DualPipeV", "dualpipev"),
        ("VPP", "interleaved"),
    ],
)
def test_names_in_every_spelling(name: str, known: str) -> None:
    """Papers, torch and people write names in many ways; pipec answers with its own."""
    assert pipec("verify", name, "P=2", "M=4").stdout.startswith(f"certified {known} P=2 M=4")


@pytest.mark.parametrize(
    ("words", "status", "helps"),
    [
        ("verify 1fb1 P=2 M=2", 2, "did you mean `1f1b`?"),
        ("verify DualPip P=2 M=4", 2, "did you mean `dualpipe`?"),
        ("verify qqq P=2 M=2", 2, "`pipec list` shows the library"),
        ("verify missing/file.pipe", 2, "there is no schedule `missing/file.pipe`"),
        ("verify . P=2 M=2", 2, "`.` is a folder"),
        ("verify 1f1b", 1, "parameter `P` has no value"),
        ("verify 1f1b P=2", 1, "say `M=...`"),
        ("verify 1f1b P=2 M=2 m=2", 1, "no parameter `m`"),
        ("verify 1f1b P=2 M=2 M=2", 2, "M is given twice"),
        ("verify 1f1b P=2 M", 2, "K=V, not as 'M'"),
        ("verify 1f1b P=2 M=", 2, "K=V, not as 'M='"),
        ("verify P=2 M=2 1f1b", 2, "name the schedule before its sizes, not 'P=2' first"),
        ("verify 1f1b P=2 =2", 2, "K=V, not as '=2'"),
        ("verify 1f1b P=2 M=2.5", 2, "M takes an integer, true or false, not '2.5'"),
        ("verify 1f1b P=2 M=9" + "9" * 30, 2, "M is too large"),
        ("verify 1f1b P=2 M=9" + "9" * 5000, 2, "M takes an integer"),
        ("verify 1f1b P=2 M=true", 1, "an integer"),
        ("verify 1f1b P=0 M=2", 1, "number of ranks"),
        ("verify 1f1b P=-1 M=2", 1, "number of ranks"),
        ("verify 1f1b P=2 M=0", 1, "0 microbatches"),
        ("verify 1f1b P=2 M=1000000000", 1, "error[budget]"),
        ("verify 1f1b P=4 M=4 --budget 20", 1, "error[budget]"),
        ("verify 1f1b P=2 M=2 --cost FF=1", 2, "did you mean `F`?"),
        ("verify 1f1b P=2 M=2 --cost F=-1", 2, "the cost of `F` is not a number"),
        ("verify 1f1b P=2 M=2 --cost F=nan", 2, "the cost of `F` is not a number"),
        ("verify 1f1b P=2 M=2 --cost F=1/0", 2, "the cost of `F` is not a number"),
        ("verify 1f1b P=2 M=2 --cost F=1e99", 2, "the cost of `F` is too large"),
        ("verify 1f1b P=2 M=2 --cost F", 2, "--cost is given as K=V, not as 'F'"),
        ("verify 1f1b P=2 M=2 --cost F=1,,B=1", 2, "--cost is given as K=V, not as ''"),
        ("verify 1f1b P=2 M=2 --cost F=1,F=2", 2, "F is given twice"),
        ("verify 1f1b P=2 M=2 --cost F=1 --cost F=2", 2, "F is given twice"),
        ("verify 1f1b P=2 M=2 --memory-limit x", 2, "a number of 0 or more"),
        ("verify 1f1b P=2 M=2 --memory-limit nan", 2, "a number of 0 or more"),
        ("verify 1f1b P=2 M=2 --memory-limit=-1", 2, "a number of 0 or more"),
        ("verify 1f1b P=2 M=2 --memory-limit 1/0", 2, "a number of 0 or more"),
        ("verify 1f1b P=2 M=2 --memory-limit 1e400", 2, "a number of 0 or more"),
        ("verify 1f1b P=2 M=2 --credits -1", 2, "'--credits'"),
        ("verify 1f1b P=2 M=2 --credits 99999999999999999999", 2, "'--credits'"),
        ("verify 1f1b P=2 M=2 --channels bus", 2, "'pair'"),
        ("compile 1f1b P=2 M=2 -o missing/x.plan", 2, "missing/x.plan: No such file"),
        ("compile 1f1b P=2 M=2 -o .", 2, ".: Is a directory"),
        ("show 1f1b P=2 M=2 --svg missing/x.svg", 2, "missing/x.svg: No such file"),
        ("fmt missing.pipe", 2, "missing.pipe"),
        ("fmt .", 2, "is a directory"),
        ("fmt", 2, "Missing argument"),
        ("vrify 1f1b", 2, "verify"),
    ],
)
def test_mistakes_on_the_command_line(words: str, status: int, helps: str) -> None:
    """Each has the right status, a message on stderr that helps, and nothing on stdout."""
    result = pipec(*words.split())
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert helps in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("empty.pipe", b"", "incomplete"),
        ("binary.pipe", bytes(range(256)) * 4, "syntax"),
        ("zeros.pipe", bytes(1000), "syntax"),
        ("empty.plan", b"", "plan"),
        ("binary.plan", bytes(range(256)) * 4, "plan"),
        ("foreign.plan", b"{}", "plan"),
        ("foreign", b'{"cells": [], "nbformat": 4}', "plan"),
        ("list.plan", b"[1, 2]", "plan"),
        ("deep.plan", b'{"a":' * 100_000, "plan"),
        ("empty.listing", b"", "listing"),
        ("binary.listing", bytes(range(256)) * 4, "listing"),
        ("ranks", b"ranks 2\n", "listing"),
        ("huge.listing", b"ranks 999999\nflow a microbatches 2147483647 ranks 0\n", "listing"),
    ],
)
def test_files_that_are_something_else(name: str, content: bytes, code: str, folder: Path) -> None:
    """Status 1 and a finding that says what was expected, in every command that reads files."""
    (folder / name).write_bytes(content)
    for command in ("verify", "show", "compile", "compare"):
        result = pipec(command, name)
        assert result.exit_code == 1 and result.stdout == ""
        assert f"error[{code}]" in result.stderr


def test_plans_and_listings_take_no_sizes(folder: Path) -> None:
    """They have theirs; a K=V is a wrong command, not ignored."""
    pipec("compile", "1f1b", "P=2", "M=2", "-o", "x.plan")
    (folder / "x.listing").write_text(pipec("show", "x.plan", "--listing").stdout)
    for name, what in (("x.plan", "a plan"), ("x.listing", "a listing")):
        result = pipec("verify", name, "M=4")
        assert result.exit_code == 2 and f"{what} has its sizes already" in result.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.toml", "F = ["),
        ("x.toml", "Q = 1"),
        ("x.toml", "F = true"),
        ("x.toml", "F = []"),
        ("x.toml", "[F]\na = 1"),
        ("x.json", "[1]"),
        ("x.json", "[" * 100_000),
        ("x.json", '{"F": {"a": 1}}'),
        ("x.json", '{"F": NaN}'),
    ],
)
def test_costs_files_that_are_none(name: str, content: str, folder: Path) -> None:
    """A file of costs that cannot be read is a wrong command."""
    (folder / name).write_text(content)
    assert pipec("verify", "1f1b", "P=2", "M=2", "--costs", name).exit_code == 2
    assert pipec("verify", "1f1b", "P=2", "M=2", "--costs", ".").exit_code == 2


def test_costs_as_they_are_measured(folder: Path) -> None:
    """Numbers with many digits, in seconds, with exponents, per stage; --cost goes over a file."""
    (folder / "x.json").write_text('{"F": [0.012345678901234567, 1.25e-2], "B": 1e-5, "W": 0.01}')
    result = pipec("verify", "1f1b", "P=2", "M=2", "--costs", "x.json", "--ranks")
    assert result.exit_code == 0 and "F=[0.0123457, 0.0125], B=1e-05" in result.stdout
    result = pipec(*"verify 1f1b P=2 M=2 --costs x.json --cost F=0.01 --cost B=0.01".split())
    assert "makespan    0.09 " in result.stdout


def test_a_refused_command_leaves_the_old_file(folder: Path) -> None:
    """What is not certified, or cannot be written whole, does not touch what is there."""
    old = folder / "old.plan"
    old.write_text("precious")
    assert pipec(*"compile gpipe P=2 M=4 --memory-limit 1 -o old.plan".split()).exit_code == 1
    assert pipec(*"compile 1f1b P=2 -o old.plan".split()).exit_code == 1
    assert old.read_text() == "precious"
    assert os.listdir(folder) == ["old.plan"]


@pytest.mark.parametrize(
    "line",
    [
        "compile mine.pipe P=2 M=2 -o mine.pipe",
        "compile mine.pipe P=2 M=2 -o ./link",
        "show mine.pipe P=2 M=2 --svg mine.pipe",
        "import mine.pipe P=2 M=2 -o mine.pipe",
        "export mine.pipe P=2 M=2 --to listing -o mine.pipe",
    ],
)
def test_a_schedule_is_not_replaced_by_what_is_made_of_it(line: str, folder: Path) -> None:
    """A slip of the fingers must not cost the text that somebody wrote."""
    text = "schedule a(P, M):\n    flow main(stages=P, microbatches=M): rank = stage\n"
    text += "    on rank r:\n        repeat M:  F  BW\n"
    (folder / "mine.pipe").write_text(text)
    (folder / "link").symlink_to("mine.pipe")
    result = pipec(*line.split())
    assert result.exit_code == 2 and "is the schedule itself" in result.stderr
    assert (folder / "mine.pipe").read_text() == text
    result = pipec("show", "1f1b", "P=2", "M=2", "--costs", "mine.pipe", "--svg", "link")
    assert result.exit_code == 2 and "is the costs file itself" in result.stderr


def test_a_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle leaves no half file and no draft."""
    old = folder / "old.plan"
    old.write_text("precious")
    write = Path.write_text

    def fill(path: Path, data: str, **options: str) -> int:
        write(path, data[:100], **options)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", fill)
    for line in ("compile 1f1b P=2 M=2 -o old.plan", "show 1f1b P=2 M=2 --svg old.plan"):
        result = pipec(*line.split())
        assert result.exit_code == 2 and "old.plan: No space left on device" in result.stderr
    assert old.read_text() == "precious"
    assert os.listdir(folder) == ["old.plan"]


def test_writing_goes_through_links_and_into_pipes(folder: Path) -> None:
    """A link stays a link, a file keeps its mode, and a device is written to, not replaced."""
    (folder / "real.plan").write_text("old")
    (folder / "real.plan").chmod(0o640)
    (folder / "link.plan").symlink_to("real.plan")
    assert pipec(*"compile 1f1b P=2 M=2 -o link.plan".split()).exit_code == 0
    assert (folder / "link.plan").is_symlink()
    assert (folder / "real.plan").stat().st_mode & 0o777 == 0o640
    assert pipec("verify", "real.plan").exit_code == 0
    result = process("pipec compile 1f1b P=2 M=2 -o /dev/stdout | head -c 9")
    assert result.stdout == '{"format"' and Path("/dev/stdout").exists()


def test_fmt_formats_checks_and_keeps_going(folder: Path) -> None:
    """Each file is formatted or complained about; --check changes nothing; the worst counts."""
    rough = "schedule a( P,M ):\n  flow main(stages=P,microbatches=M): rank=stage # x\n"
    rough += "  on rank r:\n    repeat M: F\n    repeat M: BW\n"
    for name, content in (("rough.pipe", rough), ("broken.pipe", "schedule"), ("b.pipe", rough)):
        (folder / name).write_text(content)
    (folder / "latin.pipe").write_bytes(b"# caf\xe9\n" + rough.encode())
    assert pipec("fmt", "--check", "rough.pipe").exit_code == 1
    assert (folder / "rough.pipe").read_text() == rough
    result = pipec("fmt", "broken.pipe", "latin.pipe", "rough.pipe", "b.pipe")
    assert result.exit_code == 1
    assert "error[" in result.stderr and "not UTF-8" in result.stderr
    assert "formatted rough.pipe\nformatted b.pipe\n" in result.stderr
    assert (folder / "latin.pipe").read_bytes().startswith(b"# caf\xe9\n")
    assert (folder / "broken.pipe").read_text() == "schedule"
    assert "# x" in (folder / "rough.pipe").read_text()
    result = pipec("fmt", "--check", "rough.pipe", "b.pipe")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("name", ["[bold]x", "[x]", ":smile:", "a b", "x'y\"z", "ä", "-x"])
def test_names_that_look_like_something_else(name: str, folder: Path) -> None:
    """Names of files are printed as they are, whatever they mean to a terminal library."""
    target = f"./{name}.listing"
    Path(target).write_text(pipec(*"show 1f1b P=2 M=2 --listing".split()).stdout)
    result = pipec("compile", target, "-o", f"./{name}.plan")
    assert result.exit_code == 0 and f"certified {name}: " in result.stdout
    assert f"{name}.plan  (digest" in result.stdout
    assert f"{name}  (costs" in pipec("show", target).stdout
    assert name in pipec("compare", target).stdout
    result = pipec("compare", target, f"./{name}.nothing")
    assert f"{name}.nothing is left out" in result.stderr
    assert f"{name}.nothing`" in pipec("verify", f"./{name}.nothing").stderr


def test_a_bug_of_ours_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody expects is called a bug, with a status of its own."""
    monkeypatch.setattr("pipec.cli.proof.certify", lambda *_: 1 // 0)
    result = CliRunner().invoke(main, ["verify", "1f1b", "P=2", "M=2"])
    assert result.exit_code == BUG
    assert "This is a bug of pipec, not yours: ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr


# --- at the other end of a pipe -------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "show dualpipe P=8 M=64 --listing",
        "show dualpipe P=8 M=64 --order --format json",
        "show dualpipe P=8 M=64",
        "list",
        "verify dualpipe P=8 M=16 --ranks",
    ],
)
def test_a_reader_that_leaves(words: str) -> None:
    """`pipec ... | head -1` prints one line and nothing else."""
    result = process(f"pipec {words} | head -1")
    assert len(result.stdout.splitlines()) == 1 and result.stderr == ""


def test_a_disk_that_is_full() -> None:
    """Results that cannot be written are an error that says so."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for form in ("text", "json"):
        result = process(f"pipec verify 1f1b P=2 M=2 --format {form} > /dev/full")
        assert result.returncode == 2
        assert result.stderr == "error[usage]: No space left on device\n\n"


def test_pipes_carry_no_escape_codes_and_no_wrapped_lines() -> None:
    """Without a terminal there is neither colour nor a width, whatever TERM says."""
    lines = "pipec list; pipec verify gpipe P=2 M=4 --memory-limit 1; pipec show zbv P=2 M=4"
    result = process(lines, TERM="xterm-256color")
    assert "\x1b" not in result.stdout + result.stderr
    (line,) = (line for line in result.stdout.splitlines() if "DualPipe: bi" in line)
    assert "2412.19437" in line and "M >= 2 * P" in line


def test_terminals_get_colour_unless_told_otherwise() -> None:
    """On a terminal there is colour; NO_COLOR takes it away."""
    line = "script -qec 'pipec show 1f1b P=2 M=2' /dev/null"
    if process("script --version").returncode:
        pytest.skip("needs script")
    assert "\x1b[" in process(line, TERM="xterm-256color").stdout
    plain = process(line, TERM="xterm-256color", NO_COLOR="1").stdout
    assert not any(f"\x1b[{code}" in plain for code in ("3", "38;", "4", "48;"))


def test_a_terminal_without_unicode() -> None:
    """Where the encoding lacks a character, something else is printed, and nothing fails."""
    line = "pipec show 1f1b P=2 M=2 && pipec list && pipec compare 1f1b gpipe P=2 M=2"
    result = process(line, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "F0" in result.stdout


def test_an_interrupted_command_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C gives no traceback."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipec.cli.proof.certify", interrupt)
    result = pipec("verify", "1f1b", "P=2", "M=2")
    assert (result.exit_code, result.stdout) == (1, "") and "Aborted!" in result.stderr
