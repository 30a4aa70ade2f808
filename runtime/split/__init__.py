"""A stage's backward split into B and W (imported as `pipec.runtime.split`).

split       Split: F, B and W of a stage
tap         the swapped parameter class; the table of what is covered
scope       what the taps see while they are on
leaf        a parameter, its alias, and views of it as targets of a gradient
product, embedding, convolution, grouped    the covered operations
composite   functions of torch that must be opened to see the operations inside
record      what a microbatch owes to W, and W itself
autocast, internals, errors    autocast by hand; private torch; the error raised
"""

from .errors import SplitError
from .record import Record
from .split import Split

__all__ = ["Record", "Split", "SplitError"]
