"""Costs files: exact there and back, and every mistake with its line."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipec
from pipec.findings import PipecError
from pipec.program.costs import KEYS, LARGEST, PAIR, UNITS, Costs
from pipec.program.costs_file import CostsFile, parse_costs
from pipec.program.costs_text import costs_text
from pipec.program.memory import Memory
from pipec.program.sizes import SIZES
from pipec.source import Source
from pipec.view.findings import error_text

FINE = st.fractions(0, LARGEST, max_denominator=10**18)
DECIMALS = st.decimals(0, 10**6, places=9).map(Fraction)
TIMES = st.integers(0, 9).map(Fraction) | FINE | DECIMALS


def per_stage(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=4).map(tuple)


@st.composite
def files(draw: st.DrawFn) -> CostsFile:
    """Any times of any keys, messages by pair or not, sizes in bytes or in units."""
    keys = st.sampled_from([key for key in KEYS if key != PAIR] + ["F.mlp", "BW.attention"])
    times = draw(st.dictionaries(keys, per_stage(TIMES), max_size=6))
    rank = st.integers(0, 20)
    pairs = st.tuples(rank, rank).filter(lambda pair: pair[0] != pair[1])
    between = draw(st.dictionaries(pairs, TIMES, max_size=3) | square())
    serial = draw(st.booleans())
    times |= {PAIR: draw(per_stage(TIMES))} if not serial and draw(st.booleans()) else {}
    costs = Costs(times, serial, between, draw(st.sampled_from(("", *UNITS))))
    return CostsFile(costs, draw(st.none() | st.builds(memory, st.booleans(), sizes())))


def square() -> st.SearchStrategy[Any]:
    """A time for every two of three ranks."""
    every = [(one, other) for one in range(3) for other in range(3) if one != other]
    return st.lists(TIMES, min_size=6, max_size=6).map(
        lambda times: dict(zip(every, times, strict=True))
    )


def sizes() -> st.SearchStrategy[Any]:
    amounts = per_stage(st.integers(0, 10**15).map(Fraction))
    return st.dictionaries(st.sampled_from([key for key in SIZES if key != "state"]), amounts)


def memory(in_bytes: bool, sizes: dict[str, Any]) -> Memory:
    return Memory(sizes, in_bytes and bool(sizes))


@settings(deadline=None, max_examples=200)
@given(files())
def test_what_is_written_reads_back(file: CostsFile) -> None:
    """The same times, pairs, unit and sizes, whatever numbers they are, with comments or not."""
    notes = dict.fromkeys((*file.costs.times, "send", "memory.stash"), "spread: 1 %")
    for text in (
        costs_text(file.costs, file.memory, {}, ""),
        costs_text(file.costs, file.memory, notes, "two\nlines"),
    ):
        again = parse_costs(Source("x.toml", text))
        assert again.costs == file.costs
        known = file.memory if file.memory and file.memory.sizes else None
        assert again.memory == known


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    """Plain keys, parts in a table or in quotes, a matrix; numbers are exactly what they say."""
    (tmp_path / "x.toml").write_text(
        'unit = "ms"\nB = 1_000.10\nW = "1/3"\n"F&B" = "serial"\nsend = [[0, 0.1], [0.2, 0]]\n'
        "sum = [1, +2.5]\n[F]\nmlp = 0.3\n[memory]\nactivation = ['1.5GB', \"1GB\"]\n"
    )
    file = pipec.load_costs(tmp_path / "x.toml")
    assert file.costs.unit == "ms" and file.costs.serial and "F.mlp" in file.costs.times
    assert file.costs.times["B"] == Fraction("1000.1") and file.costs.times["W"] == Fraction(1, 3)
    assert file.costs.message(1, 0) == Fraction("0.2")
    assert file.memory and file.memory.size("activation", 7) == 10**9
    file.save(tmp_path / "y.toml")
    assert pipec.load_costs(tmp_path / "y.toml") == file
    (tmp_path / "x.json").write_text('{"F": 0.1, "send": {"0->1": 0.2, "rest": 1}, "memory": {}}')
    file = pipec.load_costs(tmp_path / "x.json")
    assert file.costs.times["F"] == Fraction("0.1") and file.costs.pairs[0, 1] == Fraction("0.2")


def test_compiling_with_a_file(tmp_path: Path) -> None:
    """A file may be given by name; what else is stated goes over its sizes."""
    path = tmp_path / "x.toml"
    path.write_text("F = 2\n[memory]\nactivation = '4GB'\nparameters = '1GB'\n")
    plan = pipec.compile("1f1b", P=2, M=2, costs=path, memory=Memory.of({"activation": "1GB"}))
    assert plan.costs == Costs.of({"F": 2})
    assert (plan.memory.size("activation", 0), plan.memory.size("parameters", 1)) == (10**9, 10**9)
    with pytest.raises(PipecError):
        pipec.compile("1f1b", P=2, M=2, costs=str(path), memory_limit="2GB")


@pytest.mark.parametrize("text", ["F = [1, 2, 3]", "[memory]\nactivation = ['1GB', '1GB', '2GB']"])
def test_a_file_for_more_stages_is_refused(tmp_path: Path, text: str) -> None:
    """It is of another cut of the model; the same file fits a schedule with as many stages."""
    path = tmp_path / "costs.toml"
    path.write_text(text)
    with pytest.raises(PipecError, match="for 2 stages"):
        pipec.compile("1f1b", P=2, M=2, costs=path)
    assert pipec.compile("zbv", P=2, M=4, costs=path).program.ranks == 2


WRONG = """unit = "hours"
F = 1
G = 2
B = [1, -1]
send = [[0, 1],
        [0]]

