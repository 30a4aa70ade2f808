"""`pipec`: the commands, in the order in which people need them."""

import click

from pipec.cli.comparison import compare_command, list_command
from pipec.cli.ending import Commands
from pipec.cli.exchange import export_command, import_command
from pipec.cli.explanation import explain_command
from pipec.cli.formatting import fmt_command
from pipec.cli.picture import show_command
from pipec.cli.proof import compile_command, verify_command
from pipec.cli.training import run_command


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
    pipec run mine.plan
    """


for command in (
    list_command,
    show_command,
    verify_command,
    compare_command,
    compile_command,
    run_command,
    fmt_command,
    explain_command,
    import_command,
    export_command,
):
    main.add_command(command)
