"""Where commands write: results to stdout, everything else to stderr."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 100_000
"""The width of what is no terminal: there nothing is wrapped."""


def console(stderr: bool = False) -> Console:
    """A console that prints names as they are, with the width and colours that a terminal has.

    In a pipe or a file there is no colour, and lines are as long as they are; `COLUMNS` and
    `NO_COLOR` are obeyed.
    """
    screen = Console(
        stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False, tab_size=1
    )
    if not screen.is_terminal and not os.environ.get("COLUMNS"):
        screen.width = _UNBOUNDED
    return screen


def figures(table: Table) -> None:
    """A table of figures: where it is narrow headings fold between words, and nothing is cut."""
    screen = console()
    unbounded = screen.options.update(width=_UNBOUNDED)
    if Measurement.get(screen, unbounded, table).maximum > screen.width:
        for column in table.columns:
            words = str(column.header).split()
            column.width = max(map(cell_len, [*words, *map(str, column.cells)]))
        table.padding = (0, 0)
        screen.width = max(screen.width, Measurement.get(screen, unbounded, table).maximum)
    screen.print(table, soft_wrap=False)


def say(text: str | Text) -> None:
    """A message that is not a result: to stderr, so that pipes stay clean."""
    console(stderr=True).print(text)


def emit(value: Any) -> None:
    """A result as JSON, one document on stdout."""
    click.echo(json.dumps(value, indent=2))


def never_fail_to_encode() -> None:
    """What the encoding of a stream has no character for is written as `?`, never an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


@contextmanager
def patience(what: str) -> Iterator[None]:
    """On a terminal, say what is going on if it takes more than a second."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    status = screen.status(what)
    timer = threading.Timer(1.0, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        status.stop()
