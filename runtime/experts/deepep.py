"""The exchange over DeepEP's kernels, where they are installed (github.com/deepseek-ai/DeepEP)."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from pipec.runtime.errors import PipelineError
from pipec.runtime.experts.layer import Arrived

NVLINK_BYTES = 2**30
RDMA_BYTES = 2**30
"""Sizes of the communication buffers that DeepEP registers."""


@dataclass(frozen=True)
class _Launched:
    """A kernel on DeepEP's stream; `kept` stays alive until the current stream waits for it."""

    result: Any
    event: Any
    kept: tuple[Any, ...]

    def wait(self) -> Any:
        """The result; the current stream waits for the kernel."""
        self.event.current_stream_wait()
        return self.result


class DeepEPExchange:
    """Dispatch and combine as kernels of `deep_ep.Buffer` (its high-throughput functions).

    Tokens are bfloat16 and weights float32, as DeepEP wants them.
    """

    def __init__(
        self, group: ProcessGroup, nvlink_bytes: int = NVLINK_BYTES, rdma_bytes: int = RDMA_BYTES
    ):
        """rdma_bytes: used only if the group spans hosts. Raises `PipelineError`."""
        library = _library()
        spans_hosts = group.size() > torch.accelerator.device_count()
        self.rank, self.size = group.rank(), group.size()
        self.group: ProcessGroup | None = group
        self._capture = library.Buffer.capture
        self._buffer = library.Buffer(group, nvlink_bytes, rdma_bytes if spans_hosts else 0)

    def mark(self) -> Any:
        """The point in the current stream behind which tensors made until now are ready."""
        return self._capture()

    def spread(
        self, tokens: Tensor, experts: Tensor, weights: Tensor, total: int, ready: Any
    ) -> _Launched:
        """DISPATCH."""
        per_rank, per_node, per_expert, is_in_rank, laid_out = self._buffer.get_dispatch_layout(
            experts, total, previous_event=ready, async_finish=True, allocate_on_comm_stream=True
        )
        rows, places, amounts, counts, handle, event = self._buffer.dispatch(
            tokens,
            num_tokens_per_rank=per_rank,
            num_tokens_per_rdma_rank=per_node,
            is_token_in_rank=is_in_rank,
            num_tokens_per_expert=per_expert,
            topk_idx=experts,
            topk_weights=weights,
            previous_event=laid_out,
            async_finish=True,
            allocate_on_comm_stream=True,
        )
        arrived = Arrived(rows, places, amounts, counts, handle)
        return _Launched(arrived, event, (tokens, experts, weights))

    def spread_again(self, tokens: Tensor, route: Any, ready: Any) -> _Launched:
        """Backward of COMBINE."""
        rows, _, _, _, _, event = self._buffer.dispatch(
            tokens,
            handle=route,
            previous_event=ready,
            async_finish=True,
            allocate_on_comm_stream=True,
        )
        return _Launched(rows, event, (tokens,))

    def gather(
        self, rows: Tensor, route: Any, ready: Any, weights: Tensor | None = None
    ) -> _Launched:
        """COMBINE, and backward of DISPATCH."""
        summed, amounts, event = self._buffer.combine(
            rows,
            route,
            topk_weights=weights,
            previous_event=ready,
            async_finish=True,
            allocate_on_comm_stream=True,
        )
        return _Launched((summed, amounts), event, (rows, weights))

    def close(self) -> None:
        """DeepEP has no abort: its kernels end by their own timeout."""


def _library() -> Any:
    try:
        return importlib.import_module("deep_ep")
    except ImportError as error:
        raise PipelineError(
            "the all-to-all `deepep` is not installed",
            expected="the package deep_ep",
            found=str(error),
            hint="install it from github.com/deepseek-ai/DeepEP, or choose 'torch'",
        ) from error
