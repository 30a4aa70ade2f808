"""Simulated bubbles and peaks equal the published formulas where those hold."""

import pytest

from pipec.compiler import Settings, build, certify
from pipec.program.costs import Costs
from pipec.program.graph import Channels
from pipec.simulate.report import Report

ALL_RANKS = range(2, 17)
EVEN_RANKS = range(2, 17, 2)
COSTS = ({}, {"F": 2}, {"B": 2}, {"F": "0.5", "B": "1.25", "W": "0.75"})


def simulated(name: str, costs: dict[str, object] | None = None, **sizes: int) -> Report:
    settings = Settings(Costs.of(costs or {}))
    certificate = certify(build(name, sizes, settings), settings)
    assert certificate.ok and certificate.report
    return certificate.report


def work(costs: dict[str, object]) -> float:
    """F + B + W."""
    return sum(float(costs.get(key, 1)) for key in ("F", "B", "W"))  # type: ignore[arg-type]


@pytest.mark.parametrize("ranks", ALL_RANKS)
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_fill_and_drain(name: str, ranks: int) -> None:
    """GPipe and 1F1B have a bubble of (P - 1)(F + B + W) at any costs."""
    for costs in COSTS:
        for count in (ranks, 3 * ranks):
            report = simulated(name, costs, P=ranks, M=count)
            assert {rank.bubble for rank in report.ranks} == {(ranks - 1) * work(costs)}


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_1f1b_memory(ranks: int) -> None:
    """Rank r of 1F1B holds P - r activations at its peak, however many microbatches there are."""
    report = simulated("1f1b", P=ranks, M=4 * ranks)
    assert [rank.peak_memory for rank in report.ranks] == [ranks - r for r in range(ranks)]


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_interleaved(ranks: int) -> None:
    """Interleaved 1F1B divides the bubble by v: (P - 1)(F + B + W) in units of one chunk."""
    for chunks in (2, 3):
        report = simulated("interleaved", P=ranks, M=3 * ranks, v=chunks)
        assert {rank.bubble for rank in report.ranks} == {(ranks - 1) * 3}
        assert report.ranks[0].peak_memory == 2 * (ranks - 1) + (chunks - 1) * ranks + 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_zb_h1(ranks: int) -> None:
    """ZB-H1 has a bubble of (P - 1)(F + B - W) within 1F1B's worst memory."""
    report = simulated("zb1p", P=ranks, M=3 * ranks)
    assert max(rank.bubble for rank in report.ranks) == ranks - 1
    assert report.peak_memory == ranks


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_zb_h2(ranks: int) -> None:
    """ZB-H2 has no bubble between a rank's first and last operation, and holds 2P - 1."""
    report = simulated("zb2p", P=ranks, M=3 * ranks)
    assert {rank.span_bubble for rank in report.ranks} == {0}
    assert report.peak_memory == 2 * ranks - 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_zb_v(ranks: int) -> None:
    """ZB-V has no bubble between a rank's first and last operation; from 0 it is P - 1 chunks."""
    report = simulated("zbv", P=ranks, M=3 * ranks)
    assert {rank.span_bubble for rank in report.ranks} == {0}
    assert {rank.bubble for rank in report.ranks} == {ranks - 1}
    assert report.peak_memory == 2 * ranks


