"""`pipec`: the commands, in the order in which people need them."""

import importlib

import click

from pipec.cli.ending import Ending
from pipec.findings import nearest

COMMANDS = {
    "list": "comparison",
    "show": "picture",
    "verify": "proof",
    "compare": "comparison",
    "compile": "proof",
    "profile": "profiling",
    "tune": "tuning",
    "run": "training",
    "fmt": "formatting",
    "explain": "explanation",
    "import": "exchange",
    "export": "exchange",
}
"""Each command and its module, which is imported when the command is used."""


class Commands(Ending):
    """The commands of `COMMANDS`, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; None for an option. Raises `UsageError` where there is none."""
        if cmd_name.startswith("-"):
            return None
        if cmd_name not in COMMANDS:
            hint = nearest(cmd_name, COMMANDS)
            ctx.fail(f"No such command '{cmd_name}'." + (f" {hint.capitalize()}" if hint else ""))
        module = importlib.import_module(f"pipec.cli.{COMMANDS[cmd_name]}")
        return getattr(module, f"{cmd_name}_command")


@click.group("pipec", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipec", prog_name="pipec")
def main() -> None:
    """Compile, verify, draw and run pipeline-parallel training schedules.

    \b
    pipec list
    pipec show 1f1b P=4 M=8
    pipec verify dualpipe P=8 M=20 --cost 'F=1,B=1,W=1,F&B=3'
    pipec compare 1f1b zb1p dualpipe P=8 M=32
    pipec compile mine.pipe P=4 M=16 -o mine.plan
    pipec tune P=8 M=32 --cost F=1,B=1.2,W=0.8 -o best.plan
    pipec run mine.plan
    pipec profile zb1p P=4 M=8 -o costs.toml
    """
