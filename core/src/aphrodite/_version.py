"""The version of aphrodite-core, read by the build and by `aphrodite --version`."""

__version__ = "0.1.0"
