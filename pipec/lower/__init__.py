"""Order -> program."""
