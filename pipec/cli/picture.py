"""`pipec show`: the timeline in the terminal or as a picture, the listing, or the order."""

import os
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from pipec.cli.options import (
    compiling,
    format_option,
    parameters,
    schedule_argument,
    settings,
    sizes_argument,
    spare,
)
from pipec.cli.output import console, emit, patience
from pipec.cli.proof import reject, title
from pipec.compiler import Compiled, Settings, build, certify
from pipec.files import replace_text
from pipec.program.costs import durations
from pipec.program.graph import event_graph
from pipec.program.links import Links
from pipec.program.listing import listing
from pipec.simulate.report import Report, report
from pipec.simulate.timeline import Timeline, simulate
from pipec.simulate.usage import Usage, usage
from pipec.view.json import order_json, timeline_json
from pipec.view.svg import timeline_svg
from pipec.view.terminal import legend_text, order_text, timeline_text

_WIDTH = 160
"""Columns of a timeline where there is no terminal to ask."""


@click.command("show")
@schedule_argument
@sizes_argument
@click.option("--svg", metavar="FILE", help="Write the picture to a file.")
@click.option("--listing", "as_listing", is_flag=True, help="Print every instruction instead.")
@click.option("--origins", is_flag=True, help="With --listing: the text that made each line.")
@click.option("--order", "as_order", is_flag=True, help="Print only the compute operations.")
@compiling
@format_option
def show_command(
    schedule: str,
    sizes: tuple[str, ...],
    svg: str | None,
    as_listing: bool,
    origins: bool,
    as_order: bool,
    form: str,
    **options: Any,
) -> None:
    """Draw what happens when: in the terminal, as SVG, or as a listing.

    \b
    pipec show dualpipe P=4 M=8
    pipec show zbv P=4 M=8 --svg zbv.svg
    pipec show 1f1b P=2 M=4 --listing
    pipec show zbv P=4 M=8 --order --format json
    """
    _one_of(svg, as_listing, origins, as_order, form)
    spare(schedule, svg)
    chosen, given = settings(options), parameters(sizes)
    with patience("compiling"):
        compiled = build(schedule, given, chosen)
    if as_listing:
        click.echo(listing(compiled.program, origins), nl=False)
    elif as_order and form == "json":
        emit(order_json(compiled.program))
    elif as_order:
        click.echo(order_text(compiled.program))
    else:
        _draw(compiled, chosen, svg, form)


def _one_of(svg: str | None, as_listing: bool, origins: bool, as_order: bool, form: str) -> None:
    """Refuse what would be ignored."""
    chosen = [
        word
        for word, given in (("--svg", svg), ("--listing", as_listing), ("--order", as_order))
        if given
    ]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} cannot be shown at once")
    if origins and not as_listing:
        raise click.UsageError("--origins goes with --listing")
    if as_listing and form == "json":
        raise click.UsageError("--listing is a text; `pipec compile` writes a program as JSON")


def _draw(compiled: Compiled, chosen: Settings, svg: str | None, form: str) -> None:
    with patience("simulating"):
        time, used = _timeline(compiled, chosen, form)
    summary = report(time, used)
    if svg:
        replace_text(Path(svg), timeline_svg(time, summary, title(compiled), used))
    if form == "json":
        emit({"makespan": summary.makespan, **timeline_json(time)})
        return
    screen = console()
    known = screen.is_terminal or "COLUMNS" in os.environ
    screen.print(Text(title(compiled), "bold").append(f"  (costs {compiled.costs})", "not bold"))
    screen.print(timeline_text(time, screen.width if known else _WIDTH))
    if screen.is_terminal:
        screen.print(legend_text())
    screen.print(_summary(summary))
    if svg:
        screen.print(f"picture: {svg}")


def _timeline(compiled: Compiled, chosen: Settings, form: str) -> tuple[Timeline, Usage]:
    """The timeline of a program that runs to its end; of another one, the counterexample."""
    certificate = certify(compiled, chosen)
    if certificate.report is None:
        reject(compiled, certificate, form)
    links, serial = Links(compiled.program), compiled.costs.serial
    graph = event_graph(compiled.program, links, chosen.channels, whole_pairs=not serial)
    time = simulate(graph, durations(compiled.program, compiled.costs)).timeline
    return time, usage(compiled.memory, time)


def _summary(summary: Report) -> str:
    return (
        f"makespan {float(summary.makespan):g}, bubble {summary.bubble_rate:.1%} on the worst rank "
        f"(span bubble {summary.span_bubble_rate:.1%}), peak memory {summary.peak_text}"
    )
