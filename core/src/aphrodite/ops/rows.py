"""State of running requests on the device, and the inputs of a step that are built from it.

The last row of the state is spare: whatever concerns no request is written there.
"""

from __future__ import annotations

import torch

from aphrodite.ops.op import op
from aphrodite.platform.layout import Rows


def or_spare(rows: Rows, index: torch.Tensor) -> torch.Tensor:
    """Row numbers as indices, the spare row for negative ones."""
    return torch.where(index < 0, rows.state.shape[0] - 1, index).long()


@op("write_rows@1", "rows Rows!, index[U] i32, values[U] i32", exact=True)
def write_rows(rows: Rows, index: torch.Tensor, values: torch.Tensor) -> None:
    """state.flat[index] <- values: the host's differences. Indices are distinct but for -1, which is dropped."""
    flat = rows.state.view(-1)
    flat[torch.where(index < 0, flat.shape[0] - 1, index).long()] = values


@op(
    "step_inputs@1",
    "token_ids[T] i64!, positions[T] i64!, row_of_token[T] i32!, cu_q[S+1] i32!, seq_lens[S] i32!, "
    "logit_rows[R] i64!, draw_rows[R] i32!, forced[R] i64!, rows Rows, seq_rows[S] i32, num_new[S] i32, "
    "num_logits[S] i32, draws[S] i32",
    exact=True,
)
def step_inputs(
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    row_of_token: torch.Tensor,
    cu_q: torch.Tensor,
    seq_lens: torch.Tensor,
    logit_rows: torch.Tensor,
    draw_rows: torch.Tensor,
    forced: torch.Tensor,
    rows: Rows,
    seq_rows: torch.Tensor,
    num_new: torch.Tensor,
    num_logits: torch.Tensor,
    draws: torch.Tensor,
) -> None:
    """What the step computes on, from the device's own rows.

    In: sequence s of the step is row seq_rows[s] (-1: padding), takes num_new[s] tokens from its num_computed on, wants
    the logits of the last num_logits[s] of them, and draws[s] is 1 if a token is drawn from the last.
    Out: ids, positions and rows of the packed tokens; cu_q, seq_lens as attn_paged takes them; logit_rows, the packed
    tokens whose logits are wanted; of each, draw_rows is its row if a token is drawn there, else -1, and forced is the
    known token that follows it, or -1. Padding and tokens of value -1 get row -1: they are inert.
    """
    if seq_rows.shape[0] == 0:
        for inert in (token_ids, row_of_token, draw_rows, forced):
            inert.fill_(-1)
        for empty in (positions, cu_q, logit_rows):
            empty.zero_()
        return
    device = rows.state.device
    row = or_spare(rows, seq_rows)
    computed, known = rows.view("num_computed")[row], rows.view("num_tokens")[row]
    cu_q[:1].zero_()  # not cu_q[0] = 0, which copies from the host
    torch.cumsum(num_new, 0, dtype=torch.int32, out=cu_q[1:])
    seq_lens.copy_(torch.where(seq_rows < 0, 0, computed + num_new))

    seq, rank, real = _spread(cu_q, token_ids.shape[0], device)
    place = torch.where(real, computed[seq] + rank, 0).long()
    token = rows.matrix("tokens")[row[seq], place].long()
    alive = real & (token >= 0) & (seq_rows[seq] >= 0)
    token_ids.copy_(torch.where(alive, token, -1))
    positions.copy_(torch.where(alive, place, 0))
    row_of_token.copy_(torch.where(alive, seq_rows[seq], -1))

    cu_logits = torch.zeros_like(cu_q)
    torch.cumsum(num_logits, 0, dtype=torch.int32, out=cu_logits[1:])
    seq, rank, real = _spread(cu_logits, logit_rows.shape[0], device)
    offset = num_new[seq] - num_logits[seq] + rank  # among the sequence's new tokens
    logit_rows.copy_(torch.where(real, cu_q[seq] + offset, 0))
    drawn = real & (draws[seq] > 0) & (rank == num_logits[seq] - 1)
    draw_rows.copy_(torch.where(drawn, seq_rows[seq], -1))
    follower = (computed[seq] + offset + 1).long()
    follows = real & ~drawn & (follower < known[seq])
    follower = torch.where(follows, follower, 0)
    forced.copy_(torch.where(follows, rows.matrix("tokens")[row[seq], follower].long(), -1))


