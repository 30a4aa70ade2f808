"""The certificate of a program: everything that was proved, or the counterexamples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipec.findings import Finding
from pipec.program.costs import Costs, durations
from pipec.program.graph import TOPOLOGIES, Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.program.sweep import proven
from pipec.simulate.report import Report, report
from pipec.simulate.timeline import simulate
from pipec.simulate.usage import usage
from pipec.verify.completeness import completeness
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import credits_needed, deadlock
from pipec.verify.limit import memory_limit
from pipec.verify.matching import matching


@dataclass(frozen=True)
class Safety:
    """Whether a topology is free of deadlock with 0 credits, and how many credits make it so."""

    safe: bool
    credits_needed: int | None


@dataclass(frozen=True)
class Certificate:
    """What holds for a program. It certifies if and only if there are no findings."""

    findings: tuple[Finding, ...]
    channels: Channels
    safety: Mapping[str, Safety]
    report: Report | None
    costs: str

    @property
    def ok(self) -> bool:
        """Whether everything was proved."""
        return not self.findings


def verify(
    program: Program, costs: Costs, memory: Memory, channels: Channels | None = None
) -> Certificate:
    """Prove a program complete, correctly paired, free of deadlock and within memory.

    `channels` is the model that must be safe and that the timeline is computed under; the verdict
    for the other topologies (with 0 credits) is reported beside it.
    """
    channels = channels or Channels()
    links = Links(program)
    findings = [*completeness(program), *dataflow(program), *matching(program, links)]
    matched = not len(links.messages.unmatched) and not len(links.sums.unmatched)
    if not matched:
        return Certificate(tuple(findings), channels, {}, None, str(costs))
    safety = _safety(program, links, corrupt=any(f.code == "corruption" for f in findings))
    if not _is_safe(safety[channels.topology], channels):
        everywhere = not any(verdict.credits_needed is not None for verdict in safety.values())
        stuck = deadlock(program, links, channels, everywhere)
        findings += [replace(finding, hint=_way_out(safety, channels)) for finding in stuck]
    if findings:
        return Certificate(tuple(findings), channels, safety, None, str(costs))
    graph = event_graph(program, links, channels, whole_pairs=not costs.serial)
    swept = simulate(graph, durations(program, costs))
    assert proven(graph.waits, swept.spans, swept.rises), "the sweep is wrong: a bug of pipec"
    used = usage(memory, swept.timeline)
    found = tuple(memory_limit(program, memory, used))
    return Certificate(found, channels, safety, report(swept.timeline, used), str(costs))


def _safety(program: Program, links: Links, corrupt: bool) -> dict[str, Safety]:
    """The verdict per topology. What is safe with one queue per rank is safe with more queues."""
    safety: dict[str, Safety] = {}
    for topology in TOPOLOGIES:
        if topology == "tagged" and len(links.by_operation.unmatched):
            safety[topology] = Safety(False, None)
            continue
        known = safety and not corrupt and any(verdict.safe for verdict in safety.values())
        credits = 0 if known else credits_needed(program, links, topology)
        safety[topology] = Safety(credits == 0, credits)
    return safety


def _is_safe(safety: Safety, channels: Channels) -> bool:
    needed = safety.credits_needed
    return needed is not None and needed <= channels.credits


def _way_out(safety: Mapping[str, Safety], channels: Channels) -> str | None:
    needed = safety[channels.topology].credits_needed
    if needed:
        each = "1 credit" if needed == 1 else f"{needed} credits"
        return f"with {each} per directed pair it is safe under `{channels.topology}`"
    others = [f"`{name}`" for name, verdict in safety.items() if verdict.safe]
    return f"it is safe under {', '.join(others)}" if others else None
