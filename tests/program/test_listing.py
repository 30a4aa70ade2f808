"""A listing says a program completely: it reads back as the same program, whatever is in it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs

import pipec.schedules
from pipec.findings import PipecError
from pipec.library import names
from pipec.program.listing import listing, text
from pipec.program.program import Program
from pipec.program.reading import parse_listing
from pipec.source import Source

SCHEDULES = Path(pipec.schedules.__file__).parent


def read(content: str) -> Program:
    return parse_listing(Source("x.listing", content))


@settings(deadline=None, max_examples=200)
@given(programs())
def test_any_program_reads_back(program: Program) -> None:
    """parse(listing(p)) is p, and lists the same again."""
    written = listing(program)
    again = read(written)
    assert again.same(program)
    assert listing(again) == written


@pytest.mark.parametrize("name", names())
def test_goldens_read_back(name: str) -> None:
    """The golden of every library schedule is a listing of what it reads as."""
    golden = (SCHEDULES / f"{name}.listing").read_text(encoding="utf-8")
    head, rest = golden.split("\n", 1)
    assert head.startswith("# ") and listing(read(golden)) == rest


@settings(deadline=None)
@given(programs())
def test_each_line_is_an_instruction(program: Program) -> None:
    """Each row's span is its line, and the line reads as the row does."""
    written = listing(program)
    again = read(written)
    rows = [again.instruction(row) for row in range(len(again))]
    spans = [again.origins.span(int(origin)) for origin in again.origin]
    for row, span in zip(rows, spans, strict=True):
        assert span and " ".join(written[span.start : span.end].split()) == text(row)


def test_blanks_comments_and_order_of_ranks_say_nothing() -> None:
    """What people change by hand in a listing without meaning anything by it."""
    plain = "ranks 2\nflow a microbatches 1 ranks 0 1\nrank 0:\nF a 0 0\nrank 1:\nF a 1 0\n"
    other = (
        "# x\n\nranks   2 # y\nflow a   microbatches 1 ranks 0   1\n"
        "  rank 1 :\n\t\tF   a 1 0#z\r\nrank 0:\n F a 0 0"
    )
    assert read(plain).same(read(other))


