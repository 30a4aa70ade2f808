"""`pipec show`: the timeline in the terminal or as a picture, the listing, or the order."""

import os
import re
from fractions import Fraction
from math import ceil
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
from pipec.findings import Finding, PipecError
from pipec.program.costs import durations
from pipec.program.graph import event_graph
from pipec.program.links import Links
from pipec.program.listing import listing
from pipec.simulate.report import Report, report
from pipec.simulate.timeline import Timeline, simulate
from pipec.simulate.usage import Usage, usage
from pipec.view.json import order_json, timeline_json
from pipec.view.parts_svg import parts_svg
from pipec.view.parts_text import parts_text
from pipec.view.svg import timeline_svg
from pipec.view.terminal import legend_text, order_text, timeline_text

_WIDTH = 160
"""Columns of a timeline where there is no terminal to ask."""
_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\.\.(\d{1,12}(?:\.\d{1,6})?)", re.ASCII)


@click.command("show")
@schedule_argument
@sizes_argument
@click.option("--svg", metavar="FILE", help="Write the picture to a file.")
@click.option("--parts", is_flag=True, help="Draw the parts of opened chunks, on both lanes.")
@click.option("--time", "window", metavar="A..B", help="With --parts: from when to when.")
@click.option("--listing", "as_listing", is_flag=True, help="Print every instruction instead.")
@click.option("--origins", is_flag=True, help="With --listing: the text that made each line.")
@click.option("--order", "as_order", is_flag=True, help="Print only the compute operations.")
@compiling
@format_option
def show_command(
    schedule: str,
    sizes: tuple[str, ...],
    svg: str | None,
    parts: bool,
    window: str | None,
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
    pipec show dualpipe P=4 M=8 --layers '2 x attention dispatch mlp combine' --parts
    """
    _one_of(svg or parts, as_listing, origins, as_order, form)
    span = _span(window, parts, form)
    spare(svg, options, schedule=schedule)
    chosen, given = settings(options), parameters(sizes)
    with patience("compiling"):
        compiled = build(schedule, given, chosen)
    if as_listing:
        click.echo(listing(compiled.program, origins), nl=False)
    elif as_order and form == "json":
        emit(order_json(compiled.program))
    elif as_order:
        click.echo(order_text(compiled.program))
    elif parts:
        _draw_parts(compiled, chosen, svg, span)
    else:
        _draw(compiled, chosen, svg, form)


def _one_of(
    svg: str | bool | None, as_listing: bool, origins: bool, as_order: bool, form: str
) -> None:
    """Refuse what would be ignored."""
    chosen = [
        word
        for word, given in (
            ("--svg" if isinstance(svg, str) else "--parts", svg),
            ("--listing", as_listing),
            ("--order", as_order),
        )
        if given
    ]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} cannot be shown at once")
    if origins and not as_listing:
        raise click.UsageError("--origins goes with --listing")
    if as_listing and form == "json":
        raise click.UsageError("--listing is a text; `pipec compile` writes a program as JSON")


def _span(window: str | None, parts: bool, form: str) -> tuple[Fraction, Fraction] | None:
    """What `--time 10..20` says."""
    if parts and form == "json":
        raise click.UsageError("--parts is a picture; `--format json` has every part without it")
    if window is None:
        return None
    if not parts:
        raise click.UsageError("--time goes with --parts")
    match = _SPAN.fullmatch(window)
    begin, end = (Fraction(word) for word in match.groups()) if match else (0, 0)
    if begin >= end:
        raise click.UsageError(f"--time is a range of time such as 10..20, not {window}")
    return Fraction(begin), Fraction(end)


def _draw_parts(
    compiled: Compiled, chosen: Settings, svg: str | None, span: tuple[Fraction, Fraction] | None
) -> None:
    """Both lanes of every rank."""
    if not compiled.program.placement.layouts:
        message = "`--parts` draws the parts of chunks, and this schedule says of none"
        hint = "state them: `layers 4: attention dispatch mlp combine` in the text, or `--layers`"
        raise PipecError([Finding("usage", message, hint=hint)])
    with patience("simulating"):
        time, used = _timeline(compiled, chosen, "text")
    window = (int(span[0] * time.scale), ceil(span[1] * time.scale)) if span else None
    heading, screen = title(compiled), console()
    if svg:
        replace_text(Path(svg), parts_svg(time, heading, window, str(compiled.costs)))
    known = screen.is_terminal or "COLUMNS" in os.environ
    screen.print(Text(heading, "bold").append(f"  (costs {compiled.costs})", "not bold"))
    screen.print(parts_text(time, screen.width if known else _WIDTH, window))
    if screen.is_terminal:
        screen.print(legend_text())
    screen.print(_summary(report(time, used), used))
    if svg:
        screen.print(f"picture: {svg}")


def _draw(compiled: Compiled, chosen: Settings, svg: str | None, form: str) -> None:
    with patience("simulating"):
        time, used = _timeline(compiled, chosen, form)
    summary = report(time, used)
    if svg:
        picture = timeline_svg(time, summary, title(compiled), used, str(compiled.costs))
        replace_text(Path(svg), picture)
    if form == "json":
        emit({"makespan": summary.makespan, **timeline_json(time)})
        return
    screen = console()
    known = screen.is_terminal or "COLUMNS" in os.environ
    screen.print(Text(title(compiled), "bold").append(f"  (costs {compiled.costs})", "not bold"))
    screen.print(timeline_text(time, screen.width if known else _WIDTH))
    if screen.is_terminal:
        screen.print(legend_text())
    screen.print(_summary(summary, used))
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


def _summary(summary: Report, used: Usage) -> str:
    limit = used.memory.limit
    over = limit is not None and used.units(used.peak.max()) > limit.most
    return (
        f"makespan {float(summary.makespan):g}, bubble {summary.bubble_rate:.1%} on the worst rank "
        f"(span bubble {summary.span_bubble_rate:.1%}), peak memory {summary.peak_text}"
        + (f", over the limit of {limit.text}" if limit and over else "")
    )
