"""The all-to-alls as functions of autograd, for a stage that runs whole."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from pipec.runtime.experts.exchange import Exchange
from pipec.runtime.experts.layer import Arrived, Sent


def spread(exchange: Exchange, sent: Sent, total: int) -> Arrived:
    """DISPATCH, whose backward is a gather."""
    apply: Callable[..., Any] = _Spread.apply
    tokens, weights, arrived = apply(sent.tokens, sent.weights, exchange, sent, total)
    return Arrived(tokens, arrived.experts, weights, arrived.counts, arrived.route)


def gather(exchange: Exchange, rows: Tensor, route: Any) -> Tensor:
    """COMBINE, whose backward spreads on the same route."""
    return _Gather.apply(rows, exchange, route)  # type: ignore[no-untyped-call]


def attach(tokens: Tensor, loss: Tensor, scale: float) -> Tensor:
    """The tokens; their backward is also that of `scale * loss`."""
    return _Attach.apply(tokens, loss, scale)  # type: ignore[no-untyped-call]


class _Spread(Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, weights: Tensor, exchange: Exchange, sent: Sent, total: int
    ) -> Any:
        assert sent.experts is not None
        arrived = exchange.spread(tokens, sent.experts, weights, total, exchange.mark()).wait()
        ctx.exchange, ctx.route = exchange, arrived.route
        return arrived.tokens, arrived.weights, arrived

    @staticmethod
    def backward(ctx: Any, tokens: Tensor, weights: Tensor, _: Any) -> Any:
        ready = ctx.exchange.mark()
        pending = ctx.exchange.gather(tokens.contiguous(), ctx.route, ready, weights)
        return *pending.wait(), None, None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, exchange: Exchange, route: Any) -> Tensor:
        ctx.exchange, ctx.route = exchange, route
        return exchange.gather(rows, route, exchange.mark()).wait()[0]

    @staticmethod
    def backward(ctx: Any, tokens: Tensor) -> Any:
        ready = ctx.exchange.mark()
        pending = ctx.exchange.spread_again(tokens.contiguous(), ctx.route, ready)
        return pending.wait(), None, None


class _Attach(Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, loss: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(loss)
        ctx.scale = scale
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, tokens: Tensor) -> Any:
        (loss,) = ctx.saved_tensors
        return tokens, torch.full_like(loss, ctx.scale), None
