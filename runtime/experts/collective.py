"""The exchange over `torch.distributed.all_to_all_single`: gloo on a CPU, NCCL on GPUs."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from pipec.runtime.experts.lane import Lane, Pending
from pipec.runtime.experts.layer import Arrived
from pipec.runtime.experts.packing import Column, pack, unpack
from pipec.runtime.links import Backend, Link


@dataclass(frozen=True)
class Route:
    """Which row went where."""

    tokens: Tensor
    """The token of each row that was sent, by rank of destination."""
    sent: list[int]
    """Rows for each rank."""
    received: list[int]
    """Rows from each rank."""
    count: int
    """Tokens of this rank, sent or not."""


class CollectiveExchange:
    """A token travels once to each rank that holds experts of it, with its choices and weights.

    A dispatch is two all-to-alls: of the counts, and of the rows.
    """

    def __init__(self, group: ProcessGroup, device: torch.device | None = None):
        """device: that of the tensors; the current accelerator with NCCL, else the CPU."""
        self.rank, self.size = group.rank(), group.size()
        self.group: ProcessGroup | None = group
        self._group = group
        self._device = device or _device_of(group)
        self._lane = Lane(self._device)

    def mark(self) -> torch.Event | None:
        """The point in the current stream behind which tensors made until now are ready."""
        return self._lane.mark()

    def spread(
        self,
        tokens: Tensor,
        experts: Tensor,
        weights: Tensor,
        total: int,
        ready: torch.Event | None,
    ) -> Pending[Arrived]:
        """DISPATCH."""
        return self._lane.start(lambda: self._spread(tokens, experts, weights, total), ready)

    def spread_again(
        self, tokens: Tensor, route: Route, ready: torch.Event | None
    ) -> Pending[Tensor]:
        """Backward of COMBINE."""

        def job() -> Tensor:
            return self._rows(tokens[route.tokens], route.sent, route.received)

        return self._lane.start(job, ready)

    def gather(
        self,
        rows: Tensor,
        route: Route,
        ready: torch.Event | None,
        weights: Tensor | None = None,
    ) -> Pending[tuple[Tensor, Tensor | None]]:
        """COMBINE, and backward of DISPATCH."""
        return self._lane.start(lambda: self._gather(rows, weights, route), ready)

    def close(self) -> None:
        """End all communication, on this rank and on those that wait for it."""
        backend = cast(Backend, self._group._get_backend(self._device))
        Link(tuple(range(self.size)), backend, self._device.type == "cpu").close()

    # --- on the lane ------------------------------------------------------------------------------

    def _spread(self, tokens: Tensor, experts: Tensor, weights: Tensor, total: int) -> Arrived:
        here = total // self.size
        owners = torch.where(experts < 0, self.size, experts // here)
        goes = owners.new_zeros(tokens.shape[0], self.size + 1).scatter_(1, owners, 1)
        chosen = torch.bincount(experts.flatten() + 1, minlength=total + 1)[1:]
        counts = torch.cat([goes[:, : self.size].sum(0)[:, None], chosen.view(-1, here)], dim=1)
        sizes = torch.empty_like(counts)
        dist.all_to_all_single(sizes, counts, group=self._group)
        sent, received = counts[:, 0].tolist(), sizes[:, 0].tolist()
        choices = sizes[:, 1:].sum(0).tolist()
        owner, token = goes[:, : self.size].t().nonzero(as_tuple=True)
        local = experts[token] - (owner * here)[:, None]
        local = torch.where((local >= 0) & (local < here), local, -1)
        columns: list[Column] = [(part.shape[1], part.dtype) for part in (tokens, weights, experts)]
        packed = pack([tokens[token], weights[token], local])
        there, amounts, places = unpack(self._rows(packed, sent, received), columns)
        return Arrived(
            there, places, amounts, choices, Route(token, sent, received, tokens.shape[0])
        )

    def _gather(
        self, rows: Tensor, weights: Tensor | None, route: Route
    ) -> tuple[Tensor, Tensor | None]:
        if weights is None:
            back = self._rows(rows.contiguous(), route.received, route.sent)
            return _summed(back, route), None
        columns: list[Column] = [(part.shape[1], part.dtype) for part in (rows, weights)]
        packed = self._rows(pack([rows, weights]), route.received, route.sent)
        back, amounts = unpack(packed, columns)
        return _summed(back, route), _summed(amounts, route)

    def _rows(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """One all-to-all of rows."""
        result = rows.new_empty(sum(received), rows.shape[1])
        dist.all_to_all_single(result, rows, received, sent, group=self._group)
        return result


def _summed(rows: Tensor, route: Route) -> Tensor:
    """For each token the sum of its rows, added up in at least single precision."""
    wide = rows.dtype if rows.dtype.itemsize >= 4 else torch.float32
    total = torch.zeros(route.count, rows.shape[1], dtype=wide, device=rows.device)
    return total.index_add_(0, route.tokens, rows.to(wide)).to(rows.dtype)


def _device_of(group: ProcessGroup) -> torch.device:
    if "nccl" in dist.get_backend(group):
        return torch.device("cuda", torch.accelerator.current_device_index())
    return torch.device("cpu")
