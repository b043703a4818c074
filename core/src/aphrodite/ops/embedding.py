"""Selecting rows: embeddings and the tokens whose logits are wanted."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aphrodite.ops.numeric import generator, matrix
from aphrodite.ops.op import Example, op
from aphrodite.platform.dtypes import torch_dtype
from aphrodite.platform.layout import PLAIN, Packed


def _examples(dtype: str, seed: int) -> Iterator[Example]:
    g = generator(seed)
    kind = torch_dtype(dtype)
    for n, m, h in ((0, 5, 8), (1, 1, 1), (9, 50, 100)):
        src = torch.randn(m, h, generator=g).to(kind)
        idx = torch.randint(-1, m, (n,), generator=g)
        for form in (src, Packed(src, PLAIN, (m, h), dtype)):
            args = {"out": torch.empty(n, h, dtype=kind), "src": form, "idx": idx}
            yield Example(f"n={n} m={m} H={h} {type(form).__name__}", args)


@op("gather_rows@1", "out[n,H] A!, src[m,H] Table A, idx[n] i64", examples=_examples, exact=True)
def gather_rows(out: torch.Tensor, src: Packed | torch.Tensor, idx: torch.Tensor) -> None:
    """out[i] <- src[idx[i]]; a negative index takes row 0 (an inert token's row is never read)."""
    torch.index_select(matrix(src), 0, idx.clamp(min=0), out=out)
