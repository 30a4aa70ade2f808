"""Tables for people: a certificate, a comparison."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from pipec.amounts import amount_text
from pipec.program.listing import text as listing_text
from pipec.program.program import Program
from pipec.simulate.holdings import PARTS
from pipec.simulate.peak import WORDS, parts_text, place_text
from pipec.simulate.report import Report
from pipec.simulate.usage import Usage
from pipec.verify.certificate import Certificate


def certificate_text(certificate: Certificate, program: Program, title: str) -> Text:
    """What was proved, in a few lines."""
    text = Text()
    head = f"{title}: {len(program):,} instructions on {program.ranks} ranks"
    text.append("certified ", "bold green").append(f"{head}\n", "bold")
    proved = "complete, in a possible order, every message paired and in order"
    text.append(f"  proved      {proved}\n")
    for topology, safety in certificate.safety.items():
        needed = safety.credits_needed
        credits = f"{needed} credit{'' if needed == 1 else 's'}"
        verdict = "no deadlock" if safety.safe else f"deadlock below {credits}"
        verdict = verdict if needed is not None else "deadlock, whatever the credits"
        text.append(f"  {'channels' if topology == 'rank' else '':<11} {topology:<9} {verdict}\n")
    if certificate.channels.credits or any(s.credits_needed for s in certificate.safety.values()):
        text.append(f"  a credit    {_credit(certificate.used)}\n")
    codes = Counter(finding.code for finding in certificate.warnings)
    if codes:
        told = ", ".join(f"{code} ({count})" for code, count in codes.items())
        text.append("  warnings    ").append(f"{told}\n", "bold yellow")
    report = certificate.report
    if report is None:
        return text
    text.append(f"  makespan    {_number(report.makespan)}  (costs {certificate.costs})\n")
    text.append(f"  bubble      {report.bubble_rate:.1%} of the makespan on the worst rank")
    text.append(f" (span bubble {report.span_bubble_rate:.1%})\n")
    return text.append(_peak_memory(certificate.used)) if certificate.used else text


def _credit(used: Usage | None) -> str:
    """What one credit is in a buffer: room for a message, however large it is."""
    largest = used.text(used.largest_message) if used and used.largest_message else ""
    size = f", {largest} at most" if largest else ""
    return f"is room for one whole message{size}, in each directed pair of ranks"


def _peak_memory(used: Usage) -> Text:
    """The peak of the worst rank, where it stands, what it consists of, and what is not in it."""
    rank = int(used.peak.argmax())
    peak = used.text(used.peak[rank])
    text = Text(f"  peak memory {peak} on rank {rank} {place_text(used, rank)}\n")
    parts = parts_text(used, rank)
    if parts:
        text.append(f"{'':14}{parts}\n")
    if used.memory.limit:
        text.append(f"{'':14}the limit is {used.memory.limit.text}\n")
    if used.not_counted:
        text.append(f"{'':14}not counted: {', '.join(used.not_counted)}\n")
    return text


def rank_table(report: Report) -> Table:
    """One line a rank."""
    table = plain_table("rank", "busy", "bubble", "span bubble")
    for rank, row in enumerate(report.ranks):
        figures = (row.busy, row.bubble, row.span_bubble)
        table.add_row(str(rank), *(_number(figure) for figure in figures))
    return table


def memory_table(used: Usage) -> Table:
    """One line a rank: its peak, where it stands, and the parts of it that any rank has."""
    there = {part.name for rank in used.parts for part in rank}
    names = [name for name in PARTS if name in there]
    words = [WORDS.get(name, name) for name in names]
    table = plain_table("rank", "peak memory", "at index", "instruction", *words)
    for rank, parts in enumerate(used.parts):
        row, amounts = int(used.peak_row[rank]), {part.name: part.amount for part in parts}
        index = str(row - int(used.table.start[rank])) if row >= 0 else ""
        instruction = listing_text(used.table.instruction(row)) if row >= 0 else ""
        cells = [used.text(amounts[name]) if name in amounts else "" for name in names]
        table.add_row(str(rank), used.text(used.peak[rank]), index, instruction, *cells)
    return table


@dataclass(frozen=True)
class Compared:
    """One schedule in a comparison."""

    name: str
    report: Report
    ranks: int
    stages: int
    held: int
    """The most stages that a rank holds, i.e. parameters in stages."""
    messages: int
    costs: str
    neighbours: int | None = None
    """How many were interleaved, where several such numbers are compared."""
    cut: int = 0
    """The pieces that costs are stated for: figures are those of one model, however it is cut."""
    slices: int = 1
    """Those of a sequence: figures are counted in microbatches, which are slices."""

    @property
    def label(self) -> str:
        """The name, with what tells rows of one name apart."""
        return self.name if self.neighbours is None else f"{self.name} neighbours={self.neighbours}"

    @property
    def scale(self) -> float:
        """What figures in stages and microbatches are scaled by: the size of a stage in P-ths of
        the model, and of a microbatch in sequences.
        """
        return (1.0 if self.cut else self.ranks / self.stages) / self.slices

    @property
    def parameters(self) -> float:
        """The largest share of the model's parameters that a rank holds."""
        return self.held / self.stages


