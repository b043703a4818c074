"""HTTP: one port, several dialects over the same internals. Importing this loads no web package."""
