"""`pipec verify` and `pipec compile`: the certificate, or the counterexample."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from pipec.cli.ending import FINDINGS
from pipec.cli.family import prove_family
from pipec.cli.options import (
    compiling,
    format_option,
    parameters,
    schedule_argument,
    settings,
    sizes_argument,
    spare,
)
from pipec.cli.output import console, emit, figures, patience, say
from pipec.compiler import Compiled, Settings, build, certify, plan_of, takes
from pipec.findings import Finding, PipecError
from pipec.verify.certificate import Certificate
from pipec.verify.json import certificate_json
from pipec.verify.members import members as differing_exchanges
from pipec.view.findings import findings_text
from pipec.view.tables import certificate_text, memory_table, rank_table


@click.command("verify")
@schedule_argument
@sizes_argument
@click.option("--ranks", is_flag=True, help="Also show every rank.")
@click.option(
    "--for", "ranges", multiple=True, metavar="K=A..B[:STEP]", help="Prove every size in a range."
)
@click.option(
    "--members", metavar="SCHEDULE|PLAN", help="What other members of expert groups execute."
)
@click.option("--defer-recv", is_flag=True, help="With torch:NAME, its option `defer_pp_recv`.")
@compiling
@format_option
def verify_command(
    schedule: str,
    sizes: tuple[str, ...],
    ranks: bool,
    ranges: tuple[str, ...],
    members: str | None,
    defer_recv: bool,
    form: str,
    **options: Any,
) -> None:
    """Print the certificate of a schedule, or the counterexample (exit status 1).

    \b
    pipec verify zbv P=4 M=12
    pipec verify dualpipe P=8 M=20 --cost 'F=1,B=1,W=1,F&B=3' --format json
    pipec verify broken.listing --channels rank --credits 1
    pipec verify dualpipe --for P=2..16:2 --for 'M=2*P..48:2'
    pipec verify torch:ZBVZeroBubble P=4 M=8 --defer-recv
    """
    sizes += ("defer_recv=true",) if defer_recv else ()
    if ranges and members is not None:
        message, expected = "`--members` compares at one size", "one of `--for` and `--members`"
        raise PipecError([Finding("usage", message, None, expected, "both")])
    if ranges:
        failed = prove_family(schedule, ranges, parameters(sizes), settings(options), form)
        if failed is None:
            return
        sizes = tuple(f"{name}={_value(value)}" for name, value in failed.items())
        if form == "json":
            sys.exit(FINDINGS)
    compiled, certificate = certified(schedule, sizes, options, form)
    if members is not None:
        _same_exchanges(compiled, certificate, members, parameters(sizes), options, form)
    if form == "json":
        emit(certificate_json(certificate, compiled.source))
        return
    console().print(certificate_text(certificate, compiled.program, title(compiled)), end="")
    if ranks and certificate.report and certificate.used:
        figures(rank_table(certificate.report))
        figures(memory_table(certificate.used))


@click.command("compile")
@schedule_argument
@sizes_argument
@click.option("-o", "--output", metavar="PLAN", help="Where to write the plan.")
@compiling
@format_option
def compile_command(
    schedule: str, sizes: tuple[str, ...], output: str | None, form: str, **options: Any
) -> None:
    """Verify a schedule, then write its plan. Writes nothing that is not certified.

    \b
    pipec compile dualpipe P=4 M=16 -o dualpipe.plan
    pipec compile mine.pipe P=8 M=32 --costs measured.toml --memory-limit 12
    """
    spare(output, options, schedule=schedule)
    compiled, certificate = certified(schedule, sizes, options, form)
    plan = plan_of(compiled, certificate)
    target = Path(output or plan_name(compiled))
    plan.save(target)
    if form == "json":
        emit({"plan": str(target), "digest": plan.digest, **plan.certificate})
        return
    console().print(certificate_text(certificate, compiled.program, title(compiled)), end="")
    console().print(f"  plan        {target}  (digest {plan.digest[:16]})")


def certified(
    schedule: str, sizes: tuple[str, ...], options: dict[str, Any], form: str = "text"
) -> tuple[Compiled, Certificate]:
    """Build and verify; show the counterexample and leave with status 1 if there is one."""
    chosen = settings(options)
    given = parameters(sizes)
    with patience("compiling and verifying"):
        compiled = build(schedule, given, chosen)
        certificate = certify(compiled, chosen)
    if not certificate.ok:
        reject(compiled, certificate, form)
    if certificate.warnings and form == "text":
        say(findings_text(certificate.warnings, compiled.source, compiled.program))
    return compiled, certificate


def _same_exchanges(
    compiled: Compiled,
    certificate: Certificate,
    target: str,
    sizes: Mapping[str, int | bool],
    options: dict[str, Any],
    form: str,
) -> None:
    """Leave with status 1 if what `target` names would issue other all-to-alls."""
    known = takes(target)
    chosen = settings(options) if known else Settings()
    other = build(target, {name: size for name, size in sizes.items() if name in known}, chosen)
    channels = settings(options).channels
    findings = differing_exchanges(compiled.program, other.program, f"`{target}`", channels)
    if findings:
        reject(compiled, replace(certificate, findings=tuple(findings)), form)


def reject(compiled: Compiled, certificate: Certificate, form: str) -> NoReturn:
    """Show the counterexamples and leave with status 1."""
    if form == "json":
        emit(certificate_json(certificate, compiled.source))
    else:
        say(findings_text(certificate.findings, compiled.source, compiled.program))
    sys.exit(FINDINGS)


def title(compiled: Compiled) -> str:
    """`dualpipe P=4 M=8`."""
    sizes = [f"{name}={_value(value)}" for name, value in compiled.parameters.items()]
    return " ".join([compiled.name, *sizes])


def plan_name(compiled: Compiled) -> str:
    """`dualpipe-P4-M8.plan`, in the folder where the command runs."""
    sizes = [f"{name}{_value(value)}" for name, value in compiled.parameters.items()]
    return f"{'-'.join([Path(compiled.name).name, *sizes])}.plan"


def _value(value: int | bool) -> str:
    return str(value).lower()
