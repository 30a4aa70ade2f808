"""The parser: what a text means, and all of its mistakes at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipec.findings import Finding, PipecError
from pipec.language import read
from pipec.language import syntax as s
from pipec.source import Source, Span
from pipec.view.findings import findings_text

FRAME = """schedule s(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    on rank r:
        let x = {}
        repeat M:  F  BW
"""


def expression(text: str) -> s.Expression:
    """The tree of an expression."""
    schedule = read(Source("text", FRAME.format(text))).items[0]
    assert isinstance(schedule, s.ScheduleItem)
    program = schedule.items[-1]
    assert isinstance(program, s.OnRank) and isinstance(program.body[0], s.Let)
    return program.body[0].value


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("P + M * r", "P + (M * r)"),
        ("P - M - r", "(P - M) - r"),
        ("P * M // r % 2", "((P * M) // r) % 2"),
        ("-P ** 2", "-(P ** 2)"),
        ("2 ** -P ** 2", "2 ** (-(P ** 2))"),
        ("P ** M ** r", "P ** (M ** r)"),
        ("-P * M", "(-P) * M"),
        ("not P < M and r < 2 or P == 1", "((not (P < M)) and (r < 2)) or (P == 1)"),
        ("P + 1 if P < M else M if r == 0 else 3", "(P + 1) if (P < M) else (M if r == 0 else 3)"),
        ("P if P < M or r == 1 else 3 * M", "P if ((P < M) or (r == 1)) else (3 * M)"),
    ],
)
def test_what_binds_tighter(text: str, meant: str) -> None:
    """Operators bind as in Python."""
    assert expression(text) == expression(meant)


def test_chained_comparisons_are_not_nested() -> None:
    """`a < b < c` compares neighbours; in parentheses it would compare a truth."""
    assert isinstance(expression("P < M < 3"), s.Comparison)
    with pytest.raises(PipecError):
        expression("(P < M) < 3")


def test_all_mistakes_at_once() -> None:
    """Wrong lines, blocks, kinds and names of one text come together, in order."""
    text = """schedule s(P, M, v=1.5):
    require M = P
    flow main(stages=P, microbatch=M): rank = stag
    cost F = true, G = 2
    on rank r:
        let warmup = min(P - r, M
        for k in 0 .. warmup
            F  WB
        repeat M:  F  BW
          W
        else:
            BW[main, main]
    cost F = 3

schedule t(P):
    on rank P:
        repeat wramup:  F & W
"""
    with pytest.raises(PipecError) as caught:
        read(Source("text", text))
    source = Source("text", text)
    lines = [source.position(f.span.start)[0] for f in caught.value.findings if f.span]
    assert lines == sorted(lines)
    assert set(lines) == {1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17}


def test_a_mistake_does_not_hide_the_next() -> None:
    """Forty broken lines are forty findings, each on its line."""
    lines = [f"        repeat {n} {n}:  F" for n in range(40)]
    head = ["schedule s(P, M):", "    flow main(stages=P, microbatches=M): rank = stage"]
    with pytest.raises(PipecError) as caught:
        read(Source("text", "\n".join([*head, "    on rank r:", *lines])))
    assert len(caught.value.findings) == 40


@given(st.text(max_size=300), st.data())
def test_the_caret_stands_below_the_mistake(text: str, data: st.DataObject) -> None:
    """Whatever a line holds, the place is that of the span and a caret stands below it."""
    source = Source("text", text)
    at = data.draw(st.integers(0, len(text)))
    finding = Finding("syntax", "wrong", Span(at, at + 1))
    shown = findings_text([finding], source).plain.split("\n")
    line, column = source.position(at)
    assert shown[1] == f"   --> text:{line}:{column}"
    assert source.lines[line - 1][column - 1 :][:1] == text[at : at + 1].replace("\n", "")
    assert shown[3].lstrip(" |").startswith("^")


def test_the_caret_counts_cells() -> None:
    """A wide character takes two cells, so the caret moves on by two."""
    text = 'require "広い" x'
    shown = findings_text([Finding("syntax", "wrong", Span(13, 14))], Source("t", text)).plain
    _, _, code, caret, *_ = shown.split("\n")
    assert code.endswith('"広い" x') and caret.index("^") == code.index("x") + 2
