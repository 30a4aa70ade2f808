"""`pipec fmt`: `.pipe` files in the one form."""

import sys
from pathlib import Path

import click

from pipec.cli.ending import FINDINGS, USAGE, status_of
from pipec.cli.output import say
from pipec.files import replace_text
from pipec.findings import Finding, PipecError
from pipec.language.format import format_text
from pipec.source import Source
from pipec.view.findings import error_text


@click.command("fmt")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Change nothing; exit status 1 if a file would change.")
def fmt_command(files: tuple[str, ...], check: bool) -> None:
    """Format .pipe files in place. Comments stay; formatting twice changes nothing.

    \b
    pipec fmt mine.pipe
    pipec fmt --check schedules/*.pipe
    """
    statuses = [_format(file, check) for file in files]
    sys.exit(max(statuses))


def _format(file: str, check: bool) -> int:
    """Format one file; its exit status. A file that cannot be formatted stays as it is."""
    try:
        text = _read(file)
        formatted = format_text(Source(file, text))
        if formatted == text:
            return 0
        if not check:
            replace_text(Path(file), formatted)
    except PipecError as error:
        say(error_text(error))
        return status_of(error)
    except OSError as error:
        say(f"{file}: {error.strerror or error}")
        return USAGE
    say(f"{'would change' if check else 'formatted'} {file}")
    return FINDINGS if check else 0


def _read(file: str) -> str:
    """The text of a file. Raises `PipecError` where rewriting would lose what is not UTF-8."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        finding = Finding("syntax", f"{file}: this file is not UTF-8", None, "UTF-8", found)
        raise PipecError([finding]) from None
