"""Costs and memory -> schedules: what is shortest at every peak, found by search and proved."""