def _spread(
    cumulated: torch.Tensor, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each of `size` packed items: its sequence, its rank there, and whether it is one at all (no padding)."""
    item = torch.arange(size, device=device, dtype=torch.int32)
    seq = torch.searchsorted(cumulated[1:].contiguous(), item, right=True)
    real = seq < cumulated.shape[0] - 1
    seq = torch.where(real, seq, 0)
    return seq, item - cumulated[seq], real


@op(
    "table_positions@1",
    "out[T] i64!, positions[T] i64, row_of_token[T] i32, rows Rows, original: int, stride: int",
    exact=True,
)
def table_positions(
    out: torch.Tensor,
    positions: torch.Tensor,
    row_of_token: torch.Tensor,
    rows: Rows,
    original: int,
    stride: int,
) -> None:
    """Where tokens stand in a rotary table of two parts, for sequences of up to `original` tokens and for longer ones.

    out <- position, plus `stride` (the first part's length) if the token's row holds more than `original` tokens.
    """
    longer = rows.view("num_tokens")[or_spare(rows, row_of_token)] > original
    out.copy_(positions + torch.where(longer & (row_of_token >= 0), stride, 0))


@op(
    "step_slots@1",
    "slots[T] i64!, tables[S,B] i32!, rows Rows, seq_rows[S] i32, row_of_token[T] i32, positions[T] i64, "
    "group: int, block_size: int",
    exact=True,
)
def step_slots(
    slots: torch.Tensor,
    tables: torch.Tensor,
    rows: Rows,
    seq_rows: torch.Tensor,
    row_of_token: torch.Tensor,
    positions: torch.Tensor,
    group: int,
    block_size: int,
) -> None:
    """Where one cache group keeps the step's tokens: slots (block * block_size + offset, -1 for inert tokens) and the
    block table of each sequence (zeros for padding)."""
    table = rows.matrix(f"table{group}")
    tables.copy_(torch.where(seq_rows[:, None] < 0, 0, table[or_spare(rows, seq_rows)]))
    block = table[or_spare(rows, row_of_token), positions // block_size].long()
    slots.copy_(torch.where(row_of_token < 0, -1, block * block_size + positions % block_size))


@op(
    "draw_inputs@1",
    "temperature[R] f32!, seed[R] i64!, position[R] i64!, child[R] i32!, rows Rows, draw_rows[R] i32",
    exact=True,
)
def draw_inputs(
    temperature: torch.Tensor,
    seed: torch.Tensor,
    position: torch.Tensor,
    child: torch.Tensor,
    rows: Rows,
    draw_rows: torch.Tensor,
) -> None:
    """Each draw's own parameters, and the position its token will have in the sequence."""
    row = or_spare(rows, draw_rows)
    temperature.copy_(torch.where(draw_rows < 0, 0.0, rows.view("temperature")[row]))
    seed.copy_(rows.view("seed")[row])
    position.copy_(rows.view("num_tokens")[row])
    child.copy_(rows.view("child")[row])


@op(
    "draw_limits@1",
    "top_k[R] i32!, top_p[R] f32!, min_p[R] f32!, rows Rows, draw_rows[R] i32",
    exact=True,
)
def draw_limits(
    top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor, rows: Rows, draw_rows: torch.Tensor
) -> None:
    """How far each draw's distribution is truncated; 0, 1, 0 where nothing is drawn."""
    row = or_spare(rows, draw_rows)
    for out, name, off in ((top_k, "top_k", 0), (top_p, "top_p", 1.0), (min_p, "min_p", 0.0)):
        out.copy_(torch.where(draw_rows < 0, off, rows.view(name)[row]))


@op("commit_rows@1", "rows Rows!, ids[R] i64, draw_rows[R] i32, seq_rows[S] i32, num_new[S] i32", exact=True)
def commit_rows(
    rows: Rows, ids: torch.Tensor, draw_rows: torch.Tensor, seq_rows: torch.Tensor, num_new: torch.Tensor
) -> None:
    """End of a step: num_computed grows by num_new, drawn ids are appended. An id of -1 makes its row inert."""
    rows.view("num_computed").index_add_(0, or_spare(rows, seq_rows), num_new)
    row = or_spare(rows, draw_rows)
    end = torch.where(draw_rows < 0, 0, rows.view("num_tokens")[row]).long()
    rows.matrix("tokens")[row, end] = ids.int()
    rows.view("num_tokens").index_add_(0, row, torch.ones_like(draw_rows))
