"""Every error a user can meet, as one tree.

    AphroditeError
    ├── UsageError                 exit 2   a parameter, prompt or option that cannot be used
    │   ├── ShapeError             exit 2   numbers that disagree
    │   └── ContextLengthError     exit 2   a prompt that is too long for the model or its cache
    ├── CapacityError              exit 3   it does not fit in memory
    ├── ModelError                 exit 4   a model that cannot be loaded
    │   └── CheckpointError        exit 4   one of its files or tensors is wrong
    ├── PluginError                exit 1   a plugin that breaks the contract
    ├── KernelError                exit 1   no kernel, or a kernel asked for by name, can serve a site
    ├── DeviceError                exit 1   the device failed while running
    └── EngineDied                 exit 1   the process that an engine lives in has ended

Each carries the object at fault in `subject`. A message says what was given, what was expected and what to do.
"""

from __future__ import annotations


class AphroditeError(Exception):
    """Base of all errors raised on purpose. `exit_code` is the command line's."""

    exit_code = 1

    def __init__(self, message: str, *, subject: object = None) -> None:
        super().__init__(message)
        self.subject = subject


class UsageError(AphroditeError, ValueError):
    """A parameter, prompt or option that cannot be used; `subject` is its name."""

    exit_code = 2


class ShapeError(UsageError):
    """Two shapes, or a shape and a rule, that disagree."""


class ContextLengthError(UsageError):
    """A prompt that leaves no room for an answer; `subject` is its name."""


class CapacityError(AphroditeError):
    """It does not fit: `subject` names what (weights, KV cache, sequence)."""

    exit_code = 3


class ModelError(AphroditeError):
    """A model that cannot be found, read or run; `subject` is its folder or name."""

    exit_code = 4


class CheckpointError(ModelError):
    """A file or tensor of a checkpoint that is not what its config promises; `subject` is the file or tensor."""


class PluginError(AphroditeError):
    """A plugin that breaks the contract; `subject` is its name."""


class KernelError(AphroditeError):
    """No kernel can serve a site, or one asked for by name cannot; `subject` is the site or rule."""


class DeviceError(AphroditeError):
    """The device failed while running a step; `subject` is the device."""


class EngineDied(AphroditeError):
    """The process that an engine lives in has ended, and its requests with it; `subject` is its exit code, negative for
    a signal."""
