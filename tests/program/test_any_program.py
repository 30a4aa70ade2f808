"""Programs that make no sense are verified and shown like any other: findings, never an error."""

import json
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs

from pipec.lower.forward_only import forward_only
from pipec.program.costs import Costs
from pipec.program.graph import TOPOLOGIES, Channels
from pipec.program.listing import listing
from pipec.program.memory import Memory
from pipec.program.program import Program, Witness
from pipec.program.reading import parse_listing
from pipec.source import Source
from pipec.verify.certificate import verify
from pipec.verify.json import certificate_json
from pipec.view.findings import findings_text
from pipec.view.json import order_json
from pipec.view.terminal import order_text

CHANNELS = st.builds(Channels, st.sampled_from(TOPOLOGIES), st.integers(0, 3))


@settings(deadline=None, max_examples=400)
@given(programs(), CHANNELS)
def test_any_program_has_a_verdict(program: Program, channels: Channels) -> None:
    """Random instructions are certified or have findings with places that exist."""
    source = Source("x.listing", listing(program))
    program = parse_listing(source)
    certificate = verify(program, Costs(), Memory(), channels)
    assert certificate.ok == (certificate.report is not None)
    for finding in certificate.findings:
        for place in finding.places:
            row = int(program.start[place.rank]) + place.index
            assert row < program.start[place.rank + 1]
    assert findings_text(certificate.findings, source, program) is not None
    assert json.loads(json.dumps(certificate_json(certificate, source)))["ok"] == certificate.ok


@settings(deadline=None, max_examples=100)
@given(programs())
def test_any_program_can_be_shown(program: Program) -> None:
    """The order as text and as JSON, and the forward part, of random instructions."""
    assert len(order_text(program).splitlines()) == program.ranks
    assert sorted(order_json(program), key=int) == [str(rank) for rank in range(program.ranks)]
    part = forward_only(program)
    assert len(part) <= len(program) and not part.tie[part.compute].any()
    assert parse_listing(Source("x", listing(part))).same(part)


@settings(deadline=None, max_examples=200)
@given(programs(), CHANNELS, st.data())
def test_a_witness_that_lies_is_found_out(
    program: Program, channels: Channels, data: st.DataObject
) -> None:
    """Whatever a witness claims of whatever program, the certificate is the one without it."""
    count = len(program)
    moment = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    end = data.draw(st.lists(st.integers(-1, 9), min_size=count, max_size=count))
    lied = replace(program, witness=Witness(np.array(moment, int), np.array(end, int)))
    honest = verify(program, Costs(), Memory(), channels)
    assert verify(lied, Costs(), Memory(), channels) == honest
