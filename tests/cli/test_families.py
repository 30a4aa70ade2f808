"""`pipec verify --for`: whole families, their first failure, and ranges that are none."""

import json

import pytest
from click.testing import CliRunner, Result

from pipec import families
from pipec.cli import main
from pipec.compiler import Settings
from pipec.families import members, parse_range, prove
from pipec.findings import PipecError


def pipec(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_ranges_are_inclusive_and_may_use_what_stands_before() -> None:
    """`P=2..6:2` and `M=2*P..12:3` are exactly these sizes, beside what is fixed."""
    ranges = [parse_range("P=2..6:2"), parse_range(" M = 2*P..12:3 ")]
    assert members(ranges, {"v": 1}) == [
        {"v": 1, "P": P, "M": M} for P in (2, 4, 6) for M in range(2 * P, 13, 3)
    ]


@pytest.mark.slow
def test_a_whole_family_is_proved() -> None:
    """Every size is certified or refused by a `require`, and counted."""
    done = pipec(
        *"verify dualpipe --for P=2..6 --for M=2*P..14 --format json".split(),
    )
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    legal = [(P, M) for P in (2, 4, 6) for M in range(2 * P, 15, 2)]
    sizes = [(P, M) for P in range(2, 7) for M in range(2 * P, 15)]
    assert (said["ok"], said["certified"], said["failed"]) == (True, len(legal), None)
    assert said["refused"] == len(sizes) - len(legal)


@pytest.mark.slow
def test_the_first_failure_ends_it_and_is_explained() -> None:
    """With a limit that larger sizes break, the smallest of those is shown and explained."""
    done = pipec(*"verify 1f1b M=8 --for P=2..8 --memory-limit 4".split())
    assert done.exit_code == 1
    assert "3 sizes of 1f1b certified" in done.stdout
    assert "the first failure: M=8 P=5" in done.stdout
    assert "error[memory-limit]: rank 0 holds more than the limit" in done.stderr


def test_a_sweep_that_proves_nothing_fails() -> None:
    """Where no size is legal, the first one says why, and the status is 1."""
    done = pipec(*"verify dualpipe P=3 --for M=6..8 --format json".split())
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert (said["ok"], said["refused"]) == (False, 3) and said["failed"] == {"P": 3, "M": 6}
    assert "requirement not met" in pipec(*"verify dualpipe P=3 --for M=6..8".split()).stderr


@pytest.mark.slow
def test_proofs_come_in_the_order_of_the_family() -> None:
    """However many processes prove, the outcomes are those of the sizes asked for, in order."""
    family = [{"P": 2, "M": M} for M in range(1, 30)]
    assert [proof.sizes for proof in prove("1f1b", family, Settings())] == family


@pytest.mark.parametrize(
    "text, message",
    [
        ("P=2", "this is not a range"),
        ("=2..4", "this is not a range"),
        ("P=2..x", "`x`"),
        ("P=2..true", "this value cannot be used here"),
        ("P=2..min()", "two arguments or more"),
        ("P=2..abs(1,2)", "one argument"),
        ("P=1..5//0", "division by zero"),
        ("P=2..3/2", "3 / 2"),
        ("P=2..(3", "expected"),
        ("P=9..2", "these ranges are empty"),
        ("P=1..8:0", "the range of `P` has no end"),
        ("P=1..10**12", "the range of `P` has no end"),
    ],
)
def test_what_is_no_range_is_said(text: str, message: str) -> None:
    """A wrong range is a wrong command: a message, and status 2."""
    done = pipec("verify", "1f1b", "M=4", "--for", text)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_ranges_with_too_many_sizes_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each range may be small enough, and all their sizes more than can be listed."""
    monkeypatch.setattr(families, "MOST_SIZES", 1000)
    ranges = [parse_range("P=1..40"), parse_range("M=P..40")]
    assert len(members(ranges, {})) == 820
    with pytest.raises(PipecError, match="these ranges have too many sizes"):
        members([*ranges, parse_range("v=1..2")], {})


def test_a_size_given_twice_is_said() -> None:
    """A name may be fixed or ranged over, not both."""
    done = pipec("verify", "1f1b", "P=2", "M=4", "--for", "P=2..4")
    assert done.exit_code == 2
    assert "`P` is given twice" in done.stderr


def test_members_are_not_compared_at_many_sizes() -> None:
    """What a sweep would not look at is refused, rather than called certified."""
    done = pipec(*"verify 1f1b P=2 --for M=2..3 --members gpipe".split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert "`--members` compares at one size" in done.stderr