[W]
mlp = true

[memory]
activation = "much"
stash = [1, "2GB"]
message = 3
parameters = "1GB"
"""


def test_every_mistake_has_its_line() -> None:
    """All at once: place, what was expected and found, and a hint where there is one."""
    with pytest.raises(PipecError) as raised:
        parse_costs(Source("wrong.toml", WRONG))
    error = raised.value
    assert error.source
    lines = [error.source.position(one.span.start)[0] for one in error.findings if one.span]
    assert lines == [1, 3, 4, 5, 9, 12, 13, 14]
    assert all(one.code == "usage" and one.expected and one.found for one in error.findings)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.toml", "F = 1\nB = [\n", 2),
        ("x.toml", "F = 1\nB = = 2\n", 2),
        ("x.toml", "F = 1\nF = 2\n", 2),
        ("x.toml", "F = 1\nF.mlp = 2\n", 2),
        ("x.json", '{"F": 1,\n"B" 2}', 2),
        ("x.json", "[1]", 1),
        ("x.toml", "memory = 3", 1),
        ("x.toml", 'F = 1\n"F.dispatch!" = 2', 2),
        ("x.toml", "F = 1\n[send]\n'0->1' = 2\n'0-1' = 2", 4),
        ("x.toml", "F = 1\n[send]\nrest = 2\n'0->1' = -1", 4),
        ("x.toml", "F = 1\nsend = {'0-1' = 2}", 2),
        ("x.toml", "F = 1\n[send]\n'0<->1' = 2\n'1->0' = 2", 2),
        ("x.toml", "F = 1\nsend = [[0]]", 2),
        ("x.toml", "F = 1\n[send]\n", 2),
        ("x.toml", f"F = 1\nB = {'1' * 5000}", 2),
        ("x.json", f'{{"F": 1,\n"B": {"1" * 5000}}}', 2),
        ("x.toml", f"F = 1\nB = 0x{'f' * 5000}", 2),
        ("x.toml", f"[memory]\nstash = 0x{'f' * 5000}", 2),
    ],
)
def test_what_is_no_costs_file(name: str, text: str, line: int) -> None:
    """The place where it stops to be one."""
    with pytest.raises(PipecError) as raised:
        parse_costs(Source(name, text))
    finding = raised.value.findings[0]
    assert finding.span and raised.value.source
    assert raised.value.source.position(finding.span.start)[0] == line
    assert f"{name}:{line}:" in str(error_text(raised.value))
    assert "sys." not in str(error_text(raised.value))


PIECES = st.sampled_from(
    [
        *("F", "B", '"F&B"', "send", "unit", "memory", "F.mlp", "stash", '"0->1"', "rest", "[F]"),
        *("=", " = ", ":", ",", "\n", "\n", "[", "]", "{", "}", "[memory]\n", "[send]\n"),
        *("1", "0.5", "-1", "inf", "nan", "1_0", "+2", "1e5", "1e400", '"ms"', '"1/3"', '"2GB"'),
        *("true", "1979-05-27", '"""', "'", "\\", "\t", "é", "\x00", '"serial"', "# x\n"),
        "[[0, 1], [1, 0]]",
    ]
)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(("x.toml", "x.json")), st.lists(PIECES, max_size=14).map("".join))
def test_any_text_is_costs_or_findings(name: str, text: str) -> None:
    """Whatever stands in a file, there is no other error, and every finding has a place in it."""
    try:
        file = parse_costs(Source(name, text))
    except PipecError as error:
        assert error.findings and all(finding.code == "usage" for finding in error.findings)
        for finding in error.findings:
            assert finding.span and 0 <= finding.span.start <= len(text)
        assert error_text(error)
    else:
        assert (
            parse_costs(Source("x.toml", costs_text(file.costs, None, {}, ""))).costs == file.costs
        )


