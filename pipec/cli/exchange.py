"""`pipec import` and `pipec export`: schedules from other systems, and for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipec.cli.options import (
    compiling,
    parameters,
    schedule_argument,
    settings,
    sizes_argument,
    spare,
)
from pipec.cli.output import console, patience
from pipec.cli.proof import certified
from pipec.compiler import Compiled, build
from pipec.files import replace_text
from pipec.interop.promela import write_promela
from pipec.interop.torch_csv import write_torch_csv
from pipec.program.graph import Channels
from pipec.program.listing import listing

WRITERS: dict[str, Callable[[Compiled, Channels], str]] = {
    "torch-csv": lambda compiled, _: write_torch_csv(compiled.program),
    "promela": lambda compiled, channels: write_promela(compiled.program, channels),
    "listing": lambda compiled, _: listing(compiled.program),
}
"""The forms that `pipec export` writes; an exporter of another system is one line here."""

output_option = click.option("-o", "--output", metavar="FILE", help="Write to a file, not stdout.")


@click.command("export")
@schedule_argument
@sizes_argument
@click.option("--to", "form", type=click.Choice(list(WRITERS)), required=True)
@output_option
@compiling
def export_command(
    schedule: str, sizes: tuple[str, ...], form: str, output: str | None, **options: Any
) -> None:
    """Write a certified schedule for another system.

    torch-csv is what torch's `_PipelineScheduleRuntime._load_csv(format="compute_comms")` reads;
    promela is a model for the checker SPIN (which may also get what is not certified).

    \b
    pipec export zb1p P=4 M=8 --to torch-csv -o zb1p.csv
    pipec export 1f1b P=2 M=2 --to promela --channels pair
    """
    spare(output, options, schedule=schedule)
    chosen = settings(options)
    if form == "promela":
        compiled = build(schedule, parameters(sizes), chosen)
    else:
        compiled, _ = certified(schedule, sizes, options)
    _write(WRITERS[form](compiled, chosen.channels), output)


@click.command("import")
@schedule_argument
@sizes_argument
@output_option
@compiling
def import_command(
    schedule: str, sizes: tuple[str, ...], output: str | None, **options: Any
) -> None:
    """Read another system's schedule and write it as a listing, whether it can be certified or not.

    `pipec verify`, `show` and `compile` read the same files by themselves.

    \b
    pipec import zbv.csv -o zbv.listing
    pipec import torch:ZBVZeroBubble P=4 M=8
    """
    spare(output, options, schedule=schedule)
    with patience("reading"):
        compiled = build(schedule, parameters(sizes), settings(options))
    _write(listing(compiled.program), output)


def _write(content: str, output: str | None) -> None:
    if output is None:
        click.echo(content, nl=False)
        return
    replace_text(Path(output), content)
    console().print(f"written: {output}")
