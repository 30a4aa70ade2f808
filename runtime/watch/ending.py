"""Closing process groups so that no rank waits in them any more."""

import contextlib
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

_RESERVED_TAG = 2**31 - 2


def close_groups(groups: Sequence[ProcessGroup]) -> None:
    """End all communication of groups at once, on this rank and on those that wait for it.

    On gloo nothing else works: aborting a work or a backend has no effect, but a receive that times
    out closes the connection to its peer, which frees both sides. NCCL has an abort.
    """
    for group in groups:
        with contextlib.suppress(RuntimeError, ValueError):
            if dist.get_backend(group) == "gloo":
                _close_gloo(group)
            else:
                group.abort()


def _close_gloo(group: ProcessGroup) -> None:
    own = dist.get_rank(group)
    works = []
    for peer in range(dist.get_world_size(group)):
        if peer == own:
            continue
        with contextlib.suppress(RuntimeError):
            works.append(group.recv([torch.empty(1)], peer, _RESERVED_TAG))
    for work in works:
        with contextlib.suppress(RuntimeError):
            work.wait(timedelta(milliseconds=1))
