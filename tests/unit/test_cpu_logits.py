"""The CPU plugin's edits and penalties, by all that is asked of the operations' own forms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from aphrodite.ops.op import Op
from aphrodite.platform.layout import Rows
from aphrodite_cpu.logits import LOGITS
from tests.unit.ops import test_logits as same
from tests.unit.ops.test_logits import *  # noqa: F403  # every test there, run on these kernels

KERNELS = {kernel.op: kernel.fn for kernel in LOGITS}


def on_cpu(op: Op, logits: torch.Tensor, rows: Rows, draw_rows: list[int], **host: int) -> torch.Tensor:
    out = torch.full(logits.shape, 99.0, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    before, kernel = rows.state.clone(), KERNELS[op.name]
    assert kernel is not None
    kernel(out, logits, rows, torch.tensor(draw_rows, dtype=torch.int32))
    assert torch.equal(rows.state, before), "the rows are read only"
    return out


@pytest.fixture(scope="module", autouse=True)
def kernels_in_place_of_forms() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same, "run", on_cpu)
        yield
