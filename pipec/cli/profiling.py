"""`pipec profile`: run some steps on local processes, and write what was measured as costs."""

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from pipec.cli.launch import launch
from pipec.cli.options import compiling, ready, schedule_argument, sizes_argument, spare
from pipec.cli.output import console
from pipec.cli.proof import certified, title
from pipec.compiler import plan_of
from pipec.program.costs_file import load_costs


@click.command("profile")
@schedule_argument
@sizes_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="costs.toml",
    show_default=True,
    help="Where to write the costs.",
)
@click.option(
    "--stages",
    metavar="FILE.py",
    help="Your own stages: a file with make_stage, batch_of and loss_of; else the example model.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=10, show_default=True, help="Steps to time."
)
@click.option(
    "--skip", type=click.IntRange(1), default=2, show_default=True, help="Steps before these."
)
@click.option(
    "--batch", type=click.IntRange(1), default=4, show_default=True, help="Rows in a microbatch."
)
@compiling
def profile_command(
    schedule: str,
    sizes: tuple[str, ...],
    output: str,
    stages: str | None,
    steps: int,
    skip: int,
    batch: int,
    **options: Any,
) -> None:
    """Measure what stages take and hold, on local processes, and write a costs file.

    \b
    pipec profile zb1p P=4 M=8 -o costs.toml
    pipec profile zb1p P=4 M=8 --stages model.py
    """
    _can_profile(stages)
    ready(output)
    # Costs that were measured before may be replaced: the output is `costs.toml` by itself.
    spare(output, {**options, "costs_file": None}, schedule=schedule, file_of_stages=stages)
    compiled, certificate = certified(schedule, sizes, options)
    if not all(flow.backward for flow in compiled.program.placement.flows):
        raise click.UsageError(f"{schedule} does not train: profile a schedule with a backward")
    with tempfile.TemporaryDirectory(prefix="pipec-") as folder:
        plan = Path(folder) / "profiled.plan"
        plan_of(compiled, certificate).save(plan)
        command = [sys.executable, "-m", "pipec.examples.profile_stages", "--plan", str(plan)]
        command += ["--output", output, "--steps", str(steps), "--skip", str(skip)]
        command += ["--batch", str(batch), *(["--stages", stages] if stages else [])]
        status = launch(command, compiled.program.ranks)
    if status:
        sys.exit(status)
    screen = console()
    screen.print(f"{title(compiled)}: steps timed: {steps}, skipped before: {skip}")
    screen.print(f"costs: {load_costs(output).costs}")
    screen.print(f"written to {output}")


def _can_profile(stages: str | None) -> None:
    """Raises `click.UsageError` where nothing could be started here."""
    if find_spec("torch") is None:
        raise click.UsageError("profiling needs torch: pip install 'pipec[runtime]'")
    if "RANK" in os.environ:
        raise click.UsageError("under torchrun, give your own Pipeline a `Profile` as a listener")
    if stages is not None and not Path(stages).is_file():
        raise click.UsageError(f"there is no file {stages}")
