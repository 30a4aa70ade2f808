"""A stage made of layers with parts: an ordinary module, which can also be run part by part."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.exchange import Exchange
from pipec.runtime.experts.functions import attach, gather, spread
from pipec.runtime.experts.layer import Arrived, Layer, Sent
from pipec.runtime.experts.local import LocalExchange


class ExpertStage(nn.Module):
    """Modules before, layers, modules after.

    before: from the stage's input to what the first layer takes, such as an embedding.
    after: from the last layer's output to the stage's, such as a language model's head.

    Called as a module it runs whole. Its pieces are what is computed between two all-to-alls:
    for each layer two, `enter` and `mlp`, and `leave` at the end.

    `loss_scale` multiplies the gradient of the layers' own losses; a Pipeline sets it to that of
    the main loss. `take_loss` says what they were.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        exchange: Exchange | None = None,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
    ):
        """exchange: that of this rank's expert group. Raises `PipelineError`."""
        super().__init__()
        for layer in layers:
            _check(layer)
        self.layers = nn.ModuleList(layers)
        self.before, self.after = before, after
        self.exchange: Exchange = exchange or LocalExchange()
        self.loss_scale = 1.0
        self._loss: Tensor | None = None

    def layer(self, number: int) -> Layer:
        """One of the layers."""
        return cast(Layer, self.layers[number])

    def forward(self, *inputs: Any) -> Any:
        """All parts one after the other."""
        given: Sequence[Any] = inputs
        for number, layer in enumerate(self.layers):
            sent = self.enter(number, *given)
            if sent.experts is None:
                routed = self.mlp(number, Arrived(sent.tokens))
            else:
                arrived = spread(self.exchange, sent, cast(Layer, layer).total)
                routed = gather(self.exchange, self.mlp(number, arrived), arrived.route)
            given = (routed, *sent.kept)
        return self.leave(*given)

    def enter(self, number: int, *given: Any) -> Sent:
        """From the routed result of the layer before to what this one sends.

        given: the stage's input for the first layer, else what `join` takes.
        """
        if number:
            x = self.layer(number - 1).join(*given)
        else:
            x = self.before(*given) if self.before is not None else given[0]
        sent = self.layer(number).attention(x)
        if sent.loss is None:
            return sent
        loss = sent.loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss
        tokens = attach(sent.tokens, sent.loss, self.loss_scale)
        return Sent(tokens, sent.kept, sent.experts, sent.weights)

    def mlp(self, number: int, arrived: Arrived) -> Tensor:
        """The experts of this rank in one layer."""
        return self.layer(number).mlp(arrived)

    def leave(self, *given: Tensor) -> Any:
        """From the routed result of the last layer to the stage's output."""
        x = self.layer(len(self.layers) - 1).join(*given)
        return x if self.after is None else self.after(x)

    def sharded(self) -> Iterable[nn.Parameter]:
        """The parameters that other ranks of the expert group do not have."""
        for number in range(len(self.layers)):
            yield from self.layer(number).sharded()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What runs meanwhile is no part of the sum of losses."""
        kept = self._loss
        try:
            yield
        finally:
            self._loss = kept

    def take_loss(self) -> Tensor | None:
        """The sum of the layers' own losses over all microbatches since it was last taken."""
        taken, self._loss = self._loss, None
        return taken


def exchanges_of(modules: Iterable[nn.Module], loss_scale: float) -> list[Exchange]:
    """The exchanges of those modules that are expert stages, which take part in a larger loss."""
    stages = [module for module in modules if isinstance(module, ExpertStage)]
    for stage in stages:
        stage.loss_scale = loss_scale
    return list(dict.fromkeys(stage.exchange for stage in stages))


def _check(layer: nn.Module) -> None:
    missing = [
        name
        for name in ("total", "attention", "mlp", "join", "sharded")
        if not hasattr(layer, name)
    ]
    if missing:
        raise PipelineError(
            f"{type(layer).__name__} is not a layer of an expert stage",
            expected="the parts of pipec.runtime.experts.Layer",
            found=f"no {', no '.join(missing)}",
            hint="put what is no layer into `before` or `after`",
        )
