"""Every command does what its help says, with every option, and ends with the right status."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipec.cli import main
from pipec.library import names

EXAMPLE = re.compile(r"^  +(torchrun \S+ \S+ \$\(which pipec\)|pipec) (?P<words>.+)$", re.M)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def pipec(line: str, status: int = 0, more: Sequence[str] = ()) -> Result:
    """Run a command line as a user types it (without quotes), and check its status."""
    result = CliRunner().invoke(main, [*line.split(), *more])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output and "bug of pipec" not in result.output
    return result


def as_json(line: str, status: int = 0, more: Sequence[str] = ()) -> Any:
    return json.loads(pipec(f"{line} --format json", status, more).stdout)


def test_list_has_a_line_a_schedule() -> None:
    """Every schedule of the library stands on a line of its own, with its constraints."""
    lines = pipec("list").stdout.splitlines()
    for name in names():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert "P, M" in line
    assert any("M >= 2 * P - 1" in line for line in lines if "zbv" in line)


def test_list_as_json() -> None:
    """The same as JSON."""
    entries = {entry["name"]: entry for entry in as_json("list")}
    assert sorted(entries) == sorted(names())
    assert entries["interleaved"]["parameters"] == ["P", "M", "v=2"]
    assert entries["zbv"]["constraints"] == ["M >= 2 * P - 1"]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_list_says_why_a_schedule_is_not_at_a_size(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its row, in place of its formulas; the figures of the others are there at any width."""
    monkeypatch.setenv("COLUMNS", columns)
    shown = pipec("list P=3 M=5").stdout
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert rows["1f1b"].split()[1:4] == ["6", "3", "(P-1)*(F+B+W)"]
    assert rows["interleaved"].split()[1:5] == ["-", "-", "needs", "M%P==0"]
    assert "needs P%2==0 and M%2==0 and M>=2*P" in rows["dualpipe"]
    limited = pipec("list P=3 M=5 --memory-limit 3").stdout
    assert "holds 4, expected at most 3" in limited and "…" not in limited.split("\n")[1]
    entries = {entry["name"]: entry for entry in as_json("list P=3 M=5")}
    (finding,) = entries["interleaved"]["left_out"]
    assert finding["code"] == "require" and "M % P == 0" in finding["expected"]
    assert entries["interleaved"]["at_size"] is None
    assert entries["1f1b"]["at_size"]["makespan"] == 21 and entries["1f1b"]["left_out"] is None


def test_verify_prints_the_certificate() -> None:
    """What was proved, under which costs, and with --ranks a line per rank."""
    printed = pipec("verify zbv P=2 M=4 --cost F=2,B=1,W=1 --ranks").stdout
    for word in ("certified zbv P=2 M=4", "no deadlock", "F=2, B=1, W=1", "busy"):
        assert word in printed


def test_verify_as_json_has_the_stated_form() -> None:
    """Exactly the fields that programs may rely on, and their types."""
    proved = as_json("verify 1f1b P=2 M=2 --cost F=1,B=1,W=1,send=0.5")
    assert proved["ok"] is True and proved["findings"] == []
    for topology in ("rank", "pair", "directed", "tagged"):
        assert proved["channels"][topology] == {"safe": True, "credits_needed": 0}
    assert proved["makespan"] == 10
    assert [sorted(rank) for rank in proved["ranks"]] == [
        ["bubble", "busy", "peak_index", "peak_memory", "peak_parts", "span_bubble"]
    ] * 2
    assert proved["ranks"][0] == {
        "busy": 6,
        "bubble": 4,
        "span_bubble": 4,
        "peak_memory": 2,
        "peak_index": 2,
        "peak_parts": {"activations": {"amount": 2, "count": 2}},
    }
    assert proved["memory"] == {
        "unit": "units",
        "limit": None,
        "not_counted": [],
        "largest_message": 0,
    }


def test_verify_as_json_when_rejected() -> None:
    """The same fields, with places that name rank, index, instruction and the text's line."""
    refused = as_json("verify gpipe P=2 M=4 --memory-limit 3", 1)
    assert refused["ok"] is False
    assert [finding["code"] for finding in refused["findings"]] == ["memory-limit"] * 2
    assert refused["findings"][0]["places"] == [
        {"rank": 0, "index": 6, "instruction": "F main 0 3", "source": "gpipe.pipe:10:20"}
    ]
    assert refused["channels"]["pair"] == {"safe": True, "credits_needed": 0}
    assert len(refused["ranks"]) == 2 and refused["makespan"] == 15


