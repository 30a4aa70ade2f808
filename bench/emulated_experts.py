"""Expert stages whose compute is a sleep and whose link is emulated, under both runtimes.

A layer is real: it has parameters, autograd and all-to-alls; each part that computes takes a stated
time on top, in its forward, its backward and its W. Both runtimes get the same stages, and `Meter`
counts what was slept and what was waited for, so that nobody is given less to do.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.distributed import ProcessGroup
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class

from pipec.program.effects import Kind
from pipec.program.parts import OUT
from pipec.program.plan import Plan
from pipec.runtime import Pipeline
from pipec.runtime.experts import Arrived, EmulatedExchange, Exchange, ExpertStage, Sent
from pipec.runtime.listener import Point

WIDTH, ROWS = 4, 2
"""Of the tensors that are really computed with: next to nothing."""
WIRE = 1.5
"""What an all-to-all takes, where a part that computes takes 1."""
TORCH = {"1f1b": "1F1B", "dualpipev": "DualPipeV"}

Step = Callable[[], object]


class Meter:
    """What one rank slept as compute, and when it waited for all-to-alls.

    unit: seconds that a part takes. whole: whether a backward computes gradients of weights, too.
    """

    def __init__(self) -> None:
        self.unit = 0.0
        self.slept, self.whole = 0, False
        self.waits: list[tuple[float, float]] = []

    def start(self, unit: float) -> None:
        """Begin a step, anew."""
        self.unit, self.slept, self.whole = unit, 0, False
        self.waits.clear()

    def work(self, units: int = 1) -> None:
        """Take the time of parts."""
        self.slept += units
        time.sleep(units * self.unit)

    def waited(self, begin: float, end: float) -> float:
        """Seconds of a window in which the rank waited for all-to-alls."""
        return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in self.waits)


# --- stages ---------------------------------------------------------------------------------------


def make_stage(number: int, layers: int, exchange: Exchange, meter: Meter) -> ExpertStage:
    """A stage of such layers. The first one has a module before, so that all of it has a B."""
    torch.manual_seed(number)
    before = nn.Linear(WIDTH, WIDTH) if number == 0 else None
    return ExpertStage([_Layer(exchange.size, meter) for _ in range(layers)], exchange, before)


class _Layer(nn.Module):
    def __init__(self, total: int, meter: Meter):
        super().__init__()
        self.total = total
        self.attend, self.feed = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self._meter = meter
        self.register_buffer("chosen", torch.zeros(ROWS, 1, dtype=torch.int64))
        self.register_buffer("amount", torch.ones(ROWS, 1))

    def attention(self, x: Tensor) -> Sent:
        x = self.attend(_busy(x, self._meter))
        return Sent(x, (x,), self.chosen, self.amount)

    def mlp(self, arrived: Arrived) -> Tensor:
        return self.feed(_busy(arrived.tokens, self._meter))

    def join(self, routed: Tensor, *kept: Tensor) -> Tensor:
        return routed + kept[0]

    def sharded(self) -> Iterable[nn.Parameter]:
        return self.feed.parameters()


def _busy(x: Tensor, meter: Meter) -> Tensor:
    return _Busy.apply(x, meter)


class _Busy(Function):
    """Takes one unit forwards and one backwards; two where the backward includes W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, meter: Meter) -> Tensor:
        ctx.meter = meter
        meter.work()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.meter.work(2 if ctx.meter.whole else 1)
        return gradient, None


class Metered:
    """An emulated exchange that tells a meter when its results are waited for."""

    def __init__(self, group: ProcessGroup, meter: Meter):
        self._exchange = EmulatedExchange(group, 0.0)
        self._meter = meter
        self.rank, self.size, self.group = group.rank(), group.size(), group
        self.mark, self.close = self._exchange.mark, self._exchange.close

    def spread(self, *given: Any) -> "_Metered":
        return self._metered(self._exchange.spread, given)

    def spread_again(self, *given: Any) -> "_Metered":
        return self._metered(self._exchange.spread_again, given)

    def gather(self, *given: Any) -> "_Metered":
        return self._metered(self._exchange.gather, given)

    def _metered(self, start: Callable[..., Any], given: Any) -> "_Metered":
        self._exchange.seconds = WIRE * self._meter.unit
        return _Metered(start(*given), self._meter)


