"""`pipec list` and `pipec compare`: which schedules there are, and which is best at a size."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
from rich.text import Text

from pipec.cli.ending import FINDINGS, status_of
from pipec.cli.options import comparing, compiling, format_option, parameters, settings
from pipec.cli.output import console, emit, figures, patience, say
from pipec.compiler import Settings, build, certify, takes
from pipec.findings import Finding, PipecError
from pipec.library import Entry, entries
from pipec.program.costs import Costs
from pipec.program.costs_where import stated_at
from pipec.program.cut import longest
from pipec.program.effects import Kind
from pipec.program.memory import Memory
from pipec.simulate.report import Report
from pipec.source import Source
from pipec.stated import Files
from pipec.verify.json import finding_json
from pipec.view.findings import error_text, findings_text
from pipec.view.json import compared_json, entry_json
from pipec.view.library import library_table, size_text
from pipec.view.tables import Compared, comparison_table, costs_text, scale_text


@click.command("list")
@click.argument("words", nargs=-1, metavar="[K=V]...")
@compiling
@format_option
def list_command(words: tuple[str, ...], form: str, **options: Any) -> None:
    """Show the library: one line a schedule, its bubble and its peak, and its constraints.

    \b
    pipec list
    pipec list P=8 M=32 --cost F=1,B=1.2,W=0.8

    With a size the figures stand before the formulas, or why there are none.
    """
    chosen, sizes = settings(options), parameters(words)
    results: list[Compared | _LeftOut] = []
    if sizes:
        given = _share([entry.name for entry in entries()], sizes)
        with patience("compiling and verifying"):
            results = [_result(name, given[name], chosen) for name in given]
        results = _of_one_cut(results, chosen)
    at_size = {one.name: one for one in results}
    if form == "json":
        emit([_listed_json(entry, at_size.get(entry.name)) for entry in entries()])
        return
    screen = console()
    figures = {name: _figures_or_why(one) for name, one in at_size.items()}
    screen.print(library_table(entries(), screen.width, figures if sizes else None))
    if sizes:
        screen.print(size_text(sizes, str(chosen.costs or Costs())))


@click.command("compare")
@click.argument("words", nargs=-1, required=True, metavar="SCHEDULE... [K=V]...")
@comparing
@format_option
def compare_command(
    words: tuple[str, ...], form: str, neighbours: tuple[int, ...], **options: Any
) -> None:
    """Compare schedules at one size: makespan, bubbles, peak memory, parameters, messages.

    \b
    pipec compare gpipe 1f1b zb1p zbv dualpipe P=8 M=32
    pipec compare 1f1b interleaved mine.plan P=8 M=32 v=4

    A size goes to every schedule that has such a parameter; plans and listings have their sizes.
    """
    chosen = {number: settings({**options, "neighbours": number}) for number in neighbours}
    names = [word for word in words if "=" not in word]
    sizes = parameters(word for word in words if "=" in word)
    if not names:
        raise click.UsageError("name at least one schedule to compare")
    given = _share(names, sizes)
    with patience("compiling and verifying"):
        results = [
            replace(_result(name, given[name], one), neighbours=number)
            for name in names
            for number, one in chosen.items()
        ]
    results = _of_one_cut(results, next(iter(chosen.values())))
    if len(chosen) == 1:
        results = [replace(one, neighbours=None) for one in results]
    rows = [result for result in results if isinstance(result, Compared)]
    left_out = [result for result in results if isinstance(result, _LeftOut)]
    if form == "json":
        emit([_json(result) for result in results])
    elif rows:
        figures(comparison_table(rows))
        console().print(costs_text(rows))
        console().print(scale_text(rows), end="\n" if scale_text(rows) else "")
    for result in left_out if form == "text" else ():
        say(Text(result.name, "bold").append(" is left out:\n", "not bold").append(result.text))
    sys.exit(max((result.status for result in left_out), default=0))


@dataclass(frozen=True)
class _LeftOut:
    """A schedule that cannot be compared, and why."""

    name: str
    findings: tuple[Finding, ...]
    source: Source | None
    text: Text
    status: int
    neighbours: int | None = None


def _share(
    names: list[str], sizes: Mapping[str, int | bool]
) -> dict[str, Mapping[str, int | bool]]:
    """Per schedule those sizes that it has a parameter for. Raises `click.UsageError`."""
    given: dict[str, Mapping[str, int | bool]] = {}
    wanted: set[str] = set()
    for name in names:
        try:
            known = takes(name)
        except PipecError:
            given[name], wanted = sizes, wanted | sizes.keys()  # compiling it tells what is wrong
            continue
        given[name] = {key: value for key, value in sizes.items() if key in known}
        wanted |= given[name].keys()
    if unknown := [key for key in sizes if key not in wanted]:
        raise click.UsageError(f"none of these schedules has a parameter {unknown[0]!r}")
    return given


def _result(name: str, sizes: Mapping[str, int | bool], chosen: Settings) -> Compared | _LeftOut:
    try:
        compiled = build(name, sizes, chosen)
        certificate = certify(compiled, chosen)
    except PipecError as error:
        text = error_text(error)
        return _LeftOut(name, tuple(error.findings), error.source, text, status_of(error))
    if certificate.report is None or not certificate.ok:
        text = findings_text(certificate.findings, compiled.source, compiled.program)
        return _LeftOut(name, certificate.findings, compiled.source, text, FINDINGS)
    placement = compiled.program.placement
    return Compared(
        name,
        certificate.report,
        placement.ranks,
        placement.flows[0].stages,
        max(len(placement.held(rank)) for rank in range(placement.ranks)),
        int((compiled.program.kind == Kind.SEND).sum()),
        certificate.costs,
        cut=chosen.cut,
        slices=placement.flows[0].slices,
    )


def _of_one_cut(results: list[Compared | _LeftOut], chosen: Settings) -> list[Compared | _LeftOut]:
    """Without those that a list of costs is too short for, where schedules differ in stages.

    The last amount would hold for all stages behind it: for half a stage as for a whole one.
    """
    key, count = longest(chosen.costs or Costs(), chosen.memory or Memory())
    several = len({one.stages for one in results if isinstance(one, Compared)}) > 1
    if chosen.cut or not count or not several:
        return results
    return [
        _too_short(one, key, count, chosen.files)
        if isinstance(one, Compared) and one.stages > count
        else one
        for one in results
    ]


def _too_short(one: Compared, key: str, count: int, files: Files) -> _LeftOut:
    message = f"there are {count} amounts of `{key}` for {one.stages} stages"
    expected = "schedules of as many stages as amounts are stated for"
    hint = f"say `--cut {count}` if the model has {count} equal pieces: stages take their shares"
    source, span = stated_at(files, key) or (None, None)
    error = PipecError([Finding("usage", message, span, expected, f"{one.stages}", hint)], source)
    left = _LeftOut(one.name, tuple(error.findings), source, error_text(error), status_of(error))
    return replace(left, neighbours=one.neighbours)


def _figures_or_why(result: Compared | _LeftOut) -> Report | Finding:
    return result.report if isinstance(result, Compared) else result.findings[0]


def _listed_json(entry: Entry, result: Compared | _LeftOut | None) -> dict[str, Any]:
    there = result if isinstance(result, Compared) else None
    left = _json(result)["findings"] if isinstance(result, _LeftOut) else None
    return {**entry_json(entry, there), "left_out": left}


def _json(result: Compared | _LeftOut) -> dict[str, Any]:
    if isinstance(result, Compared):
        return compared_json(result)
    findings = [finding_json(finding, result.source) for finding in result.findings]
    return {"schedule": result.name, "ok": False, "findings": findings}
