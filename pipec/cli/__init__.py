"""The command line: `pipec --help`."""

from pipec.cli.main import main

__all__ = ["main"]
