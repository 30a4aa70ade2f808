"""Opening chunks: every operation becomes its parts, and what was safe stays so."""

from pathlib import Path

import pytest

import pipec
from pipec.compiler import Settings, build, certify, layers_of
from pipec.findings import PipecError
from pipec.language import read
from pipec.library import names, only_schedule
from pipec.order.schedule import bind
from pipec.program.costs import Costs
from pipec.program.effects import Kind
from pipec.program.listing import listing
from pipec.program.memory import Limit, Memory
from pipec.program.parts import layout_text, parse_layout
from pipec.program.reading import parse_listing
from pipec.source import Source

LAYER = "attention dispatch mlp combine"
COSTS = Costs.of({"F": 2, "B": 2, "W": 2, "dispatch": "1.5", "combine": "1.5"})


def opened(
    name: str, layers: str = LAYER, neighbours: int = 0, **sizes: int
) -> pipec.compiler.Compiled:
    return build(name, sizes, Settings(COSTS, layers=layers_of(layers), neighbours=neighbours))


def stream(compiled: pipec.compiler.Compiled, rank: int) -> list[str]:
    text = listing(compiled.program).split(f"rank {rank}:\n")[1].split("\n\n")[0]
    return [" ".join(line.split()) for line in text.splitlines()]


def test_operations_become_their_parts_in_the_order_of_the_chunk_and_back() -> None:
    """F goes through the chunk and BW comes back; W has only compute."""
    assert stream(opened("gpipe", P=1, M=1), 0) == [
        "F main 0 0 attention.0",
        "DISPATCH F main 0 0 dispatch.0",
        "F main 0 0 mlp.0",
        "COMBINE F main 0 0 combine.0",
        "F main 0 0 out.1",
        "BW main 0 0 out.1",
        "COMBINE B main 0 0 combine.0",
        "BW main 0 0 mlp.0",
        "DISPATCH B main 0 0 dispatch.0",
        "BW main 0 0 attention.0",
    ]
    last = stream(opened("zb1p", P=1, M=1), 0)[-3:]
    assert last == ["W main 0 0 out.1", "W main 0 0 mlp.0", "W main 0 0 attention.0"]


def test_messages_stand_behind_the_last_part_and_before_the_first() -> None:
    """What leaves a stage is made by its last part, and what reaches it is used by its first."""
    one = stream(opened("gpipe", P=2, M=1), 1)
    assert one[0] == "RECV F main 1 0 <- 0"
    assert one[-2:] == ["BW main 1 0 attention.0", "SEND B main 0 0 -> 0"]
    zero = stream(opened("gpipe", P=2, M=1), 0)
    assert zero[4:7] == ["F main 0 0 out.1", "SEND F main 1 0 -> 1", "RECV B main 0 0 <- 1"]


@pytest.mark.parametrize("name", sorted({*names()} - {"seq1f1b", "seqzb1p"}))
@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize(
    ("layers", "ranks"), [(LAYER, 4), (f"embed | {LAYER} | attention mlp | head", 2)]
)
def test_every_schedule_of_the_library_is_certified_with_open_chunks(
    name: str, layers: str, neighbours: int, ranks: int
) -> None:
    """Opening keeps programs complete and safe under every topology, and listings read back."""
    compiled = opened(name, layers, neighbours, P=ranks, M=2 * ranks)
    certificate = certify(compiled, Settings())
    assert certificate.ok
    assert all(verdict.safe for verdict in certificate.safety.values())
    again = parse_listing(Source("x.listing", listing(compiled.program)))
    assert again.same(compiled.program)


def test_slices_are_not_opened() -> None:
    """A stage that hands something on from slice to slice runs as a whole."""
    with pytest.raises(PipecError) as caught:
        opened("seq1f1b", LAYER, P=2, M=2)
    (finding,) = caught.value.findings
    assert finding.code == "parts" and finding.span and "slices" in finding.message


def test_parts_cost_what_is_stated_or_an_equal_share() -> None:
    """The compute of an opened chunk takes as long as before, and all-to-alls come on top."""
    certificate = certify(opened("gpipe", P=1, M=1), Settings())
    assert certificate.report is not None
    assert float(certificate.report.makespan) == 2 + 4 + 4 * 1.5
    stated = Costs.of({"F.attention": 5, "F": 2, "BW": 0})
    compiled = build(
        "gpipe", {"P": 1, "M": 1}, Settings(stated, layers=layers_of(LAYER), neighbours=0)
    )
    report = certify(compiled, Settings()).report
    assert report is not None
    assert float(report.makespan) == 5 + 1


@pytest.mark.parametrize("layers", ["attention mlp", LAYER, f"3 x {LAYER}", "a b c | 2 x d"])
@pytest.mark.parametrize("costs", [{}, {"F": 3}, {"F": "1.1", "W": 0}])
def test_shares_are_exact(layers: str, costs: dict[str, object]) -> None:
    """Whatever a chunk is opened into, its parts add up to the time of the whole."""
    settings = Settings(Costs.of(costs), layers=layers_of(layers), neighbours=0)
    found = certify(build("gpipe", {"P": 1, "M": 1}, settings), Settings()).report
    whole = certify(build("gpipe", {"P": 1, "M": 1}, Settings(Costs.of(costs))), Settings()).report
    assert found is not None
    assert whole is not None
    assert found.makespan == whole.makespan


