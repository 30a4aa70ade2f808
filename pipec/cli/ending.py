"""How commands end: done, findings, a wrong command, or a bug; and never with a traceback."""

import os
import sys
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import click

from pipec.cli.output import emit, never_fail_to_encode, say
from pipec.findings import Finding, PipecError
from pipec.loading import is_loaded
from pipec.source import Source
from pipec.verify.json import finding_json
from pipec.view.findings import error_text

FINDINGS, USAGE, BUG = 1, 2, 70
"""Exit statuses: the schedule is wrong, the command is wrong, pipec is wrong."""


def status_of(error: PipecError) -> int:
    """The exit status for an error."""
    return USAGE if any(finding.code == "usage" for finding in error.findings) else FINDINGS


class Ending(click.Group):
    """A group whose commands all end the same way, and say it as JSON where that is asked for."""

    def main(self, *args: Any, **options: Any) -> Any:
        """The whole command; from here on it answers Ctrl-C."""
        is_loaded()
        return super().main(*args, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember what form was asked for: it holds for complaints about the command too."""
        pairs = pairwise(args)
        ctx.meta[_AS_JSON] = "--format=json" in args or ("--format", "json") in pairs
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it raises becomes a message and an exit status."""
        never_fail_to_encode()
        as_json = ctx.meta[_AS_JSON]
        try:
            return super().invoke(ctx)
        except PipecError as error:
            _tell(error.findings, error.source, as_json)
            sys.exit(status_of(error))
        except click.UsageError as error:
            if not as_json:
                raise
            _tell([Finding("usage", error.format_message())], None, as_json)
            sys.exit(USAGE)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"{error.filename}: {reason}" if error.filename else reason
            on_stdout = as_json and error.filename is not None  # else stdout may be what failed
            _tell([Finding("usage", message)], None, on_stdout)
            sys.exit(USAGE)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            _bug(error)


_AS_JSON = "pipec.cli.as_json"


def _tell(findings: Any, source: Source | None, as_json: bool) -> None:
    if not as_json:
        say(error_text(PipecError(findings, source)))
        return
    told = [finding_json(finding, source) for finding in findings]
    emit(
        {
            "ok": False,
            "findings": told,
            "warnings": [],
            "channels": {},
            "makespan": None,
            "ranks": [],
        }
    )


def _bug(error: Exception) -> NoReturn:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    say(f"This is a bug of pipec, not yours: {type(error).__name__}: {error} ({place}).")
    say("Please report it with the command line and the file. PIPEC_TRACEBACK=1 shows where it is.")
    if os.environ.get("PIPEC_TRACEBACK"):
        traceback.print_exception(error)
    sys.exit(BUG)
