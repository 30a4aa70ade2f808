"""The pipeline: a verified plan and the stages of this rank, run step by step."""

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, ProcessGroup

from pipec.findings import PipecError
from pipec.lower.forward_only import forward_only
from pipec.program.effects import COMPUTE
from pipec.program.graph import Channels
from pipec.program.plan import Plan
from pipec.runtime.batch import microbatches
from pipec.runtime.checks import device_of, group_of, mistake_of, splits_of
from pipec.runtime.copies import Copies, equalise
from pipec.runtime.errors import PipelineError
from pipec.runtime.executor import Context, Stream
from pipec.runtime.experts.members import agree_on_exchanges
from pipec.runtime.experts.stage import exchanges_of
from pipec.runtime.groups import agree, default_topology, make_wire, store_of, sum_links
from pipec.runtime.held import Ends
from pipec.runtime.inside import Attached, Inside
from pipec.runtime.links import Closable, Link, Linker
from pipec.runtime.listener import Listener
from pipec.runtime.specs import TensorSpec, declared
from pipec.runtime.threads import calm_gloo_threads
from pipec.runtime.watch.progress import EVAL, POSITION, TRAIN, Board
from pipec.runtime.watch.story import standing
from pipec.runtime.watch.watchdog import Failure, Watchdog, failure_at
from pipec.runtime.wires import Wire
from pipec.verify.place import place


