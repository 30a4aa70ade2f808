"""Tables for people: the library, a certificate, a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from pipec.library import Entry
from pipec.program.program import Program
from pipec.simulate.report import Report
from pipec.verify.certificate import Certificate


def library_table(entries: Sequence[Entry]) -> Table:
    """One line a schedule."""
    table = _table("schedule", "parameters", "what it is", "constraints")
    for entry in entries:
        parameters = ", ".join(entry.parameters)
        table.add_row(entry.name, parameters, entry.summary, "; ".join(entry.constraints))
    table.columns[0].style = "bold"
    table.columns[2].overflow = table.columns[3].overflow = "fold"
    return table


def certificate_text(certificate: Certificate, program: Program, title: str) -> Text:
    """What was proved, in a few lines."""
    text = Text()
    head = f"{title}: {len(program):,} instructions on {program.ranks} ranks"
    text.append("certified ", "bold green").append(f"{head}\n", "bold")
    proved = "complete, in a possible order, every message paired and in order"
    text.append(f"  proved      {proved}\n")
    for topology, safety in certificate.safety.items():
        needed = safety.credits_needed
        verdict = "no deadlock" if safety.safe else f"deadlock below {needed} credits"
        verdict = verdict if needed is not None else "deadlock, whatever the credits"
        text.append(f"  {'channels' if topology == 'rank' else '':<11} {topology:<9} {verdict}\n")
    report = certificate.report
    if report is None:
        return text
    text.append(f"  makespan    {_number(report.makespan)}  (costs {certificate.costs})\n")
    text.append(f"  bubble      {report.bubble_rate:.1%} of the makespan on the worst rank")
    text.append(f" (span bubble {report.span_bubble_rate:.1%})\n")
    return text.append(f"  peak memory {_number(report.peak_memory)} on the worst rank\n")


def rank_table(report: Report) -> Table:
    """One line a rank."""
    table = _table("rank", "busy", "bubble", "span bubble", "peak memory", "at index")
    for rank, row in enumerate(report.ranks):
        figures = (row.busy, row.bubble, row.span_bubble, row.peak_memory, row.peak_index)
        table.add_row(str(rank), *(_number(figure) for figure in figures))
    return table


@dataclass(frozen=True)
class Compared:
    """One schedule in a comparison."""

    name: str
    report: Report
    held: int
    """The most stages that a rank holds, i.e. parameters in stages."""
    messages: int
    costs: str


def costs_text(rows: Sequence[Compared]) -> str:
    """What the figures of a comparison were computed with: one line, or one per schedule."""
    if len({row.costs for row in rows}) == 1:
        return f"costs {rows[0].costs}"
    return "\n".join(f"costs of {row.name}: {row.costs}" for row in rows)


def comparison_table(rows: Sequence[Compared]) -> Table:
    """One line a schedule, the best of each column in bold."""
    table = _table(
        "schedule", "makespan", "bubble", "span bubble", "peak memory", "stages held", "messages"
    )
    columns = [
        [float(row.report.makespan) for row in rows],
        [row.report.bubble_rate for row in rows],
        [row.report.span_bubble_rate for row in rows],
        [float(row.report.peak_memory) for row in rows],
        [float(row.held) for row in rows],
        [float(row.messages) for row in rows],
    ]
    for at, row in enumerate(rows):
        cells = [
            _number(row.report.makespan),
            f"{row.report.bubble_rate:.1%}",
            f"{row.report.span_bubble_rate:.1%}",
            _number(row.report.peak_memory),
            str(row.held),
            str(row.messages),
        ]
        styled = [
            Text(cell, "bold green" if column[at] == min(column) else "")
            for cell, column in zip(cells, columns, strict=True)
        ]
        table.add_row(Text(row.name, "bold"), *styled)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    if columns[0] == "schedule" and "what it is" in columns:
        for column in table.columns[1:]:
            column.justify = "left"
    return table


def _number(value: float) -> str:
    return f"{float(value):,.6g}"