@pytest.mark.parametrize(
    ("line", "code", "status"),
    [
        ("verify nope P=2 M=2", "usage", 2),
        ("verify 1f1b P=two M=2", "usage", 2),
        ("verify 1f1b P=2 M=2 --channels bus", "usage", 2),
        ("verify 1f1b P=2 M=2 --bogus", "usage", 2),
        ("verify 1f1b P=2 M=2 --cost F=x", "usage", 2),
        ("verify 1f1b P=2 M=2 --costs missing.toml", "usage", 2),
        ("verify", "usage", 2),
        ("bogus", "usage", 2),
        ("compile 1f1b P=2 M=2 -o missing/x.plan", "usage", 2),
        ("verify 1f1b P=2", "parameter", 1),
        ("verify 1f1b P=2 M=2 K=3", "parameter", 1),
        ("verify zbv P=4 M=2", "require", 1),
        ("verify 1f1b P=2 M=100000000", "budget", 1),
        ("show zbv P=4 M=2", "require", 1),
        ("compile zbv P=4 M=2", "require", 1),
    ],
)
def test_every_failure_is_json_where_json_is_asked_for(line: str, code: str, status: int) -> None:
    """One document on stdout with the fields of `verify`, nothing on stderr."""
    result = pipec(f"{line} --format json", status)
    told = json.loads(result.stdout)
    assert told["ok"] is False and told["findings"][0]["code"] == code
    assert told["findings"][0]["message"]
    assert (told["channels"], told["makespan"], told["ranks"]) == ({}, None, [])
    assert result.stderr == ""


def test_show_order_as_json_has_the_stated_form() -> None:
    """Per rank the operations; an OVERLAP has its two parts."""
    order = as_json("show dualpipe P=2 M=4 --order")
    assert sorted(order) == ["0", "1"]
    assert order["0"][0] == {"op": "F", "flow": "down", "stage": 0, "mb": 0}
    (overlap,) = (operation for operation in order["0"] if operation["op"] == "OVERLAP")
    assert overlap == {
        "op": "OVERLAP",
        "parts": [
            {"op": "F", "flow": "up", "stage": 1, "mb": 1},
            {"op": "BW", "flow": "down", "stage": 0, "mb": 0},
        ],
    }


def test_show_order_as_text() -> None:
    """One line a rank, `&` between the halves of an OVERLAP."""
    printed = pipec("show dualpipe P=2 M=4 --order").stdout
    line = "F0.0 F1.0 F0.1 BW1.0 F1.1&BW0.0 BW1.1 B0.1 W0.1"
    assert printed == f"rank 0: {line}\nrank 1: {line}\n"


def test_show_draws_at_every_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a timeline is wider than the terminal, and every rank has one."""
    for width in (30, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = pipec("show dualpipe P=4 M=8").stdout.splitlines()
        ranks = [line for line in lines if line.startswith("rank ")]
        assert len(ranks) == 4 and {len(line) for line in ranks} == {len(ranks[0])}
        assert len(ranks[0]) <= width
        assert "BW" in ranks[0] or width < 60
        assert ("F3    &BW1" in ranks[0]) == (width == 200)


def test_figures_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal, every figure of a table is whole."""
    monkeypatch.setenv("COLUMNS", "40")
    for line in ("compare 1f1b zbv P=4 M=64 --cost F=123456", "verify zbv P=4 M=8 --ranks"):
        printed = pipec(line).stdout
        assert "…" not in printed
    rows = [line for line in printed.splitlines() if line.split()[:1] == ["3"]]
    assert [row.split() for row in rows] == ["3 48 3 0".split(), "3 8 15 F main 4 3 8".split()]


def test_show_without_any_time() -> None:
    """Costs of nothing give an empty picture, not a division by zero."""
    assert "makespan 0" in pipec("show 1f1b P=2 M=2 --cost F=0,B=0,W=0 --svg x.svg").stdout


def test_show_writes_pictures(folder: Path) -> None:
    """--svg writes a picture and still draws in the terminal."""
    assert "picture: x.svg" in pipec("show zbv P=2 M=4 --svg x.svg").stdout
    assert (folder / "x.svg").read_text(encoding="utf-8").startswith("<svg")