class _Metered:
    __slots__ = ("_meter", "_pending")

    def __init__(self, pending: Any, meter: Meter):
        self._pending, self._meter = pending, meter

    def wait(self) -> Any:
        begin = time.monotonic()
        result = self._pending.wait()
        self._meter.waits.append((begin, time.monotonic()))
        return result


# --- runtimes -------------------------------------------------------------------------------------


def ours(plan: Plan, stages: Mapping[int, nn.Module], group: ProcessGroup, meter: Meter) -> Step:
    """One training step of a plan."""
    emulation = [Weights(meter)]
    loss = nn.functional.mse_loss
    pipe = Pipeline(plan, stages, loss_fn=loss, group=group, listeners=emulation)
    x, y = _batch(sum(flow.microbatches for flow in plan.program.placement.flows))
    return lambda: pipe.step(x, y)


class Weights:
    """A listener that takes the time of W where gradients of weights are computed."""

    def __init__(self, meter: Meter):
        self._meter = meter

    def wrap(self, point: Point, run: Callable[[], None]) -> Callable[[], None]:
        row = point.instruction
        computes = row.part is not None and row.part.name != OUT
        if point.waiting or row.kind not in (Kind.W, Kind.BW) or not computes:
            return run

        def slow() -> None:
            run()
            self._meter.work()

        return slow


def theirs(plan: Plan, stages: Mapping[int, nn.Module], group: ProcessGroup, meter: Meter) -> Step:
    """One training step of torch's schedule that has the order of a plan."""
    flow = plan.program.placement.flows[0]
    made = []
    for index, module in stages.items():
        stage = PipelineStage(module, index, flow.stages, torch.device("cpu"), group=group)
        _with_weights(stage, module, meter)
        made.append(stage)
    schedule = get_schedule_class(TORCH[plan.name])(
        made[0] if len(made) == 1 else made, flow.microbatches, loss_fn=nn.functional.mse_loss
    )
    x, y = _batch(flow.microbatches)
    given = (x,) if 0 in stages else ()
    wanted = {"target": y, "losses": []} if flow.stages - 1 in stages else {}
    return lambda: schedule.step(*given, **wanted)


def _with_weights(stage: PipelineStage, module: nn.Module, meter: Meter) -> None:
    """Let a stage of torch's take the time of W: in a whole backward, or by itself.

    torch leaves out the first stage's B and does all of it in its W.
    """
    backward, weights = stage.backward_one_chunk, stage.backward_weight_one_chunk
    parts = 2 * len(module.layers)

    def slow_backward(*given: Any, full_backward: bool = True, **more: Any) -> Any:
        meter.whole = full_backward
        return backward(*given, full_backward=full_backward, **more)

    def slow_weights(*given: Any, **more: Any) -> Any:
        meter.whole = stage.is_first
        if not stage.is_first:
            meter.work(parts)
        return weights(*given, **more)

    stage.backward_one_chunk, stage.backward_weight_one_chunk = slow_backward, slow_weights


def _batch(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(count * ROWS, WIDTH), torch.randn(count * ROWS, WIDTH)


def layout_of(ranks: int, experts: int) -> tuple[ProcessGroup, ProcessGroup]:
    """This rank's pipeline and its expert group; all ranks call it."""
    mesh = torch.arange(ranks * experts).view(ranks, experts)
    pipeline, _ = dist.new_subgroups_by_enumeration(mesh.t().tolist())
    expert, _ = dist.new_subgroups_by_enumeration(mesh.tolist())
    return pipeline, expert