def test_a_mark_of_utf_8_says_nothing(tmp_path: Path) -> None:
    """As some editors write it before the first key."""
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfF = 2\n")
    assert pipec.load_costs(tmp_path / "x.toml").costs.time("F", 0) == 2


def test_bytes_are_no_costs_file(tmp_path: Path) -> None:
    """What is no text at all is named, too."""
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PipecError, match="UTF-8"):
        pipec.load_costs(tmp_path / "x.toml")


def test_notes_stand_above_their_keys() -> None:
    """Comments are for people: the reader does not see them."""
    costs = replace(Costs.of({"F": 1, "send": {"0->1": 2, "rest": 3}}), unit="s")
    text = costs_text(costs, Memory.of({"stash": "1B"}), {"F": "a", "memory.stash": "b"}, "c")
    assert text.splitlines() == [
        "# c",
        'unit = "s"',
        "# a",
        "F = 1",
        "",
        "[send]",
        '"0->1" = 2',
        "rest = 3",
        "",
        "[memory]",
        "# b",
        'stash = "1B"',
    ]


@pytest.mark.parametrize(
    ("text", "layers", "said", "where"),
    [
        ('B = 2\n"F.mpl" = 1\n', True, "no chunk has a part `mpl`", "x.toml:2:2"),
        ("B = 2\n[F]\nmlp = 1\nattn = 2\n", True, "no chunk has a part `attn`", "x.toml:4:1"),
        ("B = 2\n[F]\nmlp = 1\n", False, "open the chunks with `layers`", "x.toml:3:1"),
        ("B = 2\nF = [1, 2, 3]\n", False, "3 amounts of `F`", "x.toml:2:1"),
        ("B = 2\n[memory]\nstash = [1, 2, 3]\n", False, "amounts of `stash`", "x.toml:3:1"),
        ('B = 2\n[send]\n"0->1" = 1\n', False, "from rank 1 to rank 0", "x.toml:2:1"),
    ],
)
def test_what_does_not_fit_the_schedule_has_its_place(
    text: str, layers: bool, said: str, where: str, tmp_path: Path
) -> None:
    """Found only when the schedule is known, and shown in the file all the same."""
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    opened = "2 x attention dispatch mlp combine" if layers else None
    with pytest.raises(PipecError, match=r"amounts|part|rank") as caught:
        pipec.compile("1f1b", P=2, M=2, costs=path, layers=opened)
    shown = error_text(caught.value)
    assert said in str(shown) and where in str(shown)


def test_unknown_parts_are_told_together(tmp_path: Path) -> None:
    """Each at its line; what the command line states has none."""
    path = tmp_path / "x.toml"
    path.write_text("[F]\nmlp = 1\nattn = 2\nmpl = 3\n", encoding="utf-8")
    with pytest.raises(PipecError) as caught:
        pipec.compile("1f1b", P=2, M=2, costs=path, layers="attention dispatch mlp combine")
    assert [one.found for one in caught.value.findings] == ["`F.attn`", "`F.mpl`"]
    with pytest.raises(PipecError) as caught:
        pipec.compile("1f1b", P=2, M=2, costs=pipec.Costs.of({"F.mlp": 1}))
    assert caught.value.source is None
