"""The command line: `pipec --help`."""

from pipec.cli.commands import main

__all__ = ["main"]