def costs_text(rows: Sequence[Compared]) -> str:
    """What the figures of a comparison were computed with: one line, or one per schedule."""
    if len({row.costs for row in rows}) == 1:
        return f"costs {rows[0].costs}"
    return "\n".join(f"costs of {row.name}: {row.costs}" for row in rows)


def comparison_table(rows: Sequence[Compared]) -> Table:
    """One line a schedule, the best of each column in bold.

    Where stages are of different sizes, makespan and peak are shown for one model, too.
    """
    scaled = len({row.scale for row in rows}) > 1
    columns = {
        "makespan": [_number(row.report.makespan) for row in rows],
        "scaled": [_number(row.report.makespan * row.scale) for row in rows],
        "bubble": [f"{row.report.bubble_rate:.1%}" for row in rows],
        "span bubble": [f"{row.report.span_bubble_rate:.1%}" for row in rows],
        "peak memory": [row.report.peak_text for row in rows],
        "scaled ": [
            amount_text(row.report.peak_memory * row.scale, row.report.in_bytes) for row in rows
        ],
        "parameters": [f"{row.held}/{row.stages}" for row in rows],
        "messages": [str(row.messages) for row in rows],
    }
    values = {
        "makespan": [0.0 if scaled else float(row.report.makespan) for row in rows],
        "scaled": [float(row.report.makespan * row.scale) for row in rows],
        "bubble": [row.report.bubble_rate for row in rows],
        "span bubble": [row.report.span_bubble_rate for row in rows],
        "peak memory": [0.0 if scaled else float(row.report.peak_memory) for row in rows],
        "scaled ": [float(row.report.peak_memory * row.scale) for row in rows],
        "parameters": [row.parameters for row in rows],
        "messages": [float(row.messages) for row in rows],
    }
    shown = [name for name in columns if scaled or not name.startswith("scaled")]
    table = plain_table("schedule", *shown)
    for at, row in enumerate(rows):
        best = [0 < values[name][at] == min(values[name]) for name in shown]
        cells = [
            Text(columns[name][at], "bold green" if is_best else "")
            for name, is_best in zip(shown, best, strict=True)
        ]
        table.add_row(Text(row.label, "bold"), *cells)
    for column, name in zip(table.columns[1:], shown, strict=True):
        column.min_width, column.overflow = max(map(len, columns[name])), "fold"
    return table


def scale_text(rows: Sequence[Compared]) -> str:
    """How figures in stages or microbatches of different sizes compare; empty where all are of one
    size.
    """
    if len({row.scale for row in rows}) == 1:
        return ""
    stages: dict[str, dict[str, None]] = {}
    slices: dict[str, dict[str, None]] = {}
    for row in rows:
        stages.setdefault(f"1/{row.stages} of the model", {})[row.name] = None
        if row.slices > 1:
            slices.setdefault(f"1/{row.slices} of a sequence", {})[row.name] = None
    said = f"a stage is {_sizes(stages)}"
    units = f"{rows[0].ranks}ths of the model"
    if slices:
        said, units = f"{said}, a microbatch {_sizes(slices)}", f"{units} and in sequences"
    return f"{said}: `scaled` counts in {units}"


def _sizes(sizes: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{size} for {', '.join(names)}" for size, names in sizes.items())


def plain_table(*columns: str) -> Table:
    """A table without frames: the first column is words, the others are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _number(value: float) -> str:
    return f"{float(value):,.6g}"
