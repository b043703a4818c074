"""A device whose parts fail while an engine is built, or give what the contract does not promise, is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM
from aphrodite.blueprint import make_platform
from aphrodite.errors import AphroditeError, DeviceError, KernelError
from tests.support.checkpoints import Checkpoints
from tests.support.devices import DEVICES, require


class Part:
    """A part of a platform of which one method fails, from the n-th time on that it is called."""

    def __init__(self, inner: Any, method: str, number: int, act: Callable[[], Any]) -> None:
        self._inner, self._method, self._number, self._act = inner, method, number, act
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._failing if name == self._method else found

    def _failing(self, *args: Any, **more: Any) -> Any:
        self._count += 1
        if self._count >= self._number:
            return self._act()
        return getattr(self._inner, self._method)(*args, **more)


def raises(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


FAULTS: dict[str, tuple[str, str, int, Callable[[], Any], str]] = {
    "empty raises": ("memory", "empty", 2, raises(RuntimeError("bus\nerror")), "RuntimeError: bus error"),
    "zeros ends the process": ("memory", "zeros", 1, raises(SystemExit(3)), "SystemExit: 3"),
    "no arena": ("memory", "arena", 1, raises(KeyError("arena")), "KeyError: 'arena'"),
    "a tensor as a cache": ("memory", "allocate_kv", 2, lambda: [0], "must return a KVView, got list"),
    "nothing as a cache": ("memory", "allocate_kv", 1, lambda: None, "must return a KVView, got NoneType"),
    "upload raises": ("memory", "upload", 1, raises(ValueError()), "ValueError"),
    "upload is interrupted": ("memory", "upload", 2, raises(KeyboardInterrupt()), "KeyboardInterrupt"),
    "no memory is told": ("device", "memory", 1, lambda: None, "NoneType"),
    "no memory is told later": ("device", "memory", 2, raises(OSError("driver")), "OSError: driver"),
    "no thread": ("device", "activate", 1, raises(NotImplementedError()), "NotImplementedError"),
    "no stream": ("device", "stream", 1, raises(AssertionError("stream")), "AssertionError: stream"),
    "no event": ("device", "event", 1, lambda: None, "NoneType"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_part_that_fails_while_an_engine_is_built_is_told_with_its_device(
    device: str, name: str, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, method, number, act, said = FAULTS[name]
    folder: Path = checkpoints.llama(seed=31, num_hidden_layers=2)
    closed: list[str] = []

    def platform(entry: Any) -> Any:
        found = make_platform(entry)
        close = found.device.close
        monkeypatch.setattr(type(found.device), "close", lambda self: (closed.append(device), close()))
        return replace(found, **{part: Part(getattr(found, part), method, number, act)})

    monkeypatch.setattr("aphrodite.blueprint.make_platform", platform)
    with pytest.raises(AphroditeError) as caught:
        LLM(str(folder), device=require(device), dtype="float32", num_blocks=16)
    message = str(caught.value)
    assert isinstance(caught.value, (DeviceError, KernelError)) and caught.value.exit_code == 1
    assert said in message and "\n" not in message
    assert f"device {device!r} of plugin {device!r}" in message
    assert closed
