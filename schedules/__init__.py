"""The library of schedules: NAME.pipe and its golden NAME.listing."""