def test_what_is_not_known_of_all_to_alls_is_assumed() -> None:
    """Pairs are interleaved although no cost is stated; not where all-to-alls are said to be free.

    What is predicted holds for the costs as they are.
    """

    def made(**costs: object) -> tuple[list[str], float]:
        settings = Settings(Costs.of(costs), layers=layers_of(f"2 x {LAYER}"))
        compiled = build("dualpipe", {"P": 2, "M": 6}, settings)
        report = certify(compiled, Settings()).report
        assert report is not None
        return stream(compiled, 0), float(report.makespan)

    unknown, known, free = made(), made(dispatch="0.375", combine="0.375"), made(dispatch=0)
    assert unknown[0] == known[0] != free[0]
    assert unknown[1] < known[1]


def test_neighbours_stay_within_a_limit() -> None:
    """The shortest order that the limit admits; the least one where it admits none."""

    def made(limit: int | None) -> tuple[float, int]:
        memory = None if limit is None else Memory(limit=Limit.of(limit))
        settings = Settings(COSTS, memory, layers=layers_of(LAYER), neighbours=8)
        report = certify(build("dualpipe", {"P": 4, "M": 16}, settings), Settings()).report
        assert report is not None
        return float(report.makespan), int(report.peak_memory)

    free, plain = made(None), made(1)
    assert plain[1] < free[1] and plain[0] > free[0]
    for limit in range(plain[1], free[1] + 1):
        makespan, peak = made(limit)
        assert peak <= limit and free[0] <= makespan <= plain[0]
    assert made(free[1]) == free


def test_the_memory_of_an_opened_chunk_is_that_of_the_whole_one() -> None:
    """An activation is counted once, from the first part of F to the last of its backward."""
    whole = certify(build("1f1b", {"P": 4, "M": 8}), Settings()).report
    parts = certify(opened("1f1b", P=4, M=8), Settings()).report
    assert whole is not None
    assert parts is not None
    assert whole.peak_memory == parts.peak_memory


def test_layers_may_differ_between_stages_in_the_text() -> None:
    """`layers` lines add up, each with a count in terms of `stage`."""
    text = """
schedule mine(P, M):
    flow main(stages=P, microbatches=M): rank = stage
    layers 1 if stage == 0 else 0: embed attention mlp
    layers 2: attention dispatch mlp combine
    cost F.mlp = 2, dispatch = 0.5
    on rank r:
        repeat M: F
        repeat M: BW
"""
    source = Source("mine.pipe", text)
    layouts = bind(only_schedule(read(source), source), {"P": 2, "M": 2}, source).layouts
    assert layout_text(layouts[0]) == f"embed attention mlp | 2 x {LAYER} | out"
    assert layout_text(layouts[1]) == f"2 x {LAYER} | out"


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ("dispatch mlp", "begins with compute"),
        ("a dispatch combine", "compute stands between"),
        ("a a", "has one `a`"),
        ("", "is not"),
        ("5000 x a", "at most"),
        ("a | | b", "is not"),
    ],
)
def test_layers_that_no_chunk_can_have_are_refused(layers: str, what: str) -> None:
    """Each with what is wrong."""
    with pytest.raises(PipecError, match=what):
        layers_of(layers)


def test_layouts_round_trip_as_text() -> None:
    """`layout_text` and `parse_layout` are inverse."""
    for text in (LAYER + " | out", "embed | 3 x attention mlp | head", f"4 x {LAYER} | out"):
        assert layout_text(parse_layout(text)) == text


def test_a_plan_with_open_chunks_reads_back() -> None:
    """Parts are part of the plan file."""
    plan = pipec.compile("dualpipe", P=4, M=8, layers=f"2 x {LAYER}")
    assert (plan.program.kind == Kind.DISPATCH).sum() == 4 * 2 * 2 * 8


def test_the_cost_of_a_part_that_no_chunk_has_is_refused() -> None:
    """A misspelt part would count for nothing, and so would one of a chunk that is not opened."""
    for layers, hint in ((layers_of(LAYER), "did you mean `mlp`"), (None, "open the chunks")):
        with pytest.raises(PipecError, match="no chunk has a part `mpl`") as caught:
            build("1f1b", {"P": 2, "M": 2}, Settings(Costs.of({"F.mpl": 2}), layers=layers))
        assert hint in (caught.value.findings[0].hint or "")


def test_only_a_text_is_opened(tmp_path: Path) -> None:
    """A listing says what its parts are; to open it is refused, not ignored."""
    path = tmp_path / "x.listing"
    path.write_text(listing(build("gpipe", {"P": 2, "M": 2}).program))
    with pytest.raises(PipecError, match="only the chunks of a text"):
        build(str(path), {}, Settings(layers=layers_of(LAYER)))
