"""Reading config.json: every field with its type, and errors that name the file, the field and what was expected."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aphrodite.errors import ModelError
from aphrodite.files import FileError, read_file

_Kind = TypeVar("_Kind", int, float, bool, str)
_Number = TypeVar("_Number", int, float)
_REQUIRED: Any = object()
_MAX_CONFIG_BYTES = 16 << 20
_MAX_INT = 2**31 - 1
_BEYOND_FLOATS = 1 << 1023
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # how JSON spells half of a character


@dataclass(frozen=True)
class HFConfig:
    """A config.json. `where` is its path (or a part of it), for messages."""

    data: Mapping[str, Any]
    where: str

    @classmethod
    def read(cls, folder: Path) -> HFConfig:
        """The folder's config.json. ModelError if it is absent, too large or not a JSON object."""
        return cls(read_json(folder / "config.json"), str(folder / "config.json"))

    def get(self, name: str, kind: type[_Kind], default: _Kind = _REQUIRED) -> _Kind:
        """A field of that type (an integer passes for a float). null and absent are the same."""
        value = self.data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ModelError(f"{self.where}: the field {name!r} is missing", subject=name)
            return default
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < _BEYOND_FLOATS else math.inf
        if type(value) is not kind:
            raise ModelError(f"{self.where}: the field {name!r} must be {kind.__name__}, got {value!r}", subject=name)
        return value

    def size(self, name: str, default: int = _REQUIRED, *, most: int = 1 << 24) -> int:
        """A field that counts something: an integer from 1 to `most`, beyond which no network lies."""
        value = self.get(name, int, default)
        if not 1 <= value <= most:
            legal = "at least 1" if value < 1 else f"at most {most}"
            raise ModelError(f"{self.where}: the field {name!r} must be {legal}, got {value}", subject=name)
        return value

    def positive(self, name: str, default: float = _REQUIRED) -> float:
        """A field that scales something: a finite number above 0."""
        value = self.get(name, float, default)
        if not 0 < value < math.inf:
            raise ModelError(f"{self.where}: the field {name!r} must be finite and above 0, got {value}", subject=name)
        return value

    def bound(self, name: str, kind: type[_Number], default: _Number) -> _Number:
        """A field that bounds something: above 0, or 0 where the config says null. Absent, it is the default. Integers
        have 31 bits: kernels take no others."""
        if name in self.data and self.data[name] is None:
            return kind(0)
        value = self.get(name, kind, default)
        if value != default and not 0 < value < math.inf:
            raise ModelError(
                f"{self.where}: the field {name!r} must be finite and above 0, or null, got {value}", subject=name
            )
        if kind is int and value > _MAX_INT:
            raise ModelError(
                f"{self.where}: the field {name!r} must be at most {_MAX_INT}, or null, got {value}", subject=name
            )
        return value

    def part(self, name: str) -> HFConfig | None:
        """A field that is an object, None if absent."""
        value = self.data.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise ModelError(f"{self.where}: the field {name!r} must be an object, got {value!r}", subject=name)
        return HFConfig(value, f"{self.where}: {name}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of modest size. ModelError names the file."""
    try:
        text = read_file(path, _MAX_CONFIG_BYTES)
        data = json.loads(text.decode())
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except FileError as error:
        raise ModelError(f"{path} {error}", subject=str(path)) from None
    except UnicodeEncodeError:
        raise ModelError(f"{path} holds a lone surrogate, which is no text", subject=str(path)) from None
    except FileNotFoundError:
        raise ModelError(
            f"{path} does not exist: the folder is not a Hugging Face checkpoint", subject=str(path)
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, a number too long
        raise ModelError(f"{path} cannot be read as JSON: {error}", subject=str(path)) from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(data).__name__}", subject=str(path))
    return data