class Pipeline:
    """Executes a plan with `torch.distributed`, inside an ordinary training loop.

        plan = pipec.compile("dualpipe", P=4, M=8)
        pipe = Pipeline(plan, {s: build(s) for s in plan.stages(rank)}, loss_fn=cross_entropy)
        for x, y in loader:
            loss = pipe.step(x, y)
            optimizer.step(); optimizer.zero_grad()

    stages: for each stage that this rank holds (`plan.stages(rank)`), an `nn.Module` that takes and
        returns a tensor or several. A stage held by two ranks is made equal on both at the start.
    loss_fn: `loss_fn(output, *target)` of one microbatch; without it the last stage returns its
        loss.
    group: the process group whose ranks are the plan's, in order; the default group if left out.
    device: where the stages are; that of their first parameter if left out.
    channels: the wires to use; they must be safe in the plan's certificate. On gloo, messages have
        tags unless a topology is named, which is then emulated strictly.
    reduction: "mean" divides gradients by the number of microbatches of all flows, "sum" does not.
    shapes: for each stage, what its input looks like (`TensorSpec`s or example tensors), said by
        any rank; what is not declared is found out at the first step.
    keep_outputs: whether `outputs` are kept in training too.
    check_finite: whether a loss that is infinite or not a number ends the step.
    timeout: seconds in which no rank makes any progress, after which all end; more than the
        slowest instruction takes.
    listeners: wrap instructions to measure or change how they run.

    Raises `PipelineError` for a plan, stages or a group that do not fit each other.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Mapping[int, nn.Module],
        *,
        loss_fn: Callable[..., Tensor] | None = None,
        group: ProcessGroup | None = None,
        device: torch.device | str | None = None,
        channels: Channels | None = None,
        reduction: str = "mean",
        shapes: Mapping[int, Sequence[TensorSpec | Tensor]] | None = None,
        keep_outputs: bool = False,
        check_finite: bool = False,
        timeout: float = 300.0,
        listeners: Sequence[Listener] = (),
    ):
        self.plan = plan
        self._group = group_of(group)
        self.rank = dist.get_rank(self._group)
        self._device = device_of(device, stages)
        self._channels = channels or Channels(default_topology(self._device))
        declared_here = {stage: declared(values) for stage, values in (shapes or {}).items()}
        mistake = mistake_of(plan, stages, self._group, self._device, self._channels, reduction)
        splits, mistake = splits_of(stages) if mistake is None else ({}, mistake)
        agreed = agree(self._group, plan, declared_here, mistake)
        self._shapes = agreed.shapes
        self._key = f"pipec/{agreed.token}"
        self._store = store_of(self._group)
        linker = Linker(PrefixStore(self._key, self._store), self.rank, self._device)
        self._wire, links = make_wire(linker, self._channels, plan)
        twice = sum_links(linker, plan)
        self._links = [*links, *dict.fromkeys(twice.values())]
        self._stages = {stage: stages[stage] for stage in plan.stages(self.rank)}
        equalise(self._stages, twice)
        calm_gloo_threads()
        self._copies = Copies(self._stages, twice)
        self._count = sum(flow.microbatches for flow in plan.program.placement.flows)
        scale = 1 / self._count if reduction == "mean" else 1.0
        self._ends = Ends(loss_fn, scale, check_finite)
        self._exchanges = exchanges_of(self._stages.values(), scale)
        agree_on_exchanges(self._exchanges, plan, self.rank)
        self._reduction = reduction
        self._keep_outputs = keep_outputs
        self._splits = splits
        self._listeners = tuple(listeners)
        self._epoch = 0
        self._streams: dict[str, Stream] = {}
        for listener in self._listeners:
            if isinstance(listener, Attached):
                listener.attach(self._inside())
        self._watchdog = self._watch(agreed.token, agreed.hosts, timeout)
        self._finalizer = weakref.finalize(self, _close, self._watchdog, self._wire, self._links)

    # --- steps ------------------------------------------------------------------------------------

    def step(self, batch: Any = None, target: Any = None) -> Tensor | None:
        """Run one training step; gradients are added to `.grad`.

        batch, target: the whole batch of all flows (see `microbatches`), on the ranks that hold a
        first or a last stage; other ranks may give it too, or None. Returns the loss of this rank's
        microbatches, averaged or summed, or None where no loss arises.
        """
        stream = self._stream("train")
        self._fill(batch, target, self._keep_outputs)
        self._copies.begin()
        with torch.enable_grad():
            self._run(stream)
        self._settle("train", stream)
        return self._loss(stream)

    def eval(self, batch: Any = None, target: Any = None) -> Tensor | None:
        """Run the forwards only, without gradients. Returns the loss as `step` does.

        Without a target there is no loss; the outputs are kept in any case.
        """
        stream = self._stream("eval")
        self._fill(batch, target, True)
        with torch.no_grad():
            self._run(stream)
        self._settle("eval", stream)
        return self._loss(stream)

    @property
    def losses(self) -> dict[int, Tensor]:
        """The loss of each microbatch of the last step, by its place in the batch, on this rank."""
        return dict(self._ends.losses)

    @property
    def outputs(self) -> dict[int, tuple[Tensor, ...]]:
        """What the last stage returned for each microbatch, with `keep_outputs` or in `eval`."""
        return dict(self._ends.outputs)

    def forget_shapes(self) -> None:
        """Find the shapes between stages out anew at the next step. Call it on every rank.

        Those that were declared are forgotten too.
        """
        self._epoch += 1
        self._shapes = {}
        self._streams.clear()

    def close(self) -> None:
        """Let go of threads, as happens at exit too. The process groups stay as they are."""
        self._finalizer()

    # --- inside -----------------------------------------------------------------------------------

    def _watch(self, token: str, hosts: Sequence[str], timeout: float) -> Watchdog:
        host = hosts[self.rank]
        board = Board(f"{token}-{host}", self.rank, self.plan.ranks)
        try:
            dist.barrier(self._group)
        finally:
            board.opened()
        remote = [
            rank
            for rank, other in enumerate(hosts)
            if other != host or not board.read(rank).process  # a container with memory of its own
        ]
        key = self._key
        links: list[Closable] = [*self._links, *self._exchanges]
        return Watchdog(
            self.plan.program, board, self._store, key, self.rank, remote, links, timeout
        )

    def _inside(self) -> Inside:
        return Inside(
            self.plan,
            self.rank,
            self._group,
            self._device,
            self._stages,
            self._wire,
            self._streams,
            self._copies,
            lambda message: self._watchdog.report(Failure(self.rank, message)),
        )

    def _stream(self, mode: str) -> Stream:
        stream = self._streams.get(mode)
        if stream is None:
            program = self.plan.program
            trains = mode == "train" and all(flow.backward for flow in program.placement.flows)
            if mode == "train" and not trains:
                raise PipelineError(
                    f"plan `{self.plan.name}` has no backward",
                    hint="run it with eval(), or compile a training schedule",
                )
            context = Context(
                self.plan,
                self.rank,
                self._device,
                self._stages,
                self._splits,
                self._wire,
                self._channels.topology,
                self._store,
                f"{self._key}/{self._epoch}",
                self._shapes,
                self._copies,
                lambda: self._watchdog.failure is not None,
                self._listeners,
            )
            program = program if trains else forward_only(program)
            stream = self._streams[mode] = Stream(context, program, self._ends, trains)
        return stream

    def _settle(self, mode: str, stream: Stream) -> None:
        """After a first step, prepare the stream anew with what is now known of shapes."""
        if not stream.settled:
            self._streams[mode] = stream.settle()

    def _fill(self, batch: Any, target: Any, keep_outputs: bool) -> None:
        """Cut the batch. What is wrong with it is told to all ranks, which wait for this one."""
        ends = self._ends
        ends.losses.clear()
        ends.outputs.clear()
        ends.keeps_outputs = keep_outputs
        try:
            self._cut(ends, batch, target)
        except PipelineError as error:
            self._watchdog.report(Failure(self.rank, f"rank {self.rank} failed: {error}"))
            raise

    def _cut(self, ends: Ends, batch: Any, target: Any) -> None:
        flows = self.plan.program.placement.flows
        ranks, slices = [flow.ranks for flow in flows], flows[0].slices
        ends.batch = ends.targets = []
        if any(placed[0] == self.rank for placed in ranks):
            if batch is None:
                raise PipelineError(
                    f"rank {self.rank} holds the first stage and got no batch",
                    hint="call step(batch, target) on every rank",
                )
            ends.batch = microbatches(batch, self._count, "batch", slices)
        if target is not None and any(placed[-1] == self.rank for placed in ranks):
            ends.targets = microbatches(target, self._count, "target", slices)

    def _run(self, stream: Stream) -> None:
        watchdog = self._watchdog
        line = watchdog.board.line
        watchdog.enter(TRAIN if stream.trains else EVAL)
        collects = gc.isenabled()
        gc.disable()
        try:
            for position, run in stream.steps:
                line[POSITION] = position
                run()
            stream.marks.follow(line, lambda: watchdog.failure is not None)
        except Exception as error:
            stream.clear()
            raise self._failed(stream, int(line[POSITION]), error) from error
        except BaseException as interrupt:
            stream.clear()
            what = f"rank {self.rank} was interrupted ({type(interrupt).__name__})"
            watchdog.report(Failure(self.rank, what))
            raise
        finally:
            watchdog.leave()
            if collects:
                gc.enable()

    def _failed(self, stream: Stream, position: int, error: Exception) -> PipelineError:
        """Tell the other ranks, or find out from them, why this step failed."""
        program, rank = stream.program, self.rank
        index, waiting = divmod(position, 2)
        row = int(program.start[rank]) + index
        where = place(program, row)
        if isinstance(error, RuntimeError) and (waiting or not COMPUTE[program.kind[row]]):
            self._watchdog.broken(error)
            return self._watchdog.error(standing(program, rank, position).sentence)
        known = error.findings[0] if isinstance(error, PipecError) else None
        cause = known.message if known else f"{type(error).__name__}: {error}"
        message = f"rank {rank} failed at index {index}, `{where.instruction}`: {cause}"
        self._watchdog.report(failure_at(rank, message, where))
        return PipelineError(
            message,
            expected=known.expected if known else None,
            found=known.found if known else None,
            hint=known.hint if known else None,
            place=where,
            source=program.origins.source,
            code="failed",
        )

    def _loss(self, stream: Stream) -> Tensor | None:
        losses = list(self._ends.losses.values())
        if not losses:
            return None
        total = torch.stack([loss.reshape(()) for loss in losses]).sum()
        return total / len(losses) if self._reduction == "mean" else total


def _close(watchdog: Watchdog, wire: Wire, links: Sequence[Link]) -> None:
    watchdog.close()
    wire.close()
    for link in links:
        link.let_go()
