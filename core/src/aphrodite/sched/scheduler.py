"""The scheduler: one token budget a step, shared by sequences in order of arrival.

There are no phases. A sequence has tokens and a count of them already computed; a prompt, a chunk of one, a decode step
and a resumed sequence are the same case: compute the next tokens until none is pending, then draw.

    tokens   [ computed | scheduled now | still pending ]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aphrodite.errors import CapacityError
from aphrodite.kv.manager import KVCacheManager
from aphrodite.types.request import Request, Sequence, Status, TokenLogprobs
from aphrodite.types.shaping import PLAIN
from aphrodite.types.step import Int32, Logprobs, NewBlocks, NewRow, SchedulerOutput, StepOutput


@dataclass(frozen=True)
class Budget:
    """Most of each that a step may hold."""

    num_tokens: int
    num_seqs: int
    num_logits: int


@dataclass(frozen=True)
class _Chunk:
    """One sequence's part of a step."""

    seq: Sequence
    num_new: int
    num_logits: int
    draws: bool


class Scheduler:
    """Owns all sequences. `schedule` says what the next step computes, `update` settles its results."""

    def __init__(self, kv: KVCacheManager, budget: Budget) -> None:
        assert budget.num_logits >= 1 and budget.num_tokens >= 1 and budget.num_seqs >= 1
        self.kv = kv
        self.budget = budget
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._by_id: dict[str, Sequence] = {}
        self._rows: dict[int, Sequence] = {}
        self._free_rows = list(range(budget.num_seqs - 1, -1, -1))
        self._epochs = [0] * budget.num_seqs

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> Sequence:
        """Queue a request. CapacityError if it could not run even alone."""
        if not self.kv.fits(request.max_total_tokens - 1):  # the last token is drawn, never computed
            raise CapacityError(
                f"request {request.request_id} may grow to {request.max_total_tokens} tokens, more than the KV cache "
                f"holds: lower max_tokens, or raise num_blocks or kv_cache_memory_bytes",
                subject=request.request_id,
            )
        assert request.request_id not in self._by_id, f"request {request.request_id} is already here"
        seq = Sequence(request, list(request.prompt_token_ids), [[] for _ in range(self.kv.num_groups)])
        self._by_id[request.request_id] = seq
        self._waiting.append(seq)
        return seq

    def abort(self, request_id: str) -> None:
        """Drop a request at once, wherever it stands; unknown ids are ignored (it may have finished)."""
        seq = self._by_id.get(request_id)
        if seq is not None:
            self._finish(seq, "abort")

    # ---- plan ---------------------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput | None:
        """The next step, or None when nothing is pending. Running sequences go before waiting ones; when blocks run
        out, the youngest running sequence is preempted and computes its tokens again later."""
        left = _Left(self.budget)
        num_running = len(self._running)
        new_rows: list[NewRow] = []
        new_blocks: list[NewBlocks] = []
        chunks: list[_Chunk] = []
        for seq in list(self._running):
            if seq.status is not Status.RUNNING:
                continue  # preempted for an older one, further up in this loop
            chunk = self._chunk(seq, left)
            if chunk is None:
                continue
            if self._make_room(seq, chunk, new_blocks, chunks):
                left.take(chunk)
                chunks.append(chunk)
        settled = num_running == len(self._running)  # after a preemption nobody is admitted in the same step
        while settled and self._waiting and self._free_rows:
            seq = self._waiting[0]
            if seq.num_computed == 0:
                seq.num_computed = self.kv.match(seq)
            chunk = self._chunk(seq, left)
            if chunk is None:
                break
            added = self.kv.reserve(seq, seq.num_computed + chunk.num_new)
            if added is None:
                break
            self._waiting.popleft()
            new_rows.append(self._start(seq))
            new_blocks.extend(_blocks_of(seq, added))
            left.take(chunk)
            chunks.append(chunk)
        return _output(chunks, new_rows, new_blocks) if chunks else None

    def _chunk(self, seq: Sequence, left: _Left) -> _Chunk | None:
        """As much of a sequence as the step still has room for; None if that is nothing."""
        num_new = min(seq.num_pending, left.num_tokens)
        if num_new <= 0 or left.num_seqs == 0 or left.num_logits == 0:
            return None
        if seq.wants_prompt_logprobs:
            num_new = min(num_new, left.num_logits)
            return _Chunk(seq, num_new, num_new, num_new == seq.num_pending)
        draws = num_new == seq.num_pending
        return _Chunk(seq, num_new, int(draws), draws)

    def _make_room(self, seq: Sequence, chunk: _Chunk, new_blocks: list[NewBlocks], chunks: list[_Chunk]) -> bool:
        """Reserve blocks for a running sequence, preempting younger ones if need be; False if it was itself the
        youngest and had to go."""
        while (added := self.kv.reserve(seq, seq.num_computed + chunk.num_new)) is None:
            victim = self._running[-1]
            self._preempt(victim)
            assert not any(other.seq is victim for other in chunks), "an older sequence was preempted"
            if victim is seq:
                return False
        new_blocks.extend(_blocks_of(seq, added))
        return True

    def _start(self, seq: Sequence) -> NewRow:
        seq.row = self._free_rows.pop()
        seq.epoch = self._epochs[seq.row]
        seq.status = Status.RUNNING
        self._running.append(seq)
        self._rows[seq.row] = seq
        request = seq.request
        return NewRow(
            seq.row,
            tuple(seq.tokens),
            seq.num_computed,
            request.sampling.temperature,
            request.seed,
            request.child,
            request.shaping,
        )

    def _preempt(self, seq: Sequence) -> None:
        """Take a sequence off the device; it goes to the head of the queue and starts from its first token."""
        self._leave(seq)
        seq.status = Status.WAITING
        seq.num_computed = 0
        seq.num_preemptions += 1
        if seq.wants_prompt_logprobs:
            seq.prompt_logprobs.clear()  # cut short: the prompt's start over with it
        self._waiting.appendleft(seq)

    def _leave(self, seq: Sequence) -> None:
        """Give back the row and the blocks; results still on their way belong to an old epoch from here on."""
        self.kv.free(seq)
        self._running.remove(seq)
        del self._rows[seq.row]
        self._epochs[seq.row] += 1
        self._free_rows.append(seq.row)
        seq.row = -1

    # ---- settle -------------------------------------------------------------------------------------------------

    def update(self, plan: SchedulerOutput, result: StepOutput) -> list[Sequence]:
        """Settle a step: count computed tokens, append drawn ones, finish what has ended. Returns the sequences that
        changed; results of an old epoch are dropped."""
        changed: list[Sequence] = []
        end = 0
        for index, row in enumerate(plan.rows.tolist()):
            start, end = end, end + int(plan.num_logits[index])
            seq = self._rows.get(row)
            if seq is None or seq.epoch != plan.epochs[index]:
                continue
            seq.num_computed += int(plan.num_new[index])
            changed.append(seq)
            if (result.tokens[start:end] < 0).any():
                self._finish(seq, "error")
                continue
            self._keep_logprobs(seq, result.logprobs, start, end, bool(plan.draws[index]))
            if plan.draws[index]:
                self._append(seq, int(result.tokens[end - 1]))
        return changed

    def _append(self, seq: Sequence, token: int) -> None:
        seq.tokens.append(token)
        sampling = seq.request.sampling
        if token in sampling.stop_token_ids:
            seq.stop_reason = token
            self._finish(seq, "stop")
        elif token in seq.request.stop_ids and not sampling.ignore_eos:
            self._finish(seq, "stop")
        elif len(seq.tokens) >= seq.request.max_total_tokens:
            self._finish(seq, "length")

    def _keep_logprobs(self, seq: Sequence, logprobs: Logprobs | None, start: int, end: int, draws: bool) -> None:
        if logprobs is None:
            return
        sampling = seq.request.sampling
        if sampling.prompt_logprobs is not None:
            for index in range(start, end - draws):
                seq.prompt_logprobs.append(_token_logprobs(logprobs, index, sampling.prompt_logprobs))
        if draws and sampling.logprobs is not None:
            seq.logprobs.append(_token_logprobs(logprobs, end - 1, sampling.logprobs))

    def _finish(self, seq: Sequence, reason: str) -> None:
        if seq.status is Status.RUNNING:
            self._leave(seq)
        elif seq.status is Status.WAITING:
            self._waiting.remove(seq)
            self.kv.free(seq)
        seq.status = Status.FINISHED
        seq.finish_reason = reason
        del self._by_id[seq.request.request_id]

    def live(self) -> Iterator[Sequence]:
        """Every sequence that has not finished."""
        return iter(self._by_id.values())

    def check(self) -> None:
        """AssertionError unless blocks, rows and queues agree with one another."""
        self.kv.check(self.live())
        assert len(self._by_id) == len(self._waiting) + len(self._running)
        assert {seq.row for seq in self._running} == set(self._rows)
        assert len(self._rows) + len(self._free_rows) == self.budget.num_seqs
        for seq in self._running:
            assert 0 <= seq.num_computed <= len(seq.tokens)
            assert all(len(mine) * self.kv.block_size >= seq.num_computed for mine in seq.blocks)


