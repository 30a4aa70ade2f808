"""Whatever a text holds, its author gets findings: never a traceback, never a long wait."""

import random
import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipec.findings import PipecError
from pipec.language import read
from pipec.language import syntax as s
from pipec.language.format import format_text
from pipec.language.layout import LARGEST_TEXT
from pipec.order.arrange import arrange
from pipec.order.schedule import bind
from pipec.source import Source
from pipec.view.findings import error_text

BUDGET = 20_000
TEXTS = sorted(
    entry.read_text(encoding="utf-8")
    for entry in files("pipec.schedules").iterdir()
    if entry.name.endswith(".pipe")
) + [path.read_text("utf-8") for path in sorted(Path(__file__).parent.parent.glob("errors/*.pipe"))]
TOKEN = re.compile(r"\w+|\n *|[^\w\s]+| +")
WORDS = sorted(
    {*s.RESERVED, "rank", "stage", "P", "M", "r", "0", "1", "2", "9" * 19, "0.5", "0 .. M"}
)
SIGNS = ["(", ")", "[", "]", ":", ",", "=", "..", "-", "**", "//", '"', '"""', "#", "\n", "\t", "&"]


def survives(text: str) -> bool:
    """Run a text through the compiler's front half; whether it is a whole schedule."""
    source = Source("fuzz.pipe", text)
    try:
        tree = read(source)
        format_text(source)
        schedules = [item for item in tree.items if isinstance(item, s.ScheduleItem)]
        for number, schedule in enumerate(schedules):
            given = {parameter.name.name: 3 - number for parameter in schedule.parameters[:1]}
            given |= {p.name.name: 4 for p in schedule.parameters[1:] if p.default is None}
            arrange(bind(schedule, given, source), BUDGET)
    except PipecError as error:
        assert error.findings
        assert "error[" in error_text(error).plain and str(error)
        return False
    return True


def test_the_texts_survive_unchanged() -> None:
    """The fuzzers begin from texts that get as far as they can."""
    assert sum(survives(text) for text in TEXTS) > 5


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A text with tokens, lines or characters removed, doubled, swapped or put in."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        unit = draw(st.sampled_from(["token", "line", "character"]))
        pieces = {"token": TOKEN.findall, "line": str.splitlines, "character": list}[unit](text)
        if not pieces:
            return text
        at, other = draw(st.integers(0, len(pieces) - 1)), draw(st.integers(0, len(pieces) - 1))
        match draw(st.sampled_from(["drop", "double", "swap", "insert"])):
            case "drop":
                del pieces[at]
            case "double":
                pieces.insert(at, pieces[at])
            case "swap":
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case "insert":
                fresh = st.one_of(st.sampled_from([*WORDS, *SIGNS]), st.text(max_size=3))
                pieces.insert(at, draw(fresh))
        text = ("\n" if unit == "line" else "").join(pieces)
    return text


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(mutated())
def test_mutated_texts(text: str) -> None:
    """Mutations of real schedules and of broken ones give findings or a whole order."""
    survives(text)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "replace"))))
def test_random_texts(text: str) -> None:
    """Random characters and random bytes give findings, in front of a schedule too."""
    assert not survives(text)
    survives(text + "\n" + TEXTS[0])


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_in_real_texts(seed: int) -> None:
    """A few thousand texts with bytes changed, removed or put in, and sizes of many digits."""
    rng = random.Random(seed)
    for _ in range(750):
        raw = bytearray(rng.choice(TEXTS), "utf-8")
        for _ in range(rng.choice([1, 1, 2, 8])):
            if not raw:
                break
            at = rng.randrange(len(raw))
            match rng.randrange(5):
                case 0:
                    raw[at] = rng.randrange(256)
                case 1:
                    del raw[at : at + rng.choice([1, 1, 5, 40])]
                case 2:
                    raw[at:at] = bytes([rng.randrange(256)])
                case 3:
                    raw[at:at] = rng.choice(
                        [b"9" * 8, b"(", b"\n", b" ", b"-", b"not ", b"F ", b"W "]
                    )
                case 4:
                    other = rng.choice(TEXTS).encode()
                    begin = rng.randrange(len(other) + 1)
                    raw[at : at + 30] = other[begin : begin + rng.randrange(60)]
        survives(raw.decode("utf-8", "replace"))


HEAD = "schedule s(P, M):\n    let x = "


@pytest.mark.parametrize(
    "text",
    [
        "(" * LARGEST_TEXT,
        HEAD + "(" * 30 + "3" + ")" * 30,
        HEAD + "not " * 5_000 + "true",
        HEAD + "1 + " * 5_000 + "1",
        HEAD + "1 if true else " * 2_000 + "1",
        "".join(f"{' ' * depth}repeat 2:\n" for depth in range(400)),
        '"\\' * (LARGEST_TEXT // 2),
        '"""' + '\\"' * (LARGEST_TEXT // 3),
        '"""' * 33_333,
        "\n" * LARGEST_TEXT,
        "#" * LARGEST_TEXT,
        "\0" * LARGEST_TEXT,
        "x" * (LARGEST_TEXT + 1),
        "F " * 5_000,
        "let x = 1\n" * 2_000,
    ],
    ids=range(15),
)
def test_large_texts(text: str) -> None:
    """Deep, long and repetitive texts are refused: no recursion, nothing quadratic."""
    assert not survives(text)
