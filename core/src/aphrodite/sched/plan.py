"""What one step computes, as it is put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aphrodite.kv.manager import Change
from aphrodite.sched.rows import Bool, Members, Rows
from aphrodite.types.request import Sequence
from aphrodite.types.step import NewBlocks, NewRow, SchedulerOutput, ZeroBlocks


@dataclass(frozen=True)
class Budget:
    """Most of each that a step may hold."""

    num_tokens: int
    num_seqs: int
    num_logits: int


@dataclass(frozen=True)
class Chunk:
    """One sequence's part of a step, where it is more than the next decoded token."""

    num_new: int
    num_logits: int
    draws: bool


class StepPlan:
    """A step in the making: what is left of its budget, and what is in it so far."""

    def __init__(self, budget: Budget, rows: Rows) -> None:
        self._rows = rows
        self._num_tokens, self._num_logits = budget.num_tokens, budget.num_logits
        self._chunks: list[tuple[Sequence, Chunk]] = []
        self._new_rows: list[NewRow] = []
        self._new_blocks: list[NewBlocks] = []

    @property
    def num_decodes_left(self) -> int:
        """Decoding sequences that still fit."""
        return min(self._num_tokens, self._num_logits)

    def take_decodes(self, count: int) -> None:
        """Set aside a token and its logits for each of `count` decoding sequences."""
        self._num_tokens -= count
        self._num_logits -= count

    def chunk(self, seq: Sequence, num_computed: int) -> Chunk | None:
        """As much of a sequence as the step still has room for; None if that is nothing."""
        num_pending = len(seq.tokens) - num_computed
        num_new = min(num_pending, self._num_tokens)
        if num_new <= 0 or self._num_logits == 0:
            return None
        if seq.wants_prompt_logprobs:
            num_new = min(num_new, self._num_logits)
            return Chunk(num_new, num_new, num_new == num_pending)
        draws = num_new == num_pending
        return Chunk(num_new, int(draws), draws)

    def add_chunk(self, seq: Sequence, chunk: Chunk) -> None:
        self._num_tokens -= chunk.num_new
        self._num_logits -= chunk.num_logits
        self._chunks.append((seq, chunk))

    def add_row(self, seq: Sequence) -> None:
        """A sequence that starts, whole."""
        request = seq.request
        self._new_rows.append(
            NewRow(
                seq.row,
                tuple(seq.tokens),
                seq.num_computed,
                request.sampling.temperature,
                request.seed,
                request.child,
                request.shaping,
            )
        )

    def add_blocks(self, seq: Sequence, changes: list[Change]) -> None:
        row = seq.row
        self._new_blocks += [NewBlocks(row, group, start, tuple(blocks)) for group, start, blocks in changes]

    def output(self, decodes: Bool, zero_blocks: tuple[ZeroBlocks, ...] = ()) -> SchedulerOutput | None:
        """The step of these chunks and of the rows in `decodes`; None if that is nothing. Sequences that share a
        prefix stand together."""
        rows, members = self._rows, self._rows.members
        if not self._chunks and len(members.rows) == np.count_nonzero(decodes) > 0:
            return self._steady(members, zero_blocks)
        num_new = num_logits = draws = decodes.astype(np.int32)
        num_logprobs = -1
        if self._chunks:
            num_logits, draws = num_new.copy(), num_new.copy()
            for seq, chunk in self._chunks:
                row, sampling = seq.row, seq.request.sampling
                assert row >= 0, "a sequence was preempted that is in the plan"
                num_new[row], num_logits[row], draws[row] = chunk.num_new, chunk.num_logits, chunk.draws
                if sampling.prompt_logprobs is not None and chunk.num_logits > chunk.draws:
                    num_logprobs = max(num_logprobs, sampling.prompt_logprobs)
        order = members.rows[num_new[members.rows] > 0]
        if not len(order):
            return None
        num_new = num_new[order]
        draws = draws[order]
        drawing = order if not self._chunks else order[draws > 0]
        if len(drawing):
            num_logprobs = max(num_logprobs, int(rows.logprobs[drawing].max()))
        return SchedulerOutput(
            tuple(self._new_rows),
            tuple(self._new_blocks),
            rows=order,
            epochs=rows.epochs[order],
            num_new=num_new,
            num_logits=num_logits[order],
            draws=draws,
            max_k=int((rows.computed[order] + num_new).max()),
            num_logprobs=num_logprobs,
            zero_blocks=zero_blocks,
            **rows.stages_of(drawing),
        )

    def _steady(self, members: Members, zero_blocks: tuple[ZeroBlocks, ...]) -> SchedulerOutput:
        """Everybody decodes."""
        ones, max_k = members.ones, int(self._rows.computed[members.rows].max()) + 1
        return SchedulerOutput(
            tuple(self._new_rows),
            tuple(self._new_blocks),
            rows=members.rows,
            epochs=members.epochs,
            num_new=ones,
            num_logits=ones,
            draws=ones,
            max_k=max_k,
            num_logprobs=members.num_logprobs,
            zero_blocks=zero_blocks,
            **members.stages,
        )