@pytest.mark.parametrize("ranks", EVEN_RANKS)
@pytest.mark.parametrize("pair", [2, 3])
def test_dualpipe(ranks: int, pair: int) -> None:
    """DualPipe has the bubble (P/2 - 1)(F&B + B + W - 3W) on its middle ranks, at PP+1."""
    report = simulated("dualpipe", {"F&B": pair}, P=ranks, M=3 * ranks + ranks % 4)
    middle = report.ranks[ranks // 2]
    assert middle.bubble == max((ranks // 2 - 1) * (pair + 2 - 3), 0)
    assert report.peak_memory == ranks + 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
@pytest.mark.parametrize("pair", [2, 3])
def test_dualpipe_v(ranks: int, pair: int) -> None:
    """DualPipeV has DualPipe's bubble with PP = 2P stages on half the ranks, at PP+1 chunks."""
    report = simulated("dualpipev", {"F&B": pair}, P=ranks, M=3 * ranks)
    assert max(rank.bubble for rank in report.ranks) == (ranks - 1) * (pair + 2 - 3)
    assert report.peak_memory == 2 * ranks + 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_eager_1f1b(ranks: int) -> None:
    """Running ahead costs memory and, where messages are free, gains nothing."""
    for costs in COSTS:
        report = simulated("eager1f1b", costs, P=ranks, M=3 * ranks)
        assert {rank.bubble for rank in report.ranks} == {(ranks - 1) * work(costs)}
        assert report.peak_memory == 2 * ranks - 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_1f1b_in_pairs(ranks: int) -> None:
    """Pairs of an F and a BW cost the memory of two microbatches a hop, and no time."""
    for pair in (2, 3):
        report = simulated("1f1b-overlap", {"F&B": pair}, P=ranks, M=4 * ranks)
        assert max(rank.bubble for rank in report.ranks) == 3 * (ranks - 1)
        assert report.peak_memory == 2 * ranks
        chunks = simulated("interleaved-overlap", P=ranks, M=3 * ranks, v=3)
        assert {rank.bubble for rank in chunks.ranks} == {3 * (ranks - 1)}
        assert chunks.peak_memory == 4 * ranks


@pytest.mark.parametrize("ranks", EVEN_RANKS)
def test_chimera(ranks: int) -> None:
    """Two pipelines of opposite directions leave a bubble of (P - 2)(B + W), at PP + 1."""
    for costs in ({}, {"F": 2}, {"B": 2}):
        report = simulated("chimera", costs, P=ranks, M=4 * ranks)
        backward = work(costs) - float(costs.get("F", 1))
        assert max(rank.bubble for rank in report.ranks) == (ranks - 2) * backward
        assert report.peak_memory == ranks + 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_v_zb(ranks: int) -> None:
    """V-ZB has no bubble between a rank's first and last operation, within 1F1B's memory."""
    report = simulated("vzb", P=ranks, M=3 * ranks)
    assert {rank.span_bubble for rank in report.ranks} == {0}
    assert report.peak_memory == 2 * ranks


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_controllable_memory(ranks: int) -> None:
    """V-Half holds half and V-Min a third of 1F1B's 2P chunks, and a constant more."""
    assert simulated("vhalf", P=ranks, M=2 * ranks).peak_memory == 2 * (ranks // 2) + 2
    assert simulated("vmin", P=ranks, M=2 * ranks).peak_memory == 2 * ((ranks + 2) // 3) + 2 * (
        ranks % 3 != 1
    )


@pytest.mark.parametrize("most", [2, 5, 8, 16])
def test_a_limit_of_memory(most: int) -> None:
    """Policies hold what they are allowed to, and never more."""
    report = simulated("zbv-greedy", {"B": "1.2", "W": "0.8"}, P=8, M=16, most=most)
    assert report.peak_memory == most
    assert simulated("zb2p-greedy", P=4, M=16, most=most).peak_memory == min(most, 16)


DESIGN = [
    ("dualpipe", {"F&B": 3}, {"P": 8, "M": 20}, 66),
    ("dualpipe", {"F&B": 3}, {"P": 8, "M": 40}, 126),
    ("dualpipe", {"F&B": 2}, {"P": 8, "M": 20}, 52),
    ("dualpipe", {"F&B": 3}, {"P": 16, "M": 64}, 206),
    ("zbv", {}, {"P": 8, "M": 24}, 151),
    ("zbv", {"B": "1.2", "W": "0.8", "send": "0.05"}, {"P": 8, "M": 24}, 154.05),
    ("zb1p", {"B": "1.2", "W": "0.8", "send": "0.05"}, {"P": 8, "M": 24}, 83.2),
    ("1f1b", {"B": "1.5", "W": "0.7", "send": "0.1"}, {"P": 8, "M": 32}, 131.6),
    ("zb1p-greedy", {}, {"P": 8, "M": 24}, 79),
    ("vzb", {}, {"P": 8, "M": 24}, 151),
    ("vhalf", {}, {"P": 8, "M": 24}, 161),
    ("vmin", {}, {"P": 8, "M": 24}, 167),
    ("zb1p-greedy", {"B": "1.2", "W": "0.8", "send": "0.05"}, {"P": 8, "M": 24}, 83.2),
    ("vzb", {"B": "1.2", "W": "0.8", "send": "0.05"}, {"P": 8, "M": 24}, 153.45),
    ("vhalf", {"B": "1.2", "W": "0.8", "send": "0.05"}, {"P": 8, "M": 24}, 167.6),
    ("vmin", {"B": "1.2", "W": "0.8", "send": "0.05"}, {"P": 8, "M": 24}, 183.2),
]


@pytest.mark.parametrize(("name", "costs", "sizes", "makespan"), DESIGN)
def test_known_makespans(
    name: str, costs: dict[str, object], sizes: dict[str, int], makespan: float
) -> None:
    """Makespans measured by others, with messages that never queue, come out exactly; those of
    building blocks (V-ZB 154.05, V-Half 169.1, V-Min 169 and 206.2) as here or shorter.
    """
    settings = Settings(Costs.of(costs), channels=Channels("tagged"))
    report = certify(build(name, sizes, settings), settings).report
    assert report and report.makespan == makespan


def test_dualpipe_at_unequal_costs() -> None:
    """At F=1 B=1.2 W=0.8 F&B=2.2 the formula says 5.4; the order itself gives 4.8."""
    costs = {"F": 1, "B": "1.2", "W": "0.8", "F&B": "2.2"}
    report = simulated("dualpipe", costs, P=8, M=20)
    assert max(rank.bubble for rank in report.ranks) == 4.8


@pytest.mark.parametrize("ranks", ALL_RANKS)
@pytest.mark.parametrize("slices", [2, 3, 8])
def test_slices(ranks: int, slices: int) -> None:
    """Slices divide the bubble of 1F1B and of ZB-H1, at a peak of P + slices - 1 of them."""
    for costs in COSTS:
        report = simulated("seq1f1b", costs, P=ranks, M=ranks + 1, slices=slices)
        assert {rank.bubble for rank in report.ranks} == {(ranks - 1) * work(costs)}
        assert [rank.peak_memory for rank in report.ranks] == [
            ranks - r + slices - 1 for r in range(ranks)
        ]
    report = simulated("seqzb1p", P=ranks, M=ranks + 1, slices=slices)
    assert max(rank.bubble for rank in report.ranks) == ranks - 1
    assert report.peak_memory == ranks + slices - 1


@pytest.mark.parametrize("ranks", ALL_RANKS)
def test_forward(ranks: int) -> None:
    """Inference waits P - 1 forwards for the last rank to begin and keeps nothing."""
    report = simulated("forward", P=ranks, M=2 * ranks)
    assert report.makespan == 3 * ranks - 1
    assert report.peak_memory == 1
