"""Do tokens meet in attention and nowhere else? Asked of the loaded modules, since their code cannot be read.

Packed tokens of many sequences stand side by side, in no order of their own. That is right only if all else follows
from a token and its position: a convolution over neighbours, a recurrent state, attention of a module's own, or
positions counted from the first column would mix requests, and give wrong text without a sign.
"""

from __future__ import annotations

from typing import Any

import torch

from aphrodite.models.fallback.find import Found
from aphrodite.models.fallback.interface import LoadedModel
from aphrodite.models.fallback.probe import run_modules

_NUM_TOKENS = 12
_MOST_POSITION = 48
# How far two results of one token may lie apart, of its largest logit: rounding depends on what else is in a product.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_MOST_OFF = 0.25  # of the tokens: a rounding may send one to another expert, mixing changes them all


def require_alone(found: Found, loaded: LoadedModel, *, vocab_size: int, max_len: int) -> None:
    """ModelError unless a token's logits stay what they are when its neighbours and its place among them change, and
    when the modules count positions themselves; with attention of each token to itself alone."""
    embedding = loaded.model.get_input_embeddings().weight  # type: ignore[operator]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(min(vocab_size, embedding.shape[0]), (2, _NUM_TOKENS), generator=draw)
    positions = torch.randint(min(max_len, _MOST_POSITION), (2, _NUM_TOKENS), generator=draw)
    kept, place = (torch.randperm(_NUM_TOKENS, generator=draw)[: _NUM_TOKENS // 2] for _ in range(2))
    ids[1, place], positions[1, place] = ids[0, kept], positions[0, kept]  # half of the first row, elsewhere
    every, limit = torch.arange(_NUM_TOKENS), _TOLERANCE.get(embedding.dtype, 1e-4)

    def logits(row: int, positions: torch.Tensor | None, rows: torch.Tensor | None) -> torch.Tensor:
        inputs = [None if one is None else one.to(embedding.device) for one in (ids[row], positions, rows)]
        with loaded.line.to(_itself):
            return run_modules(loaded.model, *inputs).float().cpu()  # type: ignore[arg-type]

    if _differ(logits(0, positions[0], every)[kept], logits(1, positions[1], place), limit):
        raise found.refuse(
            "more of a token's neighbours than attention gives: state, a convolution or attention of their own, or "
            "positions that they count themselves (a token's logits changed with the tokens beside it)"
        )
    count = min(max_len, _NUM_TOKENS)
    ids = ids[:, :count]
    if _differ(logits(0, None, None), logits(0, every[:count], every[:count]), limit):
        raise found.refuse("positions that do not begin at 0, or depend on the text")


def _differ(first: torch.Tensor, second: torch.Tensor, limit: float) -> bool:
    """Whether logits [n, V] of the same tokens are others, by more than rounding."""
    size = first.abs().amax(-1).clamp(min=1e-6)
    off = ~((first - second).abs().amax(-1) / size <= limit)  # NaN is off, too
    return int(off.sum()) > _MOST_OFF * len(first)


def _itself(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> torch.Tensor:
    """Attention over one key gives its value."""
    return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2).contiguous()
