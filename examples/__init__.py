"""Examples, also run by `pipec run`."""
