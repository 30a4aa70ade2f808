"""A listing -> the program that it states, or all of its mistakes (listing.py has the form)."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, PipecError, Rejecting, listed, nearest
from pipec.program.effects import COMPUTE, EFFECTS, STEP, Kind, Lane, Step
from pipec.program.listing import ARROWS
from pipec.program.parts import Layout, parse_layout
from pipec.program.placement import MOST_RANKS, Flow, Placement
from pipec.program.program import Origins, Program
from pipec.source import Source, Span

Array = NDArray[Any]
MOST_FINDINGS = 50


def parse_listing(source: Source) -> Program:
    """The program that a listing states. Raises `PipecError` with all of its mistakes."""
    reader = _Reader(source)
    for number, line in enumerate(source.lines):
        reader.line(number, line)
    return reader.program()


def is_listing(content: str) -> bool:
    """Whether a text is a listing rather than a schedule."""
    return re.match(r"(\s*#[^\n]*\n|\s*\n)*\s*ranks\s+\d", content) is not None


_NUMBER = r"\d{1,10}"
_OPERATION = rf"(?P<flow>\w+)\s+(?P<stage>{_NUMBER})\s+(?P<mb>{_NUMBER})"
_COMPUTE = re.compile(
    rf"(?P<tie>&\s*)?(?P<kind>F|BW|B|W)\s+{_OPERATION}"
    r"(?:\s+(?P<part>\w+\.\d+))?(?P<nowait>\s+nowait)?"
)
_EXPERTS = re.compile(
    rf"(?P<kind>DISPATCH|COMBINE)\s+(?P<step>F|B)\s+{_OPERATION}"
    r"\s+(?P<part>\w+\.\d+)"
)
_MESSAGE = re.compile(
    rf"(?P<tie>&\s*)?(?P<kind>SEND|RECV)\s+(?P<step>F|B)\s+{_OPERATION}"
    rf"\s*(?P<arrow>->|<-)\s*(?P<peer>{_NUMBER})"
)
_SUM = re.compile(rf"(?P<kind>SUM)\s+(?P<stage>{_NUMBER})\s*<->\s*(?P<peer>{_NUMBER})")
_FLOW = re.compile(
    rf"flow\s+(?P<name>\w+)\s+microbatches\s+(?P<microbatches>{_NUMBER})"
    rf"(?:\s+slices\s+(?P<slices>{_NUMBER}))?\s+ranks(?P<ranks>(?:\s+{_NUMBER})+)"
    r"(?P<forward>\s+backward\s+false)?"
)
_CHUNK = re.compile(rf"chunk(?P<stages>(?:\s+{_NUMBER})+)\s*:\s*(?P<layers>.*)")
_FORMS = (
    "`F flow stage microbatch` (or B, W, BW), `SEND F flow stage microbatch -> rank`, "
    "`RECV F flow stage microbatch <- rank` or `SUM stage <-> rank`"
)
_PART_FORMS = (
    "`F flow stage microbatch part.layer` or `DISPATCH F flow stage microbatch part.layer`"
)


class _Reader:
    """Reads line after line; mistakes are collected."""

    def __init__(self, source: Source):
        self._source = source
        self._findings: list[Finding] = []
        self._reject = Rejecting("listing", self._findings)
        self._ranks: int | None = None
        self._flows: list[Flow] = []
        self._placement: Placement | None = None
        self._rank: int | None = None
        self._seen: set[int] = set()
        self._layouts: dict[int, Layout] = {}
        self._rows: list[tuple[int, int, int, int, bool, bool, int, int]] = []
        self._spans: list[Span] = []
        self._offset = 0

    def line(self, number: int, line: str) -> None:
        code = line.split("#", 1)[0].rstrip()
        begin = self._offset + len(code) - len(code.lstrip())
        span = Span(begin, self._offset + len(code))
        self._offset += len(line) + 1
        code = code.strip()
        if not code:
            return
        if self._ranks is None:
            self._read_ranks(code, span)
        elif code.startswith("flow ") and self._placement is None:
            self._read_flow(code, span)
        elif code.startswith("chunk ") and self._placement is None:
            self._read_chunk(code, span)
        elif head := re.fullmatch(rf"rank\s+({_NUMBER})\s*:", code):
            self._read_rank(int(head[1]), span)
        elif self._rank is None:
            self._reject("this line cannot be read", span, "`flow ...` or `rank 0:`", f"`{code}`")
        else:
            self._read_instruction(code, span)

    def _read_ranks(self, code: str, span: Span) -> None:
        match = re.fullmatch(rf"ranks\s+({_NUMBER})", code)
        if not match or not 1 <= int(match[1]) <= MOST_RANKS:
            expected = f"`ranks 4`, at most {MOST_RANKS}"
            message = "a listing begins with its number of ranks"
            self._reject(message, span, expected, f"`{code}`")
            match = None
        self._ranks = int(match[1]) if match else 1

    def _read_flow(self, code: str, span: Span) -> None:
        match = _FLOW.fullmatch(code)
        if not match:
            expected = "`flow name microbatches 8 ranks 0 1 2 3`"
            self._reject("this flow cannot be read", span, expected, f"`{code}`")
            return
        ranks = tuple(int(rank) for rank in match["ranks"].split())
        if max(ranks) >= (self._ranks or 1) or not 1 <= int(match["microbatches"]) < 2**31:
            expected = f"ranks from 0 to {(self._ranks or 1) - 1} and at least 1 microbatch"
            self._reject(f"flow `{match['name']}` is impossible", span, expected)
            return
        if any(flow.name == match["name"] for flow in self._flows):
            self._reject(f"flow `{match['name']}` is stated twice", span, "each flow once")
            return
        microbatches, slices = int(match["microbatches"]), int(match["slices"] or 1)
        if not slices or microbatches % slices:
            expected = "microbatches that are whole sequences of slices"
            self._reject(f"flow `{match['name']}` is impossible", span, expected)
            return
        flow = Flow(match["name"], microbatches, ranks, match["forward"] is None, slices)
        first = self._flows[0] if self._flows else flow
        if flow.model != first.model:
            expected = f"{first.model}, as in flow `{first.name}`"
            self._reject("all flows travel the same model", span, expected, flow.model)
            return
        if flow.backward != first.backward:
            expected = f"a backward as in flow `{first.name}`, there and here or nowhere"
            self._reject("all flows travel the same model", span, expected, f"`{code}`")
            return
        self._flows.append(flow)

    def _read_chunk(self, code: str, span: Span) -> None:
        match, stages = _CHUNK.fullmatch(code), self._flows[0].stages if self._flows else 0
        named = [int(stage) for stage in match["stages"].split()] if match else []
        if not match or max(named) >= stages or any(stage in self._layouts for stage in named):
            expected = "`chunk 0 1: 4 x attention dispatch mlp combine`, each stage once"
            self._reject("this chunk cannot be read", span, expected, f"`{code}`")
            return
        try:
            parts = parse_layout(match["layers"])
        except ValueError as error:
            self._reject(f"this chunk is impossible: {error}", span, "layers of parts")
            return
        self._layouts |= dict.fromkeys(named, parts)

    def _read_rank(self, rank: int, span: Span) -> None:
        if self._placement is None:
            self._place(span)
        if rank >= (self._ranks or 1) or rank in self._seen:
            expected = f"each rank from 0 to {(self._ranks or 1) - 1} once"
            self._reject("this rank cannot stand here", span, expected, f"rank {rank}")
        if not self._flows and not self._findings:
            self._reject("a listing states its flows before its ranks", span, "`flow ...`")
        self._rank = rank
        self._seen.add(rank)

    def _place(self, span: Span) -> None:
        """What stood before the first rank."""
        stages = self._flows[0].stages if self._flows else 0
        missing = [stage for stage in range(stages) if stage not in self._layouts]
        layouts = () if missing else tuple(self._layouts[stage] for stage in range(stages))
        if missing and self._layouts:
            message = f"the parts of stage {missing[0]} are not stated"
            self._reject(message, span, "a `chunk` line for every stage, or none")
        self._placement = Placement(self._ranks or 1, tuple(self._flows), layouts)

    def _read_instruction(self, code: str, span: Span) -> None:
        forms = (_COMPUTE, _MESSAGE, _SUM, _EXPERTS)
        match = next((match for form in forms if (match := form.fullmatch(code))), None)
        if not match:
            word = (code.lstrip("& ") or code).split()[0]
            hint = nearest(word, Kind.__members__) if word not in Kind.__members__ else None
            expected = f"{_FORMS}, {_PART_FORMS}" if self._layouts else _FORMS
            self._reject("this instruction cannot be read", span, expected, f"`{code}`", hint)
            return
        parts = match.groupdict()
        kind = Kind[parts["kind"]]
        operation = self._operation(kind, parts, span)
        peer = int(parts.get("peer") or -1) if parts.get("peer") else -1
        part = self._part(kind, parts, span)
        if peer >= (self._ranks or 1) or (kind in ARROWS and peer == self._rank):
            expected = f"another rank, from 0 to {(self._ranks or 1) - 1}"
            self._reject("no such peer", span, expected, f"rank {peer}")
        arrow = parts.get("arrow")
        if arrow and arrow != ARROWS[kind]:
            self._reject("the arrow points the wrong way", span, f"`{ARROWS[kind]}`", f"`{arrow}`")
        tied = bool(parts.get("tie"))
        if tied and not self._ties(kind):
            expected = (
                "an F before a B or BW (or the reverse), neither tied already"
                if COMPUTE[kind]
                else "a SEND or RECV in the line before"
            )
            self._reject("`&` ties this to nothing", span, expected)
        self._spans.append(span)
        nowait, origin = bool(parts.get("nowait")), len(self._spans) - 1
        self._rows.append((self._rank or 0, kind, operation, peer, tied, nowait, part, origin))

    def _part(self, kind: Kind, parts: dict[str, str], span: Span) -> int:
        """The number of the part that a row names in its stage; 0 where chunks are not opened."""
        known = self._layouts.get(int(parts["stage"]), ())
        named = parts.get("part")
        if kind in ARROWS or (not known and not named):
            return 0
        wire = kind if EFFECTS[kind].lane is Lane.EXPERTS else None
        names = [str(part) for part in known if part.wire is wire]
        if named not in names:
            expected = listed(names[:6]) if names else "a `chunk` line that states the parts"
            found = f"`{named}`" if named else "none"
            self._reject("no such part", span, expected, found, nearest(named or "", names))
            return 0
        return [str(part) for part in known].index(named)

    def _operation(self, kind: Kind, parts: dict[str, str], span: Span) -> int:
        stage = int(parts["stage"])
        stages = self._flows[0].stages if self._flows else 1
        if stage >= stages:
            self._reject("no such stage", span, f"a stage from 0 to {stages - 1}", f"{stage}")
            return 0
        if kind is Kind.SUM:
            return stage
        names = [flow.name for flow in self._flows]
        if parts["flow"] not in names:
            hint = nearest(parts["flow"], names)
            self._reject("no such flow", span, listed(names), f"`{parts['flow']}`", hint)
            return 0
        flow, microbatch = names.index(parts["flow"]), int(parts["mb"])
        most = self._flows[flow].microbatches
        if microbatch >= most:
            self._reject("no such microbatch", span, f"from 0 to {most - 1}", f"{microbatch}")
            return 0
        step = (
            int(STEP[kind])
            if COMPUTE[kind]
            else {"F": Step.FORWARD, "B": Step.BACKWARD}[parts["step"]]
        )
        assert self._placement
        return int(self._placement.operation(flow, step, stage, microbatch))

    def _ties(self, kind: Kind) -> bool:
        """Whether what stands before this line may be tied to it."""
        if not COMPUTE[kind]:
            last = self._rows[-1:]
            return any(r == self._rank and k in (Kind.SEND, Kind.RECV) for r, k, *_ in last)
        for rank, before, _, _, tied, *_ in reversed(self._rows):
            if rank != self._rank:
                return False
            if COMPUTE[before]:
                kinds = {Kind(before), kind}
                return not tied and kinds in ({Kind.F, Kind.B}, {Kind.F, Kind.BW})
        return False

    def program(self) -> Program:
        ranks, end = self._ranks or 1, Span(len(self._source.text), len(self._source.text))
        if self._ranks is None:
            message = "a listing begins with its number of ranks"
            self._reject(message, end, "`ranks 4`", "nothing")
        if not self._findings and len(self._seen) < ranks:
            missing = min(set(range(ranks)) - self._seen)
            self._reject(f"rank {missing} is missing", end, f"{ranks} ranks", f"{len(self._seen)}")
        if not self._findings and self._placement and not self._placement.fits(len(self._rows)):
            found = f"{self._placement.size} operations in {len(self._rows)} instructions"
            message = "the flows are too large for these streams"
            self._reject(message, end, "the microbatches that are there", found)
        if self._findings or self._placement is None:
            raise PipecError(self._findings[:MOST_FINDINGS], self._source)
        table = np.array(self._rows, np.int64).reshape(-1, 8)
        rank, kind, operation, peer, tie, nowait, part, origin = table[
            np.argsort(table[:, 0], kind="stable")
        ].T
        return Program(
            self._placement,
            np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=ranks))]),
            kind.astype(np.int8),
            operation.astype(np.int32),
            peer.astype(np.int32),
            tie.astype(bool),
            nowait.astype(bool),
            part.astype(np.int16),
            origin.astype(np.int32),
            Origins(self._source, tuple(self._spans)),
        )
