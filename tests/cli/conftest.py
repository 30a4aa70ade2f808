"""What the tests of the command line share."""

import pytest


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is as wide as a pipe's: whoever runs the tests may have set another width."""
    monkeypatch.delenv("COLUMNS", raising=False)