class _Left:
    """What remains of a step's budget."""

    def __init__(self, budget: Budget) -> None:
        self.num_tokens = budget.num_tokens
        self.num_seqs = budget.num_seqs
        self.num_logits = budget.num_logits

    def take(self, chunk: _Chunk) -> None:
        self.num_tokens -= chunk.num_new
        self.num_seqs -= 1
        self.num_logits -= chunk.num_logits


def _blocks_of(seq: Sequence, added: list[list[int]]) -> Iterator[NewBlocks]:
    for group, blocks in enumerate(added):
        if blocks:
            yield NewBlocks(seq.row, group, len(seq.blocks[group]) - len(blocks), tuple(blocks))


def _token_logprobs(logprobs: Logprobs, index: int, count: int) -> TokenLogprobs:
    values, ids = logprobs.values[index].tolist(), logprobs.ids[index].tolist()
    top = tuple(zip(ids[1 : count + 1], values[1 : count + 1], strict=True))
    return TokenLogprobs(ids[0], values[0], int(logprobs.rank[index]), top)


def _output(chunks: list[_Chunk], new_rows: list[NewRow], new_blocks: list[NewBlocks]) -> SchedulerOutput:
    def column(values: Iterator[int]) -> Int32:
        return np.fromiter(values, np.int32, len(chunks))

    asked = [
        count
        for chunk in chunks
        for count, wanted in (
            (chunk.seq.request.sampling.prompt_logprobs, chunk.num_logits > chunk.draws),
            (chunk.seq.request.sampling.logprobs, chunk.draws),
        )
        if wanted and count is not None
    ]
    drawing = [chunk.seq.request for chunk in chunks if chunk.draws]
    shapings = [request.shaping for request in drawing if request.shaping is not PLAIN]
    return SchedulerOutput(
        tuple(new_rows),
        tuple(new_blocks),
        rows=column(chunk.seq.row for chunk in chunks),
        epochs=column(chunk.seq.epoch for chunk in chunks),
        num_new=column(chunk.num_new for chunk in chunks),
        num_logits=column(chunk.num_logits for chunk in chunks),
        draws=column(int(chunk.draws) for chunk in chunks),
        max_k=max(chunk.seq.num_computed + chunk.num_new for chunk in chunks),
        num_logprobs=max(asked, default=-1),
        any_random=any(request.sampling.temperature > 0 for request in drawing),
        any_truncated=any(shaping.truncates for shaping in shapings),
        any_edited=any(shaping.edits for shaping in shapings),
        any_penalised=any(shaping.penalises for shaping in shapings),
    )