def test_show_listing_is_read_back(folder: Path) -> None:
    """A listing that was printed verifies like its schedule; --origins adds comments only."""
    for option in ("", " --origins"):
        (folder / "x.listing").write_text(pipec(f"show zbv P=2 M=4 --listing{option}").stdout)
        proved = as_json("verify x.listing")
        assert proved == as_json("verify zbv P=2 M=4")


@pytest.mark.parametrize(
    "line",
    [
        "show 1f1b P=2 M=2 --listing --order",
        "show 1f1b P=2 M=2 --listing --svg x.svg",
        "show 1f1b P=2 M=2 --order --svg x.svg",
        "show 1f1b P=2 M=2 --origins",
        "show 1f1b P=2 M=2 --listing --format json",
    ],
)
def test_show_refuses_what_it_would_ignore(line: str, folder: Path) -> None:
    """Options that exclude each other are a wrong command, and nothing is written."""
    pipec(line, 2)
    assert not list(folder.iterdir())


CROSSED = """\
ranks 2
flow down microbatches 1 ranks 0 1 backward false
flow up microbatches 1 ranks 1 0 backward false

rank 0:
    F     down 0 0
    SEND  F down 1 0 -> 1
    RECV  F up 1 0 <- 1
    F     up 1 0

rank 1:
    F     up 0 0
    SEND  F up 1 0 -> 0
    RECV  F down 1 0 <- 0
    F     down 1 0
"""


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("", 1),
        ("--channels rank", 1),
        ("--channels directed", 0),
        ("--channels tagged", 0),
        ("--credits 1", 0),
        ("--channels rank --credits 1", 0),
    ],
)
def test_channels_and_credits_decide(options: str, status: int, folder: Path) -> None:
    """The same program is safe under some channels and stuck under others, in every command."""
    (folder / "crossed.listing").write_text(CROSSED)
    result = pipec(f"verify crossed.listing {options}", status)
    assert ("deadlock[deadlock]" in result.stderr) == bool(status)
    pipec(f"show crossed.listing {options}", status)
    pipec(f"compile crossed.listing {options} -o x.plan", status)
    pipec(f"compare crossed.listing {options}", status)
    assert (folder / "x.plan").exists() == (not status)


def test_a_program_that_is_stuck_is_explained_by_show(folder: Path) -> None:
    """`show` cannot draw it, and says why as `verify` does, with the listing around each place."""
    (folder / "crossed.listing").write_text(CROSSED)
    shown, verified = pipec("show crossed.listing", 1), pipec("verify crossed.listing", 1)
    assert shown.stderr == verified.stderr and "rank 0\n" in shown.stderr


def test_compile_names_the_plan_by_schedule_and_sizes(folder: Path) -> None:
    """Without -o the name says what is inside, and it is the name that was asked for."""
    told = as_json("compile 1F1B P=2 M=2")
    assert told["plan"] == "1f1b-P2-M2.plan" and len(told["digest"]) == 64 and told["ok"]
    assert "digest " + told["digest"][:16] in pipec("compile onef1b P=2 M=2").stdout
    assert [path.name for path in folder.iterdir()] == ["1f1b-P2-M2.plan"]


def test_a_plan_goes_wherever_a_schedule_goes() -> None:
    """verify, show, compare and compile take a plan, and say the same as for its schedule."""
    pipec("compile zb-h1 P=2 M=3 --cost F=2 -o x.plan")
    assert as_json("verify x.plan") == as_json("verify zb1p P=2 M=3 --cost F=2")
    for form in ("", "--listing", "--order"):
        from_text = pipec(f"show ZB1P P=2 M=3 --cost F=2 {form}").stdout
        assert pipec(f"show x.plan {form}").stdout == from_text
    (row,) = as_json("compare x.plan")
    assert row["makespan"] == as_json("verify x.plan")["makespan"]
    again = as_json("compile x.plan -o y.plan")
    assert again["digest"] == as_json("compile x.plan -o x.plan")["digest"]


def test_compare_has_a_row_a_schedule() -> None:
    """The figures of `verify`, and the best of each."""
    rows = {row["schedule"]: row for row in as_json("compare 1f1b zbv P=2 M=4 --cost F=2")}
    for name, row in rows.items():
        proved = as_json(f"verify {name} P=2 M=4 --cost F=2")
        peak = max(rank["peak_memory"] for rank in proved["ranks"])
        assert (row["makespan"], row["peak_memory"]) == (proved["makespan"], peak)
        assert row["costs"] == proved["costs"] and row["ok"] is True
    assert rows["1f1b"]["stages_held"] == 1 and rows["zbv"]["stages_held"] == 2
    assert rows["1f1b"]["messages"] == 8 and rows["zbv"]["messages"] == 16
    printed = pipec("compare 1f1b zbv P=2 M=4 --cost F=2").stdout
    assert printed.count("costs F=2, B=1, W=1, send=0") == 1


