"""What the brackets of an operation name: flow, stage and microbatch, per lane."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipec.findings import Finding, Stop, listed
from pipec.language import syntax as s
from pipec.language.evaluate import FlowValue, Lanes, evaluate, failing, spread
from pipec.program.placement import Placement
from pipec.source import Source

Array = NDArray[Any]


class Selection:
    """Evaluates brackets. `rank` is the name that holds each lane's rank. Raises `Stop`."""

    def __init__(self, placement: Placement, source: Source, rank: str):
        self._placement = placement
        self._text = source.text
        self._rank = rank
        self._held = (placement.chunks >= 0).sum(axis=2)
        self._least = self._held.min(axis=1).tolist()
        self._most = self._held.max(axis=1).tolist()

    def one(self, operation: s.Operation, lanes: Lanes) -> tuple[Any, Any]:
        """The flow and the stage of an operation, which must say them where there are several.

        Only a W may leave them out: they are -1 then.
        """
        named = self.any(operation, lanes)
        if operation.kind == "W" and named[1] is None:
            return -1 if named[0] is None else named[0], -1
        return self._settled(operation, *named, lanes)

    def stage_of(self, operation: s.Operation, lanes: Lanes) -> tuple[Any, Any]:
        """The same where also a W must say them."""
        return self._settled(operation, *self.any(operation, lanes), lanes)

    def _settled(
        self, operation: s.Operation, flow: Any, chunk: Any, lanes: Lanes
    ) -> tuple[Any, Any]:
        if flow is None:
            flow = self._only_flow(operation, chunk is not None)
        return flow, self._stage(operation, flow, chunk, lanes)

    def any(self, operation: s.Operation, lanes: Lanes) -> tuple[Any, Any]:
        """The flow and the chunk that are named; None for what is not."""
        selectors = [evaluate(selector, lanes) for selector in operation.selectors]
        named = [value for value in selectors if isinstance(value, FlowValue)]
        chunks = [value for value in selectors if not isinstance(value, FlowValue)]
        return named[0].index if named else None, chunks[0] if chunks else None

    def microbatch(self, operation: s.Operation, flow: Any, lanes: Lanes) -> Any:
        """The microbatch in the round brackets, or -1 where there are none."""
        if operation.microbatch is None:
            return -1
        number: Any = evaluate(operation.microbatch, lanes)
        most = self._placement.microbatches.max() if isinstance(flow, int) and flow < 0 else None
        most = self._placement.microbatches[flow] if most is None else most
        bad = (number < 0) | (number >= most)
        if np.any(bad):
            lane = int(np.argmax(bad))
            last = int(spread(most, lanes.count)[lane]) - 1
            found = f"{spread(number, lanes.count)[lane]}"
            message = f"there is no microbatch {found}"
            expected = f"a microbatch from 0 to {last}"
            span = operation.microbatch.span
            failing(Finding("value", message, span, expected, found), bad, lanes)
        return number

    def _only_flow(self, operation: s.Operation, chunk: bool) -> int:
        flows = self._placement.flows
        if len(flows) == 1:
            return 0
        said = f", {self._said(operation.selectors[0])}" if chunk else ""
        expected = listed(f"{operation.kind}[{flow.name}{said}]" for flow in flows)
        written = f"`{self._said(operation)}`"
        message = f"{written} does not say which flow"
        raise Stop(Finding("value", message, operation.span, expected, written))

    def _said(self, node: s.Expression) -> str:
        """A piece of the text, on one line."""
        return " ".join(self._text[node.span.start : node.span.end].split())

    def _stage(self, operation: s.Operation, flow: Any, chunk: Any, lanes: Lanes) -> Any:
        """The stage that a chunk number, or its absence, means on each lane's rank."""
        rank = lanes.names[self._rank]
        assert isinstance(rank, np.ndarray)
        if isinstance(flow, int) and self._everywhere(flow, chunk):
            stages = self._placement.chunks[flow]
            if isinstance(chunk, np.ndarray):
                return stages[rank, chunk]
            return stages[:, chunk or 0].take(rank)
        held = self._held[flow, rank]
        if np.any(held == 0):
            self._not_held(operation, held == 0, lanes)
        if chunk is None:
            if np.any(held > 1):
                self._which_chunk(operation, held, lanes)
            return self._placement.chunks[flow, rank, 0]
        self.in_range(operation, chunk, held, lanes)
        return self._placement.chunks[flow, rank, chunk]

    def _everywhere(self, flow: int, chunk: Any) -> bool:
        """Whether every rank holds the chunks named, so that no lane has to be asked."""
        least = self._least[flow]
        if chunk is None:
            return bool(least == self._most[flow] == 1)
        if isinstance(chunk, np.ndarray):
            return bool(chunk.min() >= 0 and chunk.max() < least)
        return bool(0 <= chunk < least)

    def _not_held(self, operation: s.Operation, bad: Any, lanes: Lanes) -> None:
        message = f"`{self._said(operation)}` on a rank that holds no stage of this flow"
        expected, found = "a stage on this rank", "none"
        failing(Finding("value", message, operation.span, expected, found), bad, lanes)

    def _which_chunk(self, operation: s.Operation, held: Any, lanes: Lanes) -> None:
        written = f"`{self._said(operation)}`"
        message = f"{written} does not say which chunk"
        named = [f"{self._said(name)}, " for name in operation.selectors]
        first = f"{operation.kind}[{''.join(named)}"
        expected = f"`{first}0]` to `{first}{int(np.max(held)) - 1}]`"
        failing(Finding("value", message, operation.span, expected, written), held > 1, lanes)

    def in_range(self, operation: s.Operation, chunk: Any, held: Any, lanes: Lanes) -> None:
        """Refuse a chunk that a rank does not hold."""
        bad = (chunk < 0) | (chunk >= held)
        if np.any(bad):
            lane = int(np.argmax(bad))
            number = spread(chunk, lanes.count)[lane]
            count = spread(held, lanes.count)[lane]
            message = f"there is no chunk {number}"
            expected = f"a chunk from 0 to {count - 1}" if count > 1 else "chunk 0"
            finding = Finding("value", message, operation.span, expected, f"chunk {number}")
            failing(finding, bad, lanes)
