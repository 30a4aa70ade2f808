"""`pipec run`: train the example model, on local processes or under torchrun."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from pipec.cli.launch import launch
from pipec.cli.options import compiling, schedule_argument, sizes_argument
from pipec.cli.output import console
from pipec.cli.proof import certified, plan_name, title
from pipec.compiler import plan_of
from pipec.view.tables import certificate_text


@click.command("run")
@schedule_argument
@sizes_argument
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True)
@click.option("--batch", type=click.IntRange(1), help="Sequences in a microbatch.")
@click.option("--out", default="out", show_default=True, help="The folder for plan and picture.")
@compiling
def run_command(
    schedule: str, sizes: tuple[str, ...], steps: int, batch: int | None, out: str, **options: Any
) -> None:
    """Train the example language model with a schedule, on local processes or under torchrun.

    \b
    pipec run dualpipe P=4 M=8
    pipec run mine.plan --steps 50
    torchrun --nproc-per-node 4 $(which pipec) run mine.plan
    """
    if find_spec("torch") is None:
        raise click.UsageError("training needs torch: pip install 'pipec[runtime]'")
    compiled, certificate = certified(schedule, sizes, options)
    plan, inside = plan_of(compiled, certificate), "RANK" in os.environ
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / plan_name(compiled)
    plan.save(target)
    if os.environ.get("RANK", "0") == "0":
        console().print(certificate_text(certificate, compiled.program, title(compiled)), end="")
    command = [sys.executable, "-m", "pipec.examples.train_lm", "--plan", str(target)]
    command += ["--steps", str(steps), "--out", out]
    command += ["--batch", str(batch)] if batch else []
    if inside:
        sys.stdout.flush()
        os.execv(sys.executable, command)
    sys.exit(launch(command, plan.ranks))