def test_compare_has_a_row_for_each_number_of_neighbours() -> None:
    """Several are compared in turn; with one the rows are as ever."""
    line = "compare 1f1b dualpipe P=2 M=4"
    options = ["--layers", "2 x attention dispatch mlp combine", "--cost", "dispatch=1,combine=1"]
    several = [*options, "--neighbours", "0", "--neighbours", "2"]
    rows = as_json(line, more=several)
    assert [(row["schedule"], row["neighbours"]) for row in rows] == [
        ("1f1b", 0),
        ("1f1b", 2),
        ("dualpipe", 0),
        ("dualpipe", 2),
    ]
    assert rows[0]["makespan"] > rows[1]["makespan"]
    assert "neighbours" not in as_json(line, more=options)[0]
    assert "dualpipe neighbours=2" in pipec(line, more=several).stdout


def test_compare_gives_each_schedule_its_sizes(folder: Path) -> None:
    """A size goes to those that have the parameter; plans and listings need none."""
    pipec("compile interleaved P=2 M=4 v=3 -o x.plan")
    (folder / "x.listing").write_text(pipec("show interleaved P=2 M=4 v=3 --listing").stdout)
    line = "compare 1f1b interleaved x.plan x.listing P=2 M=4 v=3"
    one, two, three, four = as_json(line)
    assert one["stages_held"] == 1 and two["stages_held"] == 3
    assert two["makespan"] == three["makespan"] == four["makespan"]
    assert "'v'" in pipec("compare 1f1b x.plan P=2 M=4 v=3", 2).stderr


def test_compare_says_costs_per_schedule_where_they_differ(folder: Path) -> None:
    """A schedule may state costs of its own."""
    pipec("compile 1f1b P=2 M=4 --cost F=7 -o x.plan")
    printed = pipec("compare 1f1b x.plan P=2 M=4").stdout
    assert "costs of 1f1b: F=1," in printed and "costs of x.plan: F=7," in printed


def test_compare_leaves_out_what_cannot_be_compared() -> None:
    """The others are shown with their costs; the worst status counts; JSON has a row for each."""
    result = pipec("compare 1f1b dualpipe zbv P=3 M=6 --memory-limit 3", 1)
    assert "1f1b" in result.stdout and "costs F=1" in result.stdout
    assert "dualpipe" not in result.stdout and "dualpipe is left out:" in result.stderr
    assert "error[require]" in result.stderr and "error[memory-limit]" in result.stderr
    rows = as_json("compare 1f1b dualpipe zbv P=3 M=6 --memory-limit 3", 1)
    assert [row["ok"] for row in rows] == [True, False, False]
    assert rows[1]["findings"][0]["code"] == "require"
    assert pipec("compare 1f1b nope P=2 M=2", 2).stdout.count("1f1b") == 1
    pipec("compare nope", 2)
    pipec("compare P=2 M=2", 2)


@pytest.mark.parametrize(
    "command", ["list", "verify", "compile", "show", "compare", "profile", "run", "fmt"]
)
def test_help_has_an_example(command: str) -> None:
    """`--help` and `-h` show at least one command line, with the ampersand quoted."""
    printed = pipec(f"{command} --help").stdout
    assert printed == pipec(f"{command} -h").stdout
    examples = [match["words"] for match in EXAMPLE.finditer(printed)]
    assert examples and all(words.split()[0] == command for words in examples)
    assert not re.search(r"--cost [^']*&", printed)


def test_help_lists_every_command() -> None:
    """The commands stand in the order in which people need them; without one, help is shown."""
    printed = pipec("--help").stdout
    listed = re.findall(r"^  (\w+)  +\S", printed.split("Commands:")[1], re.M)
    shown = ["list", "show", "verify", "compare", "compile", "profile", "tune", "run", "fmt"]
    assert listed == [*shown, "explain", "import", "export"]
    assert "Commands:" in pipec("", 2).output
    assert re.fullmatch(r"pipec, version [\d.]+\n", pipec("--version").stdout)
