"""The waist: instructions as a table, effects, the event graph, the listing and the plan file."""
