"""Members of an expert group that execute different plans: what can go wrong between them."""

from pathlib import Path

from pipec.compiler import Settings, build, certify, layers_of
from pipec.findings import Severity
from pipec.program.graph import Channels
from pipec.program.program import Program
from pipec.verify.members import members

FOLDER = Path(__file__).parent / "members"


def read(name: str) -> Program:
    compiled = build(str(FOLDER / f"{name}.listing"), {})
    certificate = certify(compiled, Settings())
    assert certificate.ok and all(one.safe for one in certificate.safety.values())
    return compiled.program


def test_one_order_is_not_enough() -> None:
    """Two pipelines issue the same all-to-alls in the same order, and wait for each other."""
    first, last = read("second_first"), read("second_last")
    for topology in ("rank", "pair", "directed", "tagged"):
        channels = Channels(topology)
        assert members(first, first, "itself", channels) == []
        (finding,) = members(first, last, "the others", channels)
        assert (finding.code, finding.severity) == ("expert-order", Severity.DEADLOCK)
        assert [place.instruction for place in finding.places] == [
            "DISPATCH F down 0 0 dispatch.0",
            "DISPATCH F up 0 0 dispatch.0",
        ]


def test_other_messages_do_not_matter_if_nobody_waits() -> None:
    """A member whose messages stand elsewhere may go together with one as lowered."""
    layers = layers_of("attention dispatch mlp combine")
    sizes = {"P": 2, "M": 4}
    plain = build("dualpipe", sizes, Settings(layers=layers)).program
    grouped = build("dualpipe", sizes, Settings(layers=layers, grouped=True)).program
    for channels in (Channels("pair"), Channels("pair", 1), Channels("tagged")):
        assert members(plain, grouped, "launched", channels) == []
        assert members(grouped, plain, "plain", channels) == []
