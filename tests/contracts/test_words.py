"""The core knows no vendor: their words stand in plugins, never in core/src."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WORDS = [
    "cuda", "rocm", "hip", "xpu", "tpu", "npu", "neuron", "inferentia",
    "nvidia", "amd", "intel", "nvml", "cudnn", "triton",
]  # fmt: skip
# A word ends where letters and digits end, so that is_cuda and CUDA_HOME are found and "ship" is not.
VENDOR = re.compile(rf"(?<![a-z0-9])({'|'.join(WORDS)})(?![a-z0-9])", re.IGNORECASE)


def test_no_vendor_word_stands_in_the_core(repository: Path) -> None:
    core = repository / "core" / "src"
    found = [
        f"{path.relative_to(repository)}:{number}: {line.strip()}"
        for path in sorted(core.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.is_relative_to(core / "aphrodite" / "testing")  # the kit knows what plugins may be
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if VENDOR.search(line)
    ]
    assert not found, "these belong into a plugin:\n" + "\n".join(found)


@pytest.mark.parametrize("text", ["torch.cuda", "is_cuda", "CUDA_HOME", "an AMD card", "x.hip()"])
def test_a_vendor_word_is_recognised(text: str) -> None:
    assert VENDOR.search(text)


@pytest.mark.parametrize("text", ["ship", "intelligent", "amdahl", "gpu", "cpu", "neurons"])
def test_another_word_is_not(text: str) -> None:
    assert not VENDOR.search(text)
