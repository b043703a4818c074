"""Finding plugins by entry point, each on its own, and the registry they fill."""
