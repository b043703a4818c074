"""Headers of safetensors files by somebody who means ill: refused before a device is touched, naming the tensor."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aphrodite.config.engine import config_from
from aphrodite.engine.remote.process import assembled
from aphrodite.errors import CheckpointError
from aphrodite.types.progress import NoProgress
from aphrodite.weights.safetensors import SafetensorsSource
from tests.e2e.test_loading_faults import header_of, write_file
from tests.server.process import running
from tests.support.checkpoints import Checkpoints
from tests.support.processor import children_s

LIMIT_S = 2.0
NORM = "model.norm.weight"
Header = dict[str, Any]


def edited(edit: Callable[[Header], object]) -> Callable[[Path], None]:
    """Change the header, and nothing else."""

    def spoil(path: Path) -> None:
        header, data = header_of(path)
        edit(header)
        write_file(path, json.dumps(header).encode(), data)

    return spoil


def of_length(size: int, end: int = 0) -> Callable[[Path], None]:
    """A header that says it has this length, in a file that is as long."""

    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            file.write(struct.pack("<Q", size))
            file.truncate(max(end, path.stat().st_size))

    return spoil


def last(header: Header) -> Header:
    """The entry of the tensor that comes last in the data."""
    found: Header = max((e for name, e in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])
    return found


def moved(entry: Header, by: int) -> None:
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


def duplicate(path: Path) -> None:
    header, data = header_of(path)
    write_file(path, f'{{"{NORM}": {json.dumps(header[NORM])}, {json.dumps(header)[1:]}'.encode(), data)


def deep(path: Path) -> None:
    header, data = header_of(path)
    text = json.dumps(header)
    write_file(path, f'{{"__metadata__": {"[" * 10_000}{"]" * 10_000}, {text[1:]}'.encode(), data)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)


def empties(header: Header, count: int = 100_000) -> None:
    end = last(header)["data_offsets"][1]
    header |= {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for i in range(count)}


HOSTILE: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "length 2^63": (of_length(2**63), None),
    "200 MB": (of_length(200 << 20, 201 << 20), None),
    "overlap": (edited(lambda h: h[NORM].update(data_offsets=[0, 256])), "model."),
    "hole": (edited(lambda h: [moved(h[NORM], 0), h[NORM].update(shape=[32], data_offsets=[
        h[NORM]["data_offsets"][0] + 128, h[NORM]["data_offsets"][1]])]), NORM),
    "beyond": (edited(lambda h: moved(h[NORM], 4096)), NORM),
    "overflow": (edited(lambda h: h[NORM].update(shape=[2**62, 2**62, 16])), NORM),
    "wraps around": (edited(lambda h: h[NORM].update(shape=[2**32, 2**32, 64])), NORM),
    "negative": (edited(lambda h: h[NORM].update(data_offsets=[-256, 0])), NORM),
    "negative size": (edited(lambda h: h[NORM].update(shape=[-8, -8])), NORM),
    "many axes": (edited(lambda h: h[NORM].update(shape=[2**62] * 50_000)), NORM),
    "duplicate keys": (duplicate, NORM),
    "deep metadata": (deep, None),
    "bad dtype": (edited(lambda h: h[NORM].update(dtype="X17\x1b[31m")), NORM),
    "not JSON": (lambda path: write_file(path, b"{'a': 1}", b""), None),
    "truncated": (cut, "model."),
    "100,000 empty ones": (edited(empties), None),
    "50,000 empty ones": (edited(lambda h: empties(h, 50_000)), "x0"),
    "another shape": (edited(lambda h: h[NORM].update(shape=[8, 8])), NORM),
    "another type": (edited(lambda h: h[NORM].update(dtype="I32")), NORM),
    "a name of 1 MiB": (edited(lambda h: h.update({"y" * (1 << 20): h.pop(NORM)})), NORM),
}  # fmt: skip


@pytest.fixture(scope="module")
def original(checkpoints: Checkpoints) -> Path:
    found = checkpoints.llama(seed=20, num_hidden_layers=1)
    header, _ = header_of(found / "model.safetensors")
    assert last(header) is header[NORM], "what the faults above count on"
    return found


@pytest.fixture
def folder(original: Path, checkpoints: Checkpoints, tmp_path: Path) -> Path:
    return checkpoints.copy(original, tmp_path / "model")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_before_a_device_is_touched(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[Any] = []
    monkeypatch.setattr("aphrodite.blueprint.make_platform", touched.append)
    spoil, tensor = HOSTILE[name]
    path = folder / "model.safetensors"
    spoil(path)
    began = time.process_time()  # others may want the machine, too
    with pytest.raises(CheckpointError) as caught:
        assembled(config_from({"model": str(folder), "device": "cpu"}), NoProgress(), lambda card: None)
    took = time.process_time() - began
    said = str(caught.value)
    print(said)
    assert took < LIMIT_S and caught.value.exit_code == 4 and not touched
    assert str(folder) in said and (tensor is None or tensor in said)
    assert len(said) < 1000 and said.isprintable()
    if name not in ("50,000 empty ones", "a name of 1 MiB"):  # of which the whole checkpoint is at fault
        assert str(path) in said


@pytest.mark.parametrize("name", ["beyond", "200 MB"])
def test_run_ends_with_one_line_and_exit_code_4(name: str, folder: Path, tmp_path: Path) -> None:
    flags = ("--device", "cpu", "--log-format", "text")
    began = children_s()
    with running(folder, tmp_path / "other", "--device", "nothing", wait=False) as server:
        assert server.popen.wait(60) == 2  # the imports are no part of what is timed
    trivial = children_s() - began
    spoil, tensor = HOSTILE[name]
    spoil(folder / "model.safetensors")
    began = children_s()
    with running(folder, tmp_path / "log", *flags, wait=False) as server:
        assert server.popen.wait(60) == 4
    took = children_s() - began
    lines = [line for line in server.log.read_text().splitlines() if str(folder / "model.safetensors") in line]
    print(f"{took:.2f} s, of which {trivial:.2f} s for nothing", *lines)
    assert took - trivial < LIMIT_S
    assert len(lines) == 1 and (tensor is None or tensor in lines[0])
    assert "Traceback" not in server.log.read_text() and "loading weights" not in server.log.read_text()


def test_refused_files_are_let_go_of(folder: Path) -> None:
    spoil, _ = HOSTILE["beyond"]
    spoil(folder / "model.safetensors")
    config = config_from({"model": str(folder), "device": "cpu"})

    def refuse() -> None:
        with pytest.raises(CheckpointError):
            assembled(config, NoProgress(), lambda card: None)

    refuse()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(10):
        refuse()
    assert len(os.listdir("/proc/self/fd")) <= files and threading.active_count() <= threads


def test_whatever_a_header_becomes_it_is_read_or_refused(folder: Path) -> None:
    """300 of them: bytes changed, cut out, doubled, numbers and brackets put in."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = folder / "model.safetensors"
    original = path.read_bytes()
    (size,) = struct.unpack("<Q", original[:8])
    pieces = [b"-1", b"18446744073709551616", b"[", b"]", b"{", b"}", b'"', b"\\", b"\xff", b"null", b"1e9", b","]
    refusals: list[str] = []
    for _ in range(300):
        header = bytearray(original[8 : 8 + size])
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(header))
            how = rng.randrange(4)
            if how == 0:
                header[place] = rng.randrange(256)
            elif how == 1:
                del header[place : place + rng.randrange(1, 40)]
            elif how == 2:
                header[place:place] = header[place : place + 60]
            else:
                header[place:place] = rng.choice(pieces)
        length = size if rng.random() < 0.2 else len(header)
        path.write_bytes(struct.pack("<Q", length) + header + original[8 + size :])
        began = time.process_time()
        try:
            infos = SafetensorsSource(folder).infos()
        except CheckpointError as error:
            refusals.append(str(error))
        else:
            end = path.stat().st_size
            assert all(math.prod(info.shape) <= end for info in infos.values())
        assert time.process_time() - began < LIMIT_S
    assert len(refusals) > 100 and all(str(path) in said for said in refusals)
