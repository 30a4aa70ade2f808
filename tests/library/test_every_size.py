"""Library schedules are certified at every legal size (a sample here; bench/sweep.py does all)."""

import pytest

from pipec.compiler import Settings, build, certify
from pipec.findings import PipecError
from pipec.library import entries, find, names

EVERY = {"dualpipe": 3, "dualpipev": 5}
EVERY |= dict.fromkeys(("interleaved", "interleaved-overlap", "interleavedzb"), 7)
EVERY |= dict.fromkeys(("hanayo", "vhalf", "vmin", "vzb", "zbv-greedy"), 37)
"""Schedules to try at every third to seventh size, because few are legal, or, where the compiler
has to decide the order, at every 37th; the others are tried at every eleventh.
"""


NO_PAPER = ("1f1b-overlap", "dualpipev", "forward", "interleaved-overlap")
"""Schedules that are published as code alone."""


@pytest.mark.parametrize("name", names())
def test_certified_at_every_size(name: str) -> None:
    """Up to P=16, M=64, what a `require` does not refuse is certified under every topology."""
    sizes = [(ranks, count) for ranks in range(1, 17) for count in range(1, 65)]
    tried = 0
    for ranks, count in sizes[:: EVERY.get(name, 11)]:
        try:
            compiled = build(name, {"P": ranks, "M": count})
        except PipecError as error:
            assert {finding.code for finding in error.findings} == {"require"}, (ranks, count)
            continue
        certificate = certify(compiled, Settings())
        assert certificate.ok, (ranks, count, certificate.findings)
        assert all(verdict.safe for verdict in certificate.safety.values()), (ranks, count)
        tried += 1
    assert tried >= 20


@pytest.mark.parametrize("name", names())
def test_texts_are_short_and_documented(name: str) -> None:
    """Every text has fewer than 40 lines, and a docstring that says where it comes from."""
    entry = next(entry for entry in entries() if entry.name == name)
    assert entry.summary.endswith(".")
    assert "arXiv" in entry.summary or name in NO_PAPER
    assert len(_text(name).splitlines()) < 40


def _text(name: str) -> str:

    return find(name).text


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("onef1b", "1f1b"),
        ("1F1B", "1f1b"),
        ("ZB-H1", "zb1p"),
        ("zb_h2", "zb2p"),
        ("vpp", "interleaved"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    """Other names and other spellings find the same text."""
    assert _text(alias) == _text(name)


def test_many_ranks() -> None:
    """More ranks than the narrow columns of a table can count are certified like few."""
    compiled = build("1f1b", {"P": 130, "M": 3})
    assert certify(compiled, Settings()).ok
