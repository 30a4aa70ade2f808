"""What the library's texts say of themselves is what comes out."""

import re

import pytest

from pipec.compiler import Settings, build, certify
from pipec.library import Entry, entries
from pipec.program.costs import Costs

SAID = [entry for entry in entries() if entry.name != "forward"]
ONE = {"F": 1.0, "B": 1.0, "W": 1.0, "F&B": 3.0}
HIDDEN = {**ONE, "F&B": 2.0}
OTHERS = ({"F": 1.5, "B": 2.0, "W": 1.0, "F&B": 4.0}, {"F": 1.0, "B": 1.25, "W": 0.75, "F&B": 3.0})


def value(formula: str, names: dict[str, float]) -> float:
    """A formula of a docstring as Python computes it."""
    expression = formula.partition(" where ")[0].replace("F&B", "pair")
    return float(eval(expression, {}, {name.replace("F&B", "pair"): names[name] for name in names}))


@pytest.mark.parametrize("entry", SAID, ids=lambda entry: entry.name)
def test_bubble_and_peak(entry: Entry) -> None:
    """The formulas hold for the worst rank wherever the pipeline is full."""
    defaults = dict(parameter.split("=") for parameter in entry.parameters if "=" in parameter)
    for ranks in (2, 4, 6):
        sizes = {"P": ranks, "M": 4 * ranks}
        sizes |= {name: eval(text, {}, sizes) for name, text in defaults.items()}
        everywhere = not entry.bubble or "F = B = W" not in entry.bubble
        for costs in (ONE, HIDDEN, *(OTHERS if everywhere else ())):
            settings = Settings(Costs.of(costs))
            report = certify(build(entry.name, sizes, settings), settings).report
            assert report and entry.peak
            assert report.peak_memory == value(entry.peak, sizes)
            if entry.bubble:
                bubble = max(float(rank.bubble) for rank in report.ranks)
                assert bubble == pytest.approx(max(value(entry.bubble, {**sizes, **costs}), 0))


def test_every_schedule_says_its_peak() -> None:
    """No schedule is without one, and a bubble is a formula of the costs."""
    for entry in entries():
        assert entry.peak
        assert entry.bubble is None or re.search(r"\b[FBW]\b", entry.bubble)
