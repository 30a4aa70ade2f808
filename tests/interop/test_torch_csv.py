"""torch's schedules are read as torch means them, and ours are written so that it runs them."""

from dataclasses import replace

import numpy as np
import pytest
from torch.distributed.pipelining._schedule_visualizer import get_schedule_ops

from pipec.compiler import Compiled, Settings, build, certify
from pipec.findings import PipecError
from pipec.interop.torch_csv import read_torch_csv, write_torch_csv
from pipec.program.effects import Kind
from pipec.program.program import Program
from pipec.source import Source
from pipec.verify.certificate import Certificate

SIZES = [(2, 4), (2, 8), (4, 8), (4, 16), (8, 16)]
SEVERAL = ["Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"]
CORRUPT = {
    "InterleavedZeroBubble": [(2, 4), (2, 8)],
    "ZBVZeroBubble": SIZES,
    "DualPipeV": [(4, 8), (4, 16), (8, 16)],
}
"""Where torch 2.13's `defer_pp_recv` lets a RECV take another message; found by running it."""


def certified(target: str, **sizes: int | bool) -> tuple[Compiled, Certificate]:
    compiled = build(target, sizes)
    return compiled, certify(compiled, Settings())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SEVERAL)
def test_what_torch_builds_by_default_is_certified(name: str, size: tuple[int, int]) -> None:
    """torch's own lowering is free of findings, and of deadlock under every topology."""
    _, certificate = certified(f"torch:{name}", P=size[0], M=size[1])
    assert certificate.ok
    assert all(safety.safe for safety in certificate.safety.values())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SEVERAL)
def test_deferred_receives_are_found_out(name: str, size: tuple[int, int]) -> None:
    """With `defer_pp_recv` exactly what computes wrong gradients is called corrupt."""
    _, certificate = certified(f"torch:{name}", P=size[0], M=size[1], defer_recv=True)
    codes = {finding.code for finding in certificate.findings}
    corrupt = size in CORRUPT.get(name, [])
    assert ("corruption" in codes) == corrupt
    assert certificate.safety["directed"].safe == (not corrupt)


def test_the_last_rank_of_torchs_1f1b_is_off_by_one() -> None:
    """The order that torch lists for 1F1B runs a microbatch that does not exist."""
    with pytest.raises(PipecError) as caught:
        build("torch:1F1B", {"P": 4, "M": 8})
    (finding,) = caught.value.findings
    assert finding.message == "rank 3 runs microbatch 8, which does not exist"
    assert finding.hint and "microbatch 0 is never run forward there" in finding.hint
    source = caught.value.source
    assert source and finding.span and source.text[finding.span.start : finding.span.end] == "3F8"


@pytest.mark.parametrize("name", SEVERAL)
def test_an_order_alone_is_lowered(name: str) -> None:
    """A `compute_only` file gives the order that torch has, with our messages, certified."""
    compiled, certificate = certified(f"torch:{name}", P=4, M=8, comms=False)
    assert certificate.ok
    per_rank = [sum(row.peer is None for row in stream) for stream in compiled.program]
    whole = get_schedule_ops(name, 4, 8, num_stages_per_rank=2)
    halves = [
        sum(1 if action.sub_actions is None else 2 for action in rank if action is not None)
        for rank in whole
    ]
    assert per_rank == halves


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("1f1b", {"P": 4, "M": 8}),
        ("zb1p", {"P": 4, "M": 8}),
        ("zbv", {"P": 4, "M": 8}),
        ("interleaved", {"P": 2, "M": 4, "v": 3}),
        ("dualpipev", {"P": 4, "M": 8}),
    ],
)
def test_what_is_written_reads_back(name: str, sizes: dict[str, int]) -> None:
    """Export and import give the same program; what stood inside a pair stands behind it."""
    program = build(name, sizes).program
    again = read_torch_csv(Source("x.csv", write_torch_csv(program)))
    assert isinstance(again, Program)
    for rank in range(program.ranks):
        before, after = program[rank], again[rank]
        assert [row for row in before if row.peer is None] == [
            row for row in after if row.peer is None
        ]
        assert [row for row in before if row.peer is not None] == [
            row for row in after if row.peer is not None
        ]
    if not program.tie.any():
        assert np.array_equal(program.operation, again.operation)


def test_two_flows_are_not_for_torch() -> None:
    """DualPipe holds stages twice, which torch's runtime cannot: said, not written."""
    with pytest.raises(PipecError, match="holds each stage on one rank"):
        write_torch_csv(build("dualpipe", {"P": 4, "M": 8}).program)


def test_launches_cannot_go_out() -> None:
    """torch groups messages as it likes: a program with launches is refused, and says so."""
    program = build("1f1b", {"P": 2, "M": 4}, Settings(grouped=True)).program
    with pytest.raises(PipecError, match="torch decides itself") as caught:
        write_torch_csv(program)
    assert caught.value.findings[0].hint == "export it without `--grouped`"


def test_what_only_tags_keep_apart_cannot_go_out() -> None:
    """torch's messages have no tags: a RECV out of order would take another message."""
    program = build("1f1b", {"P": 2, "M": 2}).program
    receives = np.flatnonzero((program.kind == Kind.RECV) & (program.rank == 1))
    rows = np.arange(len(program))
    rows[receives] = rows[receives[::-1]]
    mixed = replace(program, operation=program.operation[rows])
    with pytest.raises(PipecError, match="torch matches messages by their order"):
        write_torch_csv(mixed)


@pytest.mark.parametrize(
    "text, message",
    [
        ("0F0,1F0\n0F1x\n", "this cell cannot be read"),
        ("0F0,0F1,0B0,0B1\n0F0,0B0\n", "stage 0 runs on rank 0 and on rank 1"),
        ("0F0,0B0\n2F0,2B0\n", "stage 1 is nowhere, but stage 2 is"),
        ("0F0,0RECV_F0,0B0\n1F0,1B0\n", "RECV_F at stage 0 has no other end"),
        ("0F0,0SEND_F0,1RECV_F0,1F0,1B0,0B0\n", "SEND_F at stage 0 goes to its own rank"),
        ("0UNSHARD,0F0,0RESHARD,0B0\n1F0,1B0\n", "computes while its parameters are sharded"),
        ("0UNSHARD,0UNSHARD,0F0,0B0\n1F0,1B0\n", "is unsharded twice"),
    ],
)
def test_a_broken_file_is_explained(text: str, message: str) -> None:
    """A CSV that cannot be a schedule gives a finding with its place, never a traceback."""
    with pytest.raises(PipecError) as caught:
        read_torch_csv(Source("x.csv", text))
    assert any(message in finding.message for finding in caught.value.findings)


def test_a_forward_that_runs_twice_is_no_microbatch_more() -> None:
    """An F that is there twice is one finding, not a schedule of two microbatches."""
    program = read_torch_csv(
        Source("x.csv", "0F0,0F0,0SEND_F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n")
    )
    assert program.placement.flows[0].microbatches == 1
