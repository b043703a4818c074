"""The engine: one breath a step (schedule, execute, update), and what wraps it for callers."""
