"""Schedule -> order: sizes bound, programs of all ranks expanded, the order checked to be whole."""