ENDLESS = "1" * 5000
EMPTY = "ranks 2\nflow a microbatches 2 ranks 0 1\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "begins with its number of ranks"),
        ("ranks\n", "begins with its number of ranks"),
        ("ranks 0\n", "begins with its number of ranks"),
        ("ranks 2\nrank 0:\nrank 1:\n", "states its flows before its ranks"),
        ("ranks 2\nflow a\nrank 0:\nrank 1:\n", "this flow cannot be read"),
        ("ranks 2\nflow a microbatches 2 ranks 0 2\n", "flow `a` is impossible"),
        ("ranks 2\nflow a microbatches 0 ranks 0 1\n", "flow `a` is impossible"),
        (EMPTY + "flow a microbatches 2 ranks 0 1\n", "stated twice"),
        (EMPTY + "flow b microbatches 2 ranks 0\n", "all flows travel the same model"),
        (EMPTY + "flow b microbatches 2 ranks 0 1 backward false\n", "the same model"),
        (EMPTY + "F a 0 0\n", "this line cannot be read"),
        (EMPTY + "rank 0:\n", "rank 1 is missing"),
        (EMPTY + "rank 0:\nrank 0:\nrank 1:\n", "this rank cannot stand here"),
        (EMPTY + "rank 0:\nrank 1:\nrank 2:\n", "this rank cannot stand here"),
        (EMPTY + "rank 0:\nG a 0 0\nrank 1:\n", "this instruction cannot be read"),
        (EMPTY + "rank 0:\nF a 0\nrank 1:\n", "this instruction cannot be read"),
        (EMPTY + "rank 0:\nF b 0 0\nrank 1:\n", "no such flow"),
        (EMPTY + "rank 0:\nF a 2 0\nrank 1:\n", "no such stage"),
        (EMPTY + "rank 0:\nF a 0 2\nrank 1:\n", "no such microbatch"),
        (EMPTY + "rank 0:\nSEND F a 1 0 -> 0\nrank 1:\n", "no such peer"),
        (EMPTY + "rank 0:\nSEND F a 1 0 -> 2\nrank 1:\n", "no such peer"),
        (EMPTY + "rank 0:\nSEND F a 1 0 <- 1\nrank 1:\n", "the arrow points the wrong way"),
        (EMPTY + "rank 0:\nSUM 2 <-> 1\nrank 1:\n", "no such stage"),
        (EMPTY + "rank 0:\nSUM 0 <-> 0\nrank 1:\n", "no such peer"),
        (EMPTY + "rank 0:\n& F a 0 0\nrank 1:\n", "`&` ties this to nothing"),
        (EMPTY + "rank 0:\nF a 0 0\n& F a 0 1\nrank 1:\n", "`&` ties this to nothing"),
        (EMPTY + "rank 0:\nF a 0 0\nrank 1:\n& B a 1 0\n", "`&` ties this to nothing"),
        (EMPTY + "rank 0:\nF a 0 0\n& B a 0 0\n& F a 0 1\nrank 1:\n", "ties this to nothing"),
        ("ranks 1\nflow a microbatches 2147483647 ranks 0\nrank 0:\nF a 0 0\n", "too large"),
        (
            "ranks 1\nflow a microbatches 1000000 ranks 0\nchunk 0: 1000 x x y\n"
            "rank 0:\nF a 0 0 x.0\n",
            "too large",
        ),
        ("ranks 40000\nflow a microbatches 1 ranks 0\nrank 0:\n", "number of ranks"),
        (f"ranks 1\nflow a microbatches {ENDLESS} ranks 0\n", "this flow cannot be read"),
        (f"ranks 1\nflow a microbatches 1 ranks {ENDLESS}\n", "this flow cannot be read"),
        (f"{EMPTY}rank {ENDLESS}:\n", "this line cannot be read"),
        (f"{EMPTY}rank 0:\nF a {ENDLESS} 0\n", "this instruction cannot be read"),
        (f"{EMPTY}rank 0:\nSEND F a 1 {ENDLESS} -> 1\n", "this instruction cannot be read"),
        (f"{EMPTY}rank 0:\nRECV B a 0 0 <- {ENDLESS}\n", "this instruction cannot be read"),
        (f"{EMPTY}rank 0:\nSUM {ENDLESS} <-> 1\n", "this instruction cannot be read"),
    ],
)
def test_mistakes_in_a_listing(content: str, message: str) -> None:
    """Each is a finding with the line, what was expected, and nothing worse."""
    with pytest.raises(PipecError) as caught:
        read(content)
    assert message in caught.value.findings[0].message
    assert all(finding.code == "listing" for finding in caught.value.findings)
    assert all(finding.expected and finding.span for finding in caught.value.findings)


def test_all_mistakes_of_a_listing_are_told() -> None:
    """One finding a line, in the order of the lines."""
    content = EMPTY + "rank 0:\nF a 0 9\nG\nSEND F a 1 0 -> 7\nrank 1:\nF b 1 0\n"
    with pytest.raises(PipecError) as caught:
        read(content)
    source = Source("x", content)
    lines = [source.position(one.span.start)[0] for one in caught.value.findings if one.span]
    assert lines == [4, 5, 6, 8]


@settings(deadline=None, max_examples=300)
@given(st.data(), programs())
def test_a_damaged_listing_is_a_finding_or_a_program(data: st.DataObject, program: Program) -> None:
    """Characters changed, cut out or put in: a program with all in range, or a `PipecError`."""
    written = listing(program)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(written)))
        cut = data.draw(st.integers(0, 5))
        put = data.draw(st.text("FBW SENDRCVU&-><0123456789\n#:main", max_size=4))
        written = written[:at] + put + written[at + cut :]
    try:
        again = read(written)
    except PipecError as error:
        assert error.findings
        return
    assert read(listing(again)).same(again)
    assert (again.operation >= 0).all() and (again.peer < again.ranks).all()


def test_an_order_is_listed_too() -> None:
    """A table without communication, and one without any row."""
    assert listing(read(EMPTY + "rank 0:\nrank 1:\n")).endswith("\nrank 0:\n\nrank 1:\n")
    empty = read(EMPTY + "rank 0:\nrank 1:\n")
    assert len(empty) == 0 and np.array_equal(empty.start, [0, 0, 0]) and empty[1] == []
