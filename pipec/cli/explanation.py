"""`pipec explain`: what the code in `error[code]` means."""

import click
from rich.markdown import Markdown

from pipec.cli.output import console
from pipec.explain import codes, explanation


@click.command("explain")
@click.argument("code", required=False)
def explain_command(code: str | None) -> None:
    """Say what a finding means, with an example and the way out; without CODE, list all.

    \b
    pipec explain corruption
    pipec explain
    """
    if code is None:
        click.echo("\n".join(codes()))
        return
    screen, text = console(), explanation(code)
    if screen.is_terminal:
        screen.print(Markdown(text))
    else:
        click.echo(text, nl=False)
