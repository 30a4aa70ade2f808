"""Patterns: the parts of a pair in the order that an author writes."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipec.compiler import Compiled, Settings, build, certify, layers_of
from pipec.findings import PipecError, Stop
from pipec.lower.interleave import Chain, Part, spans
from pipec.lower.pattern import Stuck, follow, written
from pipec.lower.units import Issued, Operation
from pipec.program.effects import Kind
from pipec.program.listing import listing
from pipec.program.parts import Entry, Layout, Pattern, parse_layout

LAYER = "attention dispatch mlp combine"
FOUND = (
    "F.attention B.mlp W.mlp F.mlp B.attention W.attention",
    "B.combine F.dispatch B.dispatch F.combine",
)
"""The pair of DeepSeek-V3 (arXiv:2412.19437, figure 4)."""
TICKS = {None: 2, Kind.DISPATCH: 3, Kind.COMBINE: 3}


def pattern_of(compute: str = "", wire: str = "", backward: Kind = Kind.BW) -> Pattern:
    lanes = [
        tuple(Entry(Kind[word[0]], word[2:]) for word in row.split()) for row in (compute, wire)
    ]
    return Pattern(backward, *lanes)


def pair_of(layouts: Sequence[Layout], backward: Kind = Kind.BW) -> list[Operation]:
    """Compute takes 2 ticks, all-to-alls 3, and `out` nothing."""
    pair = []
    for kind, parts in zip((Kind.F, backward), layouts, strict=True):
        wires = tuple(part.wire is not None for part in parts)
        ticks = tuple(0 if part.name == "out" else TICKS[part.wire] for part in parts)
        later = tuple(0 if wire else time for wire, time in zip(wires, ticks, strict=True))
        pair.append(Operation(kind, wires, ticks, later if kind is Kind.BW else ()))
    return pair


def ordered(pattern: Pattern, *texts: str, backward: Kind = Kind.BW) -> list[Issued]:
    layouts = [parse_layout(text) for text in texts]
    return written(pattern, pair_of(layouts, backward), layouts)


def through(order: list[Issued], *texts: str) -> int:
    """When an issue sequence of F and BW is through."""
    layouts = [parse_layout(text) for text in texts]
    one, two = pair_of(layouts)
    chains: list[Chain] = [
        tuple(Part(wire, ticks) for wire, ticks in zip(one.wires, one.ticks, strict=True)),
        tuple(Part(w, t) for w, t in zip(two.wires[::-1], two.ticks[::-1], strict=True)),
    ]
    last = len(two.wires) - 1
    own = [part for part in range(last, -1, -1) if not two.wires[part]]
    chains.append(tuple(Part(False, two.weights[part], (1, last - part)) for part in own))
    places = {Kind.F: 0, Kind.B: 1, Kind.W: 2}
    order_ = [
        (
            places[kind],
            part if kind is Kind.F else last - part if kind is Kind.B else own.index(part),
        )
        for _, kind, part in order
    ]
    assert sorted(order_) == [(c, p) for c, chain in enumerate(chains) for p in range(len(chain))]
    return max(end for _, end in spans(chains, order_))


def test_the_report_s_order() -> None:
    """Four layers a side: as soon through as the best order there is."""
    text = f"4 x {LAYER}"
    found = through(ordered(pattern_of(*FOUND), text, text), text, text)
    assert found == 49


@pytest.mark.parametrize(
    "texts",
    [
        (f"1 x {LAYER}", f"3 x {LAYER}"),
        (f"3 x {LAYER}", f"1 x {LAYER}"),
        (f"embed attention mlp | 2 x {LAYER}", f"3 x {LAYER} | norm head"),
        ("attention mlp", f"2 x {LAYER}"),
    ],
)
def test_unequal_chunks(texts: tuple[str, str]) -> None:
    """Fewer layers, dense ones, and parts that the pattern does not name: all parts are issued."""
    through(ordered(pattern_of(*FOUND), *texts), *texts)


@pytest.mark.parametrize("rows", [("", ""), ("", FOUND[1]), (FOUND[0], "")])
def test_parts_on_no_lane_are_issued_where_they_fit(rows: tuple[str, str]) -> None:
    """Also all of them: two layers a side are through little later than in the best order."""
    text = f"2 x {LAYER}"
    assert 25 <= through(ordered(pattern_of(*rows), text, text), text, text) <= 33


names = st.permutations([f"{kind}.{part}" for kind in "FB" for part in LAYER.split()])


@settings(max_examples=60, deadline=None)
@given(names, st.integers(1, 3), st.integers(1, 3))
def test_any_pattern(words: list[str], forward: int, backward: int) -> None:
    """An order in which all parts can run, or the part at which two lanes wait for each other."""
    lanes = [
        " ".join(word for word in words if (word[2:] in ("dispatch", "combine")) == wire)
        for wire in (False, True)
    ]
    texts = f"{forward} x {LAYER}", f"{backward} x {LAYER}"
    try:
        order = ordered(pattern_of(*lanes), *texts)
    except Stop as stop:
        assert "wait for each other" in stop.finding.message
        return
    through(order, *texts)
    issued = [
        f"{kind.name}.{LAYER.split()[part]}"
        for _, kind, part in order
        if part < 4 and kind != Kind.W
    ]
    for row in lanes if forward == backward == 1 else ():
        assert [name for name in issued if name in row.split()] == row.split()


def test_waiting_for_each_other() -> None:
    """Combine before dispatch on the wire: the first head of each lane waits for one behind."""
    one = [Part("c", 2), Part("w", 3), Part("c", 2), Part("w", 3)]
    rows = {"c": [(0, 0), (0, 2)], "w": [(0, 3), (0, 1)]}
    found = follow(rows, [tuple(one)])
    assert isinstance(found, Stuck)
    assert found.waits == (((0, 2), (0, 1)), ((0, 3), (0, 2)))


TEXT = """
schedule mine(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    layers 2: attention dispatch mlp combine
    overlap BW & F:
        compute:  {}
        wire:     {}
    on rank r:
        let warmup = min(P - r, M)
        repeat warmup:      F
        repeat M - warmup:  F & BW
        repeat warmup:      BW
"""


def compiled(tmp_path: object, compute: str, wire: str, **more: object) -> Compiled:
    path = f"{tmp_path}/mine.pipe"
    with open(path, "w", encoding="utf-8") as file:
        file.write(TEXT.format(compute, wire))
    return build(path, {"P": 2, "M": 4}, Settings(**more))


def test_a_text_is_followed(tmp_path: object) -> None:
    """The pair's parts stand in the program in the order of the pattern, and it is certified."""
    made = compiled(tmp_path, *FOUND)
    assert certify(made, Settings()).ok
    lines = [line.split() for line in listing(made.program).splitlines()]
    last = [
        f"{line[0]}.{line[-1][:-2]}"
        for line in lines[lines.index(["rank", "1:"]) :]
        if len(line) == 5 and line[0] in "FBW" and line[3] in "01" and "out" not in line[-1]
    ]
    assert " ".join(last[4:16]).startswith("F.attention B.mlp W.mlp F.mlp B.attention W.attention")


def test_one_after_the_other_needs_no_pattern(tmp_path: object) -> None:
    """Without neighbours even a pattern that cannot work is not followed."""
    wrong = FOUND[0], "F.combine F.dispatch"
    assert certify(compiled(tmp_path, *wrong, neighbours=0), Settings()).ok
    with pytest.raises(PipecError, match="wait for each other"):
        compiled(tmp_path, *wrong)


def test_parts_from_outside(tmp_path: object) -> None:
    """`--layers` without a part that the pattern names is refused."""
    with pytest.raises(PipecError, match="no chunk has a part `attention`"):
        compiled(tmp_path, *FOUND, layers=layers_of("attend dispatch mlp combine"))
