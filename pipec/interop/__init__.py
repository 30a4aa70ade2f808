"""Other systems' schedules, in and out: one file per system."""
