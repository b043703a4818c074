"""Checkpoints and devices for the tests of models."""

from tests.support.fixtures import checkpoints, device, one_thread, reference, unlike_pools

__all__ = ["checkpoints", "device", "one_thread", "reference", "unlike_pools"]
