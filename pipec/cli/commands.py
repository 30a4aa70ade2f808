"""The commands of `pipec`, in the order in which people need them."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from pipec.cli.launch import launch
from pipec.cli.options import (
    FINDINGS,
    common,
    compiling,
    console,
    emit,
    guarded,
    parameters,
    patience,
    say,
    settings,
)
from pipec.compiler import Compiled, Settings, build, certify, plan_of
from pipec.findings import PipecError
from pipec.language.format import format_text
from pipec.library import entries
from pipec.program.costs import durations
from pipec.program.effects import Kind
from pipec.program.graph import Channels, event_graph
from pipec.program.links import Links
from pipec.program.listing import listing
from pipec.simulate.report import Report, report
from pipec.simulate.timeline import Timeline, simulate
from pipec.simulate.usage import usage
from pipec.source import Source
from pipec.verify.certificate import Certificate
from pipec.verify.json import certificate_json
from pipec.view.findings import error_text, findings_text
from pipec.view.json import entry_json, order_json, timeline_json
from pipec.view.svg import timeline_svg
from pipec.view.tables import (
    Compared,
    certificate_text,
    comparison_table,
    library_table,
    rank_table,
)
from pipec.view.terminal import legend_text, timeline_text

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
@click.version_option(package_name="pipec")
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


@main.command("list")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@guarded
def list_command(form: str) -> None:
    """Show the library: one line a schedule, with its constraints."""
    if form == "json":
        emit([entry_json(entry) for entry in entries()])
    else:
        console().print(library_table(entries()))


@main.command("compile")
@click.argument("schedule")
@click.argument("sizes", nargs=-1, metavar="[K=V]...")
@click.option("-o", "--output", metavar="PLAN", help="Where to write the plan.")
@common
@guarded
def compile_command(
    schedule: str, sizes: tuple[str, ...], output: str | None, **options: Any
) -> None:
    """Verify a schedule, then write its plan. Writes nothing that is not certified.

    \b
    pipec compile dualpipe P=4 M=16 -o dualpipe.plan
    pipec compile mine.pipe P=8 M=32 --costs measured.toml --memory-limit 12
    """
    compiled, certificate = _certified(schedule, sizes, options)
    plan = plan_of(compiled, certificate)
    target = Path(output or f"{'-'.join([compiled.name, *_sizes(compiled)])}.plan")
    plan.save(target)
    if options["form"] == "json":
        emit({"plan": str(target), "digest": plan.digest, **plan.certificate})
        return
    console().print(certificate_text(certificate, compiled.program, _title(compiled)), end="")
    console().print(f"  plan        {target}  (digest {plan.digest[:16]})")


@main.command("verify")
@click.argument("schedule", metavar="SCHEDULE|PLAN")
@click.argument("sizes", nargs=-1, metavar="[K=V]...")
@click.option("--ranks", is_flag=True, help="Also show every rank.")
@common
@guarded
def verify_command(schedule: str, sizes: tuple[str, ...], ranks: bool, **options: Any) -> None:
    """Print the certificate of a schedule, or the counterexample (exit status 1).

    \b
    pipec verify zbv P=4 M=12
    pipec verify dualpipe P=8 M=20 --cost 'F=1,B=1,W=1,F&B=3' --format json
    pipec verify broken.listing --channels rank --credits 1
    """
    compiled, certificate = _certified(schedule, sizes, options)
    if options["form"] == "json":
        emit(certificate_json(certificate, compiled.source))
        return
    console().print(certificate_text(certificate, compiled.program, _title(compiled)), end="")
    if ranks and certificate.report:
        console().print(rank_table(certificate.report))


@main.command("show")
@click.argument("schedule", metavar="SCHEDULE|PLAN")
@click.argument("sizes", nargs=-1, metavar="[K=V]...")
@click.option("--svg", metavar="FILE", help="Write the picture to a file.")
@click.option("--listing", "as_listing", is_flag=True, help="Print every instruction instead.")
@click.option("--order", "as_order", is_flag=True, help="Print only the compute operations.")
@click.option("--origins", is_flag=True, help="With --listing: the text that made each line.")
@common
@guarded
def show_command(
    schedule: str,
    sizes: tuple[str, ...],
    svg: str | None,
    as_listing: bool,
    as_order: bool,
    origins: bool,
    **options: Any,
) -> None:
    """Draw what happens when: in the terminal, as SVG, or as a listing.

    \b
    pipec show dualpipe P=4 M=8
    pipec show zbv P=4 M=8 --svg zbv.svg
    pipec show 1f1b P=2 M=4 --listing
    pipec show zbv P=4 M=8 --order --format json
    """
    chosen = settings(**options)
    with patience("compiling"):
        compiled = build(schedule, parameters(sizes), chosen)
    as_json = options["form"] == "json"
    if as_order:
        emit(order_json(compiled.program)) if as_json else click.echo(_order_text(compiled))
        return
    if as_listing:
        click.echo(listing(compiled.program, origins), nl=False)
        return
    time, summary = _timeline(compiled, chosen.channels)
    if svg:
        drawn = timeline_svg(time, summary, _title(compiled), usage(compiled.memory, time))
        Path(svg).write_text(drawn, encoding="utf-8")
    if as_json:
        emit({"makespan": summary.makespan, **timeline_json(time)})
        return
    screen = console()
    screen.print(f"[bold]{_title(compiled)}[/]  (costs {compiled.costs})")
    screen.print(timeline_text(time, screen.width if screen.is_terminal else 160))
    if screen.is_terminal:
        screen.print(legend_text())
    makespan, rate = float(summary.makespan), summary.bubble_rate
    screen.print(
        f"makespan {makespan:g}, bubble {rate:.1%} on the worst rank (span bubble "
        f"{summary.span_bubble_rate:.1%}), peak memory {float(summary.peak_memory):g}"
    )
    if svg:
        screen.print(f"picture: {svg}")


@main.command("compare")
@click.argument("schedules", nargs=-1, required=True, metavar="SCHEDULE... [K=V]...")
@common
@guarded
def compare_command(schedules: tuple[str, ...], **options: Any) -> None:
    """Compare schedules at one size: makespan, bubbles, peak memory, stages held, messages.

    \b
    pipec compare gpipe 1f1b zb1p zbv dualpipe P=8 M=32
    """
    chosen = settings(**options)
    sizes = parameters(tuple(word for word in schedules if "=" in word))
    rows, refused = [], []
    for name in [word for word in schedules if "=" not in word]:
        try:
            compiled = build(name, sizes, chosen)
            certificate = certify(compiled, chosen)
            if not certificate.ok or certificate.report is None:
                raise PipecError(certificate.findings, compiled.source)
        except PipecError as error:
            refused.append((name, error))
            continue
        placement = compiled.program.placement
        held = max(len(placement.held(rank)) for rank in range(placement.ranks))
        messages = int((compiled.program.kind == Kind.SEND).sum())
        rows.append(Compared(name, certificate.report, held, messages))
    if options["form"] == "json":
        emit([_compared_json(row) for row in rows])
    elif rows:
        console().print(comparison_table(rows))
        console().print(f"costs {compiled.costs}" if not refused else "", end="\n" if rows else "")
    for name, reason in refused:
        say(f"[bold]{name}[/] is left out:")
        say(error_text(reason))
    sys.exit(FINDINGS if refused else 0)


@main.command("run")
@click.argument("schedule", metavar="SCHEDULE|PLAN")
@click.argument("sizes", nargs=-1, metavar="[K=V]...")
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True)
@click.option("--batch", type=click.IntRange(1), help="Sequences in a microbatch.")
@click.option("--out", default="out", show_default=True, help="The folder for plan and picture.")
@compiling
@guarded
def run_command(
    schedule: str, sizes: tuple[str, ...], steps: int, batch: int | None, out: str, **options: Any
) -> None:
    """Train the example language model with a schedule, on local processes or under torchrun.

    \b
    pipec run dualpipe P=4 M=8
    pipec run mine.plan --steps 50
    torchrun --nproc-per-node 4 $(which pipec) run mine.plan
    """
    compiled, certificate = _certified(schedule, sizes, options)
    plan, inside = plan_of(compiled, certificate), "RANK" in os.environ
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{'-'.join([compiled.name, *_sizes(compiled)])}.plan"
    plan.save(target)
    if os.environ.get("RANK", "0") == "0":
        console().print(certificate_text(certificate, compiled.program, _title(compiled)), end="")
    command = [sys.executable, "-m", "pipec.examples.train_lm", "--plan", str(target)]
    command += ["--steps", str(steps), "--out", out]
    command += ["--batch", str(batch)] if batch else []
    if inside:
        os.execv(sys.executable, command)
    sys.exit(launch(command, plan.ranks))


@main.command("fmt")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Change nothing; exit status 1 if a file would change.")
@guarded
def fmt_command(files: tuple[str, ...], check: bool) -> None:
    """Format .pipe files in place. Comments stay; formatting twice changes nothing.

    \b
    pipec fmt mine.pipe
    pipec fmt --check schedules/*.pipe
    """
    changed = False
    for file in files:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
        formatted = format_text(Source(file, text))
        if formatted == text:
            continue
        changed = True
        if not check:
            Path(file).write_text(formatted, encoding="utf-8")
        say(f"{'would change' if check else 'formatted'} {file}")
    sys.exit(FINDINGS if check and changed else 0)


# --- what the commands share ----------------------------------------------------------------------


def _certified(
    schedule: str, sizes: tuple[str, ...], options: dict[str, Any]
) -> tuple[Compiled, Certificate]:
    """Build and verify; show the counterexample and leave with status 1 if there is one."""
    chosen = settings(**options)
    with patience("compiling and verifying"):
        compiled = build(schedule, parameters(sizes), chosen)
        certificate = certify(compiled, chosen)
    if certificate.ok:
        return compiled, certificate
    if options.get("form") == "json":
        emit(certificate_json(certificate, compiled.source))
    else:
        say(findings_text(certificate.findings, compiled.source, compiled.program))
    sys.exit(FINDINGS)


def _timeline(compiled: Compiled, channels: Channels) -> tuple[Timeline, Report]:
    """The timeline of a program that runs to its end."""
    certificate = certify(compiled, Settings(channels=channels))
    if certificate.report is None:
        raise PipecError(certificate.findings, compiled.source)
    links, serial = Links(compiled.program), compiled.costs.serial
    graph = event_graph(compiled.program, links, channels, whole_pairs=not serial)
    time = simulate(graph, durations(compiled.program, compiled.costs)).timeline
    return time, report(time, usage(compiled.memory, time))


def _sizes(compiled: Compiled) -> list[str]:
    return [f"{name}{value}" for name, value in compiled.parameters.items()]


def _title(compiled: Compiled) -> str:
    sizes = [f"{name}={value}" for name, value in compiled.parameters.items()]
    return " ".join([compiled.name, *sizes])


def _order_text(compiled: Compiled) -> str:
    """One line a rank: F0 F1 F2&BW0 ..., with the chunk's stage where a rank has several."""
    lines = []
    for rank, operations in order_json(compiled.program).items():
        words = []
        for operation in operations:
            parts = operation.get("parts", [operation])
            words.append("&".join(f"{part['op']}{part['stage']}.{part['mb']}" for part in parts))
        lines.append(f"rank {rank}: {' '.join(words)}")
    return "\n".join(lines)


def _compared_json(row: Compared) -> dict[str, Any]:
    return {
        "schedule": row.name,
        "makespan": row.report.makespan,
        "bubble_rate": row.report.bubble_rate,
        "span_bubble_rate": row.report.span_bubble_rate,
        "peak_memory": row.report.peak_memory,
        "stages_held": row.held,
        "messages": row.messages,
    }
