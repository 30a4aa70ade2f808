"""Measured costs: a listener that times and weighs some steps, and the costs file it makes."""

from pipec.runtime.profile.profile import Profile

__all__ = ["Profile"]
