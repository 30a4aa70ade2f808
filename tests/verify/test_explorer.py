"""The event graph's verdicts are those of trying every interleaving."""

import pytest
from explorer import Explorer, grouped, scrambled

from pipec.program.graph import event_graph
from pipec.program.links import Links
from pipec.verify.deadlock import stuck_events


@pytest.mark.parametrize("launches", [False, True], ids=["single", "grouped"])
@pytest.mark.parametrize("block", range(5))
def test_a_thousand_programs_exhaustively(block: int, launches: bool) -> None:
    """One end state each, with exactly the rows done that the graph says; a hundred a block.

    Half of them issue neighbouring messages in one launch.
    """
    stuck = whole = 0
    for seed in range(1000 * block, 1000 * block + 100):
        program, channels = scrambled(seed)
        program = grouped(program, seed) if launches else program
        explorer = Explorer(program, channels)
        ends = explorer.ends()
        if ends is None:
            continue
        graph = event_graph(program, Links(program), channels)
        never = set(stuck_events(graph).tolist())
        expected = {row for row in range(len(program)) if int(graph.event[row]) not in never}
        done = [explorer.completed(end) for end in ends]
        if channels.topology == "tagged":  # there a RECV is no event of its own on the wire
            assert all((len(one) == len(program)) == (not never) for one in done)
        else:
            assert done == [expected]
        stuck, whole = stuck + bool(never), whole + (not never)
    assert stuck > 5 and whole > 5
