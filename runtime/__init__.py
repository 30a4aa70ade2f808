"""The executor: runs a verified plan with torch.distributed (imported as `pipec.runtime`)."""

from pipec.runtime.errors import PipelineError
from pipec.runtime.listener import Listener, Point
from pipec.runtime.pipeline import Pipeline
from pipec.runtime.profile import Profile
from pipec.runtime.specs import TensorSpec
from pipec.runtime.trace import Trace, measured_costs, measured_timeline

__all__ = [
    "Listener",
    "Pipeline",
    "PipelineError",
    "Point",
    "Profile",
    "TensorSpec",
    "Trace",
    "measured_costs",
    "measured_timeline",
]
