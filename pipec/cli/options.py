"""What commands share: K=V arguments, common options, and how failures end."""

import functools
import json
import os
import sys
import threading
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.text import Text

from pipec.compiler import Settings
from pipec.findings import PipecError
from pipec.order.expand import BUDGET
from pipec.program.costs import Costs
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.verify.json import finding_json
from pipec.view.findings import error_text

FINDINGS, USAGE, BUG = 1, 2, 70
"""Exit statuses: the schedule is wrong, the command is wrong, pipec is wrong."""

Command = TypeVar("Command", bound=Callable[..., Any])


def console() -> Console:
    """Where results go. Width and colour as the terminal and `NO_COLOR` say; none of both in a
    pipe.
    """
    return Console(highlight=False, soft_wrap=True)


def say(text: str | Text) -> None:
    """A message that is not a result: to stderr, so that pipes stay clean."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def emit(value: Any) -> None:
    """A result as JSON, one document on stdout."""
    click.echo(json.dumps(value, indent=2))


def compiling(command: Command) -> Command:
    """The options of every command that compiles."""
    options = (
        click.option("--cost", metavar="K=X,...", help="Times, e.g. 'F=1,B=1,W=1,F&B=3,send=0'."),
        click.option(
            "--costs", "costs_file", metavar="FILE", help="Times from a TOML or JSON file."
        ),
        click.option(
            "--channels",
            type=click.Choice(TOPOLOGIES[::-1]),
            default="pair",
            show_default=True,
            help="How posted messages queue: by pair of ranks, directed pair, rank, or not at all.",
        ),
        click.option(
            "--credits",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Messages that a sender may complete before they are received.",
        ),
        click.option("--memory-limit", metavar="X", help="The most that any rank may hold."),
        click.option(
            "--budget",
            type=click.IntRange(1),
            default=BUDGET,
            show_default=True,
            help="The most operations that a program may make.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def common(command: Command) -> Command:
    """The options of every command that compiles and prints a result."""
    form = click.Choice(["text", "json"])
    command = click.option("--format", "form", type=form, default="text", show_default=True)(
        command
    )
    return compiling(command)


def settings(**options: Any) -> Settings:
    """The common options as settings. Raises `click.UsageError`."""
    costs = None
    if options["costs_file"]:
        costs = Costs.of(_costs_file(Path(options["costs_file"])))
    if options["cost"]:
        stated = Costs.of(dict(_assignments(options["cost"].split(","), "--cost")))
        costs = costs.override(stated) if costs else stated
    limit = options["memory_limit"]
    try:
        limit = None if limit is None else Fraction(limit)
    except (ValueError, ZeroDivisionError):
        raise click.UsageError(f"--memory-limit takes a number, not {limit!r}") from None
    channels = Channels(options["channels"], options["credits"])
    return Settings(costs, limit, channels, options["budget"])


def _costs_file(path: Path) -> dict[str, Any]:
    try:
        content = path.read_text(encoding="utf-8")
        table = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"{path} is not a costs file: {error}") from None
    if not isinstance(table, dict):
        raise click.UsageError(f"{path} is not a costs file: expected keys such as F = 1.0")
    return table


def _assignments(words: Any, where: str) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise click.UsageError(f"{where} takes K=V, not {word!r}")
        yield key.strip(), value.strip()


def parameters(words: tuple[str, ...]) -> dict[str, int | bool]:
    """`P=4 M=8` as parameters. Raises `click.UsageError`."""
    values: dict[str, int | bool] = {}
    for key, value in _assignments(words, "a parameter"):
        if key in values:
            raise click.UsageError(f"{key} is given twice")
        if value in ("true", "false"):
            values[key] = value == "true"
            continue
        try:
            if len(value) > 18:
                raise ValueError
            values[key] = int(value)
        except ValueError:
            raise click.UsageError(
                f"{key} takes an integer, true or false, not {value!r}"
            ) from None
    return values


def guarded(command: Command) -> Command:
    """End a command the way people expect: findings, usage or a bug, and never a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PipecError as error:
            usage = any(finding.code == "usage" for finding in error.findings)
            if kwargs.get("form") == "json":
                findings = [finding_json(found, error.source) for found in error.findings]
                emit(
                    {
                        "ok": False,
                        "findings": findings,
                        "channels": {},
                        "makespan": None,
                        "ranks": [],
                    }
                )
            else:
                say(error_text(error))
            sys.exit(USAGE if usage else FINDINGS)
        except OSError as error:
            say(f"pipec: {error.strerror or error}: {error.filename or ''}".rstrip(": "))
            sys.exit(USAGE)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            _bug(error)

    return run  # type: ignore[return-value]


def _bug(error: Exception) -> NoReturn:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    say(f"This is a bug of pipec, not yours: {type(error).__name__}: {error} ({place}).")
    say("Please report it with the command line and the file. PIPEC_TRACEBACK=1 shows where it is.")
    if os.environ.get("PIPEC_TRACEBACK"):
        traceback.print_exception(error)
    sys.exit(BUG)


@contextmanager
def patience(what: str) -> Iterator[None]:
    """On a terminal, say what is going on if it takes more than a second."""
    screen = Console(stderr=True)
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
