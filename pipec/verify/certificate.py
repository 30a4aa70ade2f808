"""The certificate of a program: everything that was proved, or the counterexamples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipec.findings import Finding, worst_first
from pipec.program.costs import Costs, durations
from pipec.program.events import Graph
from pipec.program.graph import TOPOLOGIES, Channels, event_graph
from pipec.program.links import Links
from pipec.program.memory import Memory
from pipec.program.program import Program
from pipec.simulate.report import Report, report
from pipec.simulate.timeline import predict
from pipec.simulate.usage import Usage, usage
from pipec.verify.communicators import communicators
from pipec.verify.completeness import completeness
from pipec.verify.dataflow import dataflow
from pipec.verify.deadlock import credits_needed, deadlock
from pipec.verify.hazards import hazards
from pipec.verify.head_of_line import head_of_line
from pipec.verify.limit import memory_limit
from pipec.verify.matching import in_order, matching
from pipec.verify.parts import parts
from pipec.verify.sequence import one_sequence
from pipec.verify.way_out import Safety, way_out


@dataclass(frozen=True)
class Certificate:
    """What holds for a program. It certifies if and only if there are no findings.

    Findings are sorted by severity. Warnings are about what is safe and yet costs something.
    """

    findings: tuple[Finding, ...]
    channels: Channels
    safety: Mapping[str, Safety]
    report: Report | None
    costs: str
    warnings: tuple[Finding, ...] = ()
    used: Usage | None = None
    """What every rank holds, where the program runs to its end."""

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
    certificate = _certificate(program, costs, memory, channels or Channels())
    return replace(certificate, findings=worst_first(certificate.findings))


def _certificate(program: Program, costs: Costs, memory: Memory, channels: Channels) -> Certificate:
    links = Links(program)
    tagged = channels.topology == "tagged"
    findings = [*completeness(program), *parts(program), *dataflow(program), *hazards(program)]
    sound = not findings
    findings += matching(program, links, tagged)
    messages = links.by_operation if tagged else links.messages
    if len(messages.unmatched) or len(links.messages.unmatched) or len(links.sums.unmatched):
        return Certificate(tuple(findings), channels, {}, None, str(costs))
    plain = event_graph(program, links, Channels())
    safety = _safety(plain, links)
    if sound and not _is_safe(safety[channels.topology], channels):
        safe_somewhere = any(verdict.credits_needed is not None for verdict in safety.values())
        everywhere = not safe_somewhere and in_order(program, links)
        stuck = deadlock(program, links, channels, everywhere)
        findings += [
            replace(finding, hint=way_out(program, channels, safety, finding)) for finding in stuck
        ]
    if findings:
        return Certificate(tuple(findings), channels, safety, None, str(costs))
    graph = plain
    if channels != Channels() or costs.serial:
        graph = event_graph(program, links, channels, whole_pairs=not costs.serial)
    time = predict(graph, durations(program, costs))
    used = usage(memory, time)
    found = tuple(memory_limit(used))
    slow = [] if found else head_of_line(graph, links, channels, costs, time)
    warnings = (*([] if found or tagged else communicators(program, links)), *slow)
    return Certificate(found, channels, safety, report(time, used), str(costs), warnings, used)


def _safety(plain: Graph, links: Links) -> dict[str, Safety]:
    """The verdict per topology. What is safe with one queue per rank is safe with more queues.

    Where messages meet by position and a RECV meets another one than its own, nothing is safe.
    `plain` is the graph with a queue per pair, 0 credits and whole pairs.
    """
    safety: dict[str, Safety] = {}
    program = links.program
    ordered = in_order(program, links)
    sequence = ordered and one_sequence(plain, links)
    for topology in TOPOLOGIES:
        usable = not len(links.by_operation.unmatched) if topology == "tagged" else ordered
        known = sequence or any(verdict.safe for verdict in safety.values())
        credits = None
        if usable:
            credits = 0 if known else credits_needed(program, links, topology)
        safety[topology] = Safety(credits == 0, credits)
    return safety


def _is_safe(safety: Safety, channels: Channels) -> bool:
    needed = safety.credits_needed
    return needed is not None and needed <= channels.credits
