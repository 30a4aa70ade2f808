"""Autocast, done explicitly: what is kept for W must already have the type the product runs in."""

from __future__ import annotations

import torch
from torch import Tensor

from .internals import autocast_active


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type that autocast runs products in on x's device, or None where it is off."""
    if not autocast_active():
        return None
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def cast(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """x as autocast hands it to a product: doubles and integers stay what they are."""
    if dtype is None or x.dtype == dtype or x.dtype == torch.float64 or not x.is_floating_point():
        return x
    return x.to(dtype)
