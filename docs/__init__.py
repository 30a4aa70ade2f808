"""The documentation, installed so that `pipec explain` can quote it."""
