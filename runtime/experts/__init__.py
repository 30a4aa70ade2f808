"""Layers of experts: attention, dispatch, mlp and combine, run one by one and side by side."""

from pipec.runtime.experts.emulated import EmulatedExchange
from pipec.runtime.experts.exchange import Exchange, make_exchange
from pipec.runtime.experts.experts import Experts
from pipec.runtime.experts.layer import OUT, PARTS, Arrived, Layer, Sent
from pipec.runtime.experts.layers import DenseLayer, ExpertLayer
from pipec.runtime.experts.layout import Layout, make_layout
from pipec.runtime.experts.measure import exchange_times
from pipec.runtime.experts.parts import Parts
from pipec.runtime.experts.router import Router
from pipec.runtime.experts.stage import ExpertStage

__all__ = [
    "OUT",
    "PARTS",
    "Arrived",
    "DenseLayer",
    "EmulatedExchange",
    "Exchange",
    "ExpertLayer",
    "ExpertStage",
    "Experts",
    "Layer",
    "Layout",
    "Parts",
    "Router",
    "Sent",
    "exchange_times",
    "make_exchange",
    "make_layout",
]
