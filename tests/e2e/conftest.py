"""Checkpoints and devices for end-to-end tests."""

from tests.support.fixtures import checkpoints, device, one_thread

__all__ = ["checkpoints", "device", "one_thread"]
