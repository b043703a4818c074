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

Each carries the object at fault in `subject`. A message says what was given, what was expected and what to do. It is
one line of bounded length without control characters, whatever it quotes: a file's field, another's exception.
"""

from __future__ import annotations

import re
import threading

_LINE_END = re.compile(r"[ \t\r]*\n\s*")
_MOST_CHARS = 2000  # of a message; of a longer one its middle is left out


class AphroditeError(Exception):
    """Base of all errors raised on purpose. `exit_code` is the command line's."""

    exit_code = 1

    def __init__(self, message: str, *, subject: object = None) -> None:
        super().__init__(one_line(message))
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


def told(error: BaseException) -> str:
    """What an exception that is not ours says, in one line: its class, and its text if it has any."""
    kind = type(error).__name__
    try:
        text = one_line(str(error).strip())
    except Exception:  # one that cannot even be printed
        text = ""
    return f"{kind}: {text}" if text else kind


def is_interrupt(error: BaseException) -> bool:
    """Whether it is the user who breaks off. Python tells of Ctrl-C in the main thread alone: elsewhere it is the doing
    of whoever's code runs there."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def one_line(text: str) -> str:
    """A text as a message may have it: on one line, what is not printable escaped, and a long middle left out."""
    if len(text) > _MOST_CHARS:
        half = _MOST_CHARS // 2
        text = f"{text[:half]} ... ({len(text) - 2 * half} characters more) ... {text[-half:]}"
    if text.isprintable():
        return text
    text = _LINE_END.sub(" ", text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
