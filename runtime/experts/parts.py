"""An expert stage run part by part: autograd is cut where tokens travel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipec.runtime.experts.lane import tensors_in
from pipec.runtime.experts.layer import OUT, PARTS, Arrived, Sent
from pipec.runtime.experts.stage import ExpertStage
from pipec.runtime.split import Record, Split
from pipec.runtime.split.internals import engine_backward


@dataclass(slots=True)
class _Cut:
    """What one piece holds between its forward and its backward: the two ends of its graph."""

    given: Sequence[Any] = ()
    made: Sequence[Tensor | None] = ()


@dataclass(slots=True)
class _Flight:
    """One microbatch on its way through the stage."""

    cuts: list[_Cut]
    routes: list[Any]
    given: Any = ()
    """The input of the next piece, or the gradients for the next piece's backward."""
    sent: Sent | None = None
    kept: Sequence[Tensor | None] = ()
    """What goes around the experts, or its gradients."""
    pending: Any = None
    ready: Any = None
    records: list[Record] | None = None


class Parts:
    """Runs `stage` for microbatches `0 .. count-1`, several of which may be under way.

        parts.begin(number, inputs)                      # leaves, where a gradient is wanted
        for part in range(parts.count): output = parts.forward(part, number)
        parts.begin_backward(number, [output], [gradient])
        for part in reversed(range(parts.count)): parts.backward(part, number)
        for part in range(0, parts.count, 2): parts.weights(part, number)     # after `defer`

    Parts are numbered in the order of the forward, four for each layer (`PARTS`) and one behind
    them (`OUT`). The odd ones are all-to-alls, which are started and not waited for; in between,
    parts of other microbatches may run. Without gradients (`torch.no_grad`) nothing is kept.
    """

    __slots__ = ("_flights", "_splits", "stage")

    def __init__(self, stage: ExpertStage, count: int):
        self.stage = stage
        self._splits = _splits(stage)
        self._flights = [self._flight() for _ in range(count)]

    @property
    def count(self) -> int:
        """The number of parts."""
        return len(PARTS) * len(self.stage.layers) + 1

    def name(self, part: int) -> str:
        """What a part is called."""
        return OUT if part == self.count - 1 else PARTS[part % len(PARTS)]

    def defer(self, number: int) -> None:
        """Let W of a microbatch be run apart from its B, from now on."""
        self._flights[number].records = [Record() for _ in self._splits]

    def clear(self) -> None:
        """Let go of everything, after a step that failed."""
        for number, flight in enumerate(self._flights):
            self._flights[number] = self._flight()
            if flight.records is not None:
                self.defer(number)

    # --- what is held -----------------------------------------------------------------------------

    def kept(self, number: int) -> Iterator[Tensor]:
        """What F of a microbatch keeps for its B, beside what autograd saves."""
        flight = self._flights[number]
        for cut in flight.cuts:
            yield from tensors_in([*cut.given, *cut.made])
        yield from tensors_in(flight.routes)

    def deferred(self, number: int) -> Iterator[Tensor]:
        """What B of a microbatch has kept for its W until now."""
        for record in self._flights[number].records or ():
            yield from record.kept()

    def travelling(self, number: int) -> Iterator[Tensor]:
        """What an all-to-all has brought to the next part, or will take of the last one."""
        flight = self._flights[number]
        given = flight.given if flight.sent is None else flight.sent
        if isinstance(given, Sent | Arrived):
            given = [given.tokens, given.experts, given.weights]
        yield from tensors_in(given)

    # --- F ----------------------------------------------------------------------------------------

    def begin(self, number: int, inputs: Sequence[Any]) -> None:
        """Give a microbatch its input."""
        self._flights[number].given = inputs

    def forward(self, part: int, number: int) -> Any:
        """Run a part that computes, or start an all-to-all. The last one returns the output."""
        flight, layer = self._flights[number], part // len(PARTS)
        match self.name(part):
            case "attention":
                self._attention(flight, layer)
            case "dispatch":
                self._dispatch(flight, layer)
            case "mlp":
                self._mlp(flight, layer)
            case "combine":
                self._combine(flight, layer)
            case _:
                return self._run(flight, -1, self._joining(flight), self.stage.leave, lambda _: ())

    def wait(self, number: int) -> None:
        """Wait for the all-to-all that was started last, if it was not waited for yet."""
        self._waited(self._flights[number])

    def _attention(self, flight: _Flight, layer: int) -> None:
        given = self._joining(flight) if layer else flight.given

        def enter(*tensors: Any) -> Sent:
            return self.stage.enter(layer, *tensors)

        sent = self._run(flight, 2 * layer, given, enter, _made)
        weights = None if sent.weights is None else sent.weights.detach()
        flight.sent = replace(sent, tokens=sent.tokens.detach(), weights=weights)
        flight.kept, flight.given = sent.kept, ()
        flight.ready = self.stage.exchange.mark()

    def _dispatch(self, flight: _Flight, layer: int) -> None:
        sent, exchange = flight.sent, self.stage.exchange
        assert sent is not None
        if sent.experts is None or sent.weights is None:
            flight.given = Arrived(sent.tokens)
        else:
            total = self.stage.layer(layer).total
            flight.pending = exchange.spread(
                sent.tokens, sent.experts, sent.weights, total, flight.ready
            )
        flight.sent = None

    def _mlp(self, flight: _Flight, layer: int) -> None:
        arrived = self._waited(flight)
        flight.routes[layer] = None if arrived.experts is None else (arrived.route,)
        leaves = [_leaf(arrived.tokens)]
        if arrived.weights is not None:
            leaves.append(_leaf(arrived.weights))

        def mlp(tokens: Tensor, weights: Tensor | None = None) -> Tensor:
            return self.stage.mlp(layer, replace(arrived, tokens=tokens, weights=weights))

        made = self._run(flight, 2 * layer + 1, leaves, mlp, lambda made: (made,))
        flight.given = made.detach()
        flight.ready = self.stage.exchange.mark()

    def _combine(self, flight: _Flight, layer: int) -> None:
        rows, route = flight.given, flight.routes[layer]
        if route is None:
            flight.given = (rows, None)
            return
        flight.pending = self.stage.exchange.gather(rows, route[0], flight.ready)
        flight.given = ()

    def _joining(self, flight: _Flight) -> list[Tensor]:
        """What a layer's `join` takes, as leaves."""
        routed, _ = self._waited(flight)
        kept = [
            one.detach().requires_grad_(one.requires_grad) for one in flight.kept if one is not None
        ]
        flight.kept, flight.given = (), ()
        return [_leaf(routed), *kept]

    def _run(self, flight: _Flight, piece: int, given: Any, call: Any, ends: Any) -> Any:
        """One piece; its ends are kept for the backward, if there will be one."""
        if flight.records is None:
            made = call(*given)
        else:
            made = self._splits[piece].forward(flight.records[piece], call, *given)
        if torch.is_grad_enabled():
            flight.cuts[piece] = _Cut(given, ends(made))
        return made

    def _waited(self, flight: _Flight) -> Any:
        if flight.pending is not None:
            flight.given, flight.pending = flight.pending.wait(), None
        return flight.given

    # --- B, BW, W ---------------------------------------------------------------------------------

    def begin_backward(
        self, number: int, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        """Give a microbatch the gradients of its output, or of what came of it (`roots`)."""
        flight = self._flights[number]
        flight.cuts[-1].made, flight.kept = roots, gradients

    def backward(self, part: int, number: int) -> None:
        """The backward of a part: the gradient of its input, and that of its weights at once
        unless it is deferred. All-to-alls are started, in the reverse direction."""
        flight, layer = self._flights[number], part // len(PARTS)
        exchange, route = self.stage.exchange, flight.routes[min(layer, len(flight.routes) - 1)]
        match self.name(part):
            case "combine" if route is not None:
                flight.pending = exchange.spread_again(flight.given, route[0], flight.ready)
            case "mlp":
                tokens = self._waited(flight)
                flight.given = self._back(flight, 2 * layer + 1, (tokens,))
                flight.ready = exchange.mark()
            case "dispatch" if route is not None:
                tokens, weights = flight.given
                flight.pending = exchange.gather(tokens, route[0], flight.ready, weights)
            case "attention":
                tokens, *weights = self._waited(flight)
                flight.routes[layer] = None
                self._leave(flight, 2 * layer, (tokens, *(weights or (None,)), *flight.kept))
            case "out":
                self._leave(flight, -1, flight.kept)

    def weights(self, part: int, number: int) -> None:
        """W of a part that computes."""
        records = self._flights[number].records
        assert records is not None and part % 2 == 0
        self._splits[part // 2].weights(records[part // 2])

    def _leave(self, flight: _Flight, piece: int, seeds: Sequence[Tensor | None]) -> None:
        """Backward of a piece that begins with a `join`, or at the stage's input."""
        given = self._back(flight, piece, seeds)
        if piece == 0:
            flight.given, flight.kept = (), ()
            return
        flight.given, *flight.kept = given
        flight.ready = self.stage.exchange.mark()

    def _back(
        self, flight: _Flight, piece: int, seeds: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Backward of a piece: the gradients of what it was given."""
        cut, flight.cuts[piece] = flight.cuts[piece], _Cut()
        roots, grads = [], []
        for root, seed in zip(cut.made, seeds, strict=True):
            if root is not None and seed is not None and root.requires_grad:
                roots.append(root)
                grads.append(seed)
        if flight.records is not None:
            self._splits[piece].backward(flight.records[piece], roots, grads)
        elif roots:
            engine_backward(roots, grads)
        return [_gradient(one) for one in cut.given] if piece else []

    def _flight(self) -> _Flight:
        layers = len(self.stage.layers)
        return _Flight([_Cut() for _ in range(2 * layers + 1)], [None] * layers)


def _splits(stage: ExpertStage) -> list[Split]:
    """For each piece what runs its B and W: of the modules that it may use."""
    layers = list(stage.layers)
    splits = []
    for number, layer in enumerate(layers):
        earlier = layers[number - 1] if number else stage.before
        splits += [Split(_of(earlier, layer)), Split(_of(layer))]
    return [*splits, Split(_of(layers[-1], stage.after))]


def _of(*modules: nn.Module | None) -> nn.ModuleList:
    return nn.ModuleList([module for module in modules if module is not None])


def _made(sent: Sent) -> tuple[Tensor | None, ...]:
    return (sent.tokens, sent.weights, *sent.kept)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(torch.is_grad_enabled())


def _gradient(leaf: Tensor) -> Tensor | None:
    """A leaf's gradient, zeros if none came."""
    if not leaf.requires_grad:
        return None
    gradient = leaf.grad
    return (
        torch.zeros_like(leaf, requires_grad=False) if gradient is None else gradient.contiguous()
    )
