"""The scheduler: one token budget a step, shared by sequences in the order of a policy.

There are no phases. A sequence has tokens and a count of them already computed; a prompt, a chunk of one, a decode step
and a resumed sequence are the same case: compute the next tokens until none is pending, then draw.

    tokens   [ computed | scheduled now | still pending ]

Several steps may be scheduled before the first of them is settled (`update`, in their order). What a step computes, and
that it draws a token, is counted when it is scheduled; which token that was is known when it is settled. So a length is
never overrun, and an end token by as many slots as there are steps in flight: their results belong to an old epoch.

Lengths may fall into regimes, in each of which a token has keys and values of its own. A sequence that grows into the
next one starts over, as if it had been preempted: it stops drawing at the boundary until that token is settled.

Decoding sequences are handled as arrays by row; Python touches those that start, stop or need another block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aphrodite.errors import AphroditeError, CapacityError
from aphrodite.kv.manager import Change, KVCacheManager
from aphrodite.sched.plan import Budget, Chunk, StepPlan
from aphrodite.sched.policy import Queue
from aphrodite.sched.relief import Relief
from aphrodite.sched.rows import Bool, Rows
from aphrodite.sched.settle import finish_reason, keep_logprobs
from aphrodite.types.request import Request, Sequence, Status
from aphrodite.types.stats import EngineStats
from aphrodite.types.step import Int32, SchedulerOutput, StepOutput, ZeroBlocks

__all__ = ["Budget", "Scheduler"]


class _Flight(NamedTuple):
    """What is to be taken back of a step in flight: blocks that it has published, and those that it was to zero."""

    fresh: list[Change]
    zeroed: tuple[ZeroBlocks, ...]


class Scheduler:
    """Owns all sequences. `schedule` says what the next step computes, `update` settles its results, `fail` takes all
    steps in flight back.

    regimes      lengths, ascending, beyond each of which all keys and values of a sequence are others
    must_settle  the last plan left somebody out for want of blocks. Nobody is preempted while a step is in flight: what
                 it draws would be lost, and may end somebody and free blocks. Settle all steps, then schedule
    started      the sequences that the last plan starts, or starts again
    """

    def __init__(self, kv: KVCacheManager, budget: Budget, policy: str = "fcfs", regimes: tuple[int, ...] = ()) -> None:
        assert budget.num_logits >= 1 and budget.num_tokens >= 1 and budget.num_seqs >= 1
        assert all(a < b for a, b in pairwise((0, *regimes)))
        self.kv = kv
        self._relief = Relief(budget)
        self._regimes = regimes
        self._waiting = Queue(policy)
        self._running = Queue(policy)
        self._rows = Rows(budget.num_seqs)
        self._partial: set[int] = set()  # rows of running sequences that do not decode yet
        self._held: set[str] = set()  # ids of sequences that are in neither queue
        self._by_id: dict[str, Sequence] = {}
        self._num_arrived = 0
        self._num_preemptions = 0
        self._num_query_tokens = self._num_hit_tokens = 0  # of prompts, looked for and found in the prefix cache
        self._fresh: list[Change] = []  # blocks published by the plan in the making, before their step has run
        self._in_flight: deque[_Flight] = deque()  # plans that are not settled yet
        self.must_settle = False
        self.started: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether there is somebody to schedule; who is held is not."""
        return len(self._by_id) > len(self._held)

    @property
    def budget(self) -> Budget:
        """What the next step may hold."""
        return self._relief.budget

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
        seq.arrival, seq.regime = self._num_arrived, self._regime_of(seq)
        self._num_arrived += 1
        self._by_id[request.request_id] = seq
        self._waiting.add(seq)
        return seq

    def abort(self, request_id: str, reason: str | None = "abort") -> None:
        """Drop a request at once, wherever it stands; unknown ids are ignored (it may have finished). `reason` is what
        its readers see; None where they are told otherwise."""
        seq = self._by_id.get(request_id)
        if seq is not None:
            self._finish(seq, reason)

    def hold(self, request_id: str) -> None:
        """Spend nothing on a request until it is released: nobody reads what it gets. It gives up its row and blocks,
        so it stands in nobody's way; its blocks stay cached until others need them. Unknown ids are ignored."""
        seq = self._by_id.get(request_id)
        if seq is not None and seq.status is not Status.HELD:
            if seq.status is Status.RUNNING:
                self._clear(seq)
            else:
                self._waiting.remove(seq)
            seq.status = Status.HELD
            self._held.add(request_id)

    def release(self, request_id: str) -> None:
        """Let a request that is held go on, from its old place in the queue. Others are ignored."""
        if request_id in self._held:
            self._held.remove(request_id)
            self._queue(self._by_id[request_id])

    # ---- plan ---------------------------------------------------------------------------------------------------

    def schedule(self) -> SchedulerOutput | None:
        """The next step, or None when nothing can be scheduled. Running sequences go before waiting ones; when blocks
        run out, the last running sequence is preempted and computes its tokens again later."""
        self._fresh, self.started, self.must_settle = [], [], False
        self._make_way()
        plan = StepPlan(self._relief.budget, self._rows)
        num_running = len(self._running)
        decodes = self._choose_decodes(plan)
        self._continue(plan, decodes)
        if len(self._running) == num_running and not self.must_settle:  # who went without goes before who waits
            self._admit(plan)
        step = plan.output(decodes & self._rows.decoding, self.kv.dirty)
        if step is not None:
            self._rows.schedule(step.rows, step.num_new, step.draws)
            self._in_flight.append(_Flight(self._fresh, step.zero_blocks))
            self.kv.clean()
        return step

    def _make_way(self) -> None:
        """Preempt sequences of a lower priority for the first in the queue, if it has no row or no blocks."""
        while self._waiting.has_priorities and self._waiting and self._running:
            head, victim = self._waiting.first, self._running.last
            if head.request.priority >= victim.request.priority:
                return
            match = self.kv.match(head)
            num_tokens = min(len(head.tokens), match.num_tokens + self.budget.num_tokens)
            if self._rows.num_free and self.kv.has_room(head, num_tokens, match):
                return
            if self._in_flight:
                self.must_settle = True
                return
            self._preempt(victim)

    def _choose_decodes(self, plan: StepPlan) -> Bool:
        """The decoding rows that the budget holds, all of them but for tiny budgets. A copy: who is preempted later
        still stands in it."""
        chosen = self._rows.decoding.copy()
        count, most = int(np.count_nonzero(chosen)), plan.num_decodes_left
        wanted = bool(self._partial) or (len(self._waiting) > 0 and self._rows.num_free > 0)
        if count > most or (count == most and wanted):
            count = self._share(chosen, most)
        plan.take_decodes(count)
        return chosen

    def _share(self, chosen: Bool, most: int) -> int:
        """Leave those out of `chosen` for whom nothing is left once all that go before them have what they want, be it
        more than a token; the number of those that stay."""
        left, count = most, 0
        head = self._waiting.first if self._waiting.has_priorities and self._waiting and self._rows.num_free else None
        for seq in self._running:
            if head and head.request.priority < seq.request.priority:
                left, head = left - len(head.tokens), None
            if seq.row in self._partial:
                left -= seq.num_pending
            elif chosen[seq.row]:
                chosen[seq.row] = stays = left > 0
                left, count = left - stays, count + stays
        return count

    def _continue(self, plan: StepPlan, decodes: Bool) -> None:
        """Running sequences that need Python: those in the middle of known tokens, those whose blocks are full."""
        rows = self._rows
        full = np.flatnonzero(decodes & (rows.computed >= rows.room)).tolist()
        if not full and not self._partial:
            return
        if not self._partial and self.kv.num_free >= len(full):
            self._extend(full, plan)
            return
        touched = sorted(rows.at_all({*full, *self._partial}), key=self._running.key, reverse=True)
        for seq in touched:
            if seq.status is not Status.RUNNING:
                continue  # preempted for an earlier one, further up in this loop
            if seq.row not in self._partial:
                row, seq.num_computed = seq.row, int(rows.computed[seq.row])
                decodes[row] = self._make_room(seq, seq.num_computed + 1, plan)
                continue
            chunk = plan.chunk(seq, seq.num_computed)
            if chunk is not None and self._make_room(seq, seq.num_computed + chunk.num_new, plan):
                self._add_chunk(seq, chunk, plan)

    def _extend(self, full: list[int], plan: StepPlan) -> None:
        """A block for each of these decoding rows, all of whose blocks are full. There are enough: nobody has to go."""
        rows = self._rows
        for seq, num_computed in zip(rows.at_all(full), rows.computed[full].tolist(), strict=True):
            seq.num_computed = num_computed
            if self.kv.slides:
                plan.add_blocks(seq, self.kv.advance(seq))
            plan.add_blocks(seq, self.kv.extend(seq))
        rows.room[full] += self.kv.block_size

    def _make_room(self, seq: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Reserve blocks for a running sequence, preempting later ones if need be; False if it was itself the last and
        had to go, or if nobody may go now. Whoever is in the plan already goes before it, and is safe."""
        if self._in_flight and (self.must_settle or not self.kv.has_room(seq, num_tokens)):
            self.must_settle = True  # those behind it take no blocks either
            return False
        plan.add_blocks(seq, self.kv.advance(seq))
        while (changes := self.kv.reserve(seq, num_tokens)) is None:
            victim = self._running.last
            self._preempt(victim)
            if victim is seq:
                return False
        plan.add_blocks(seq, changes)
        self._rows.room[seq.row] = len(seq.blocks[0]) * self.kv.block_size
        return True

    def _add_chunk(self, seq: Sequence, chunk: Chunk, plan: StepPlan) -> None:
        """Put known tokens of a sequence into the step. They are published at once: each layer writes all keys and
        values before it reads any, so that those who come after it in the same step can adopt its blocks."""
        plan.add_chunk(seq, chunk)
        seq.num_computed += chunk.num_new
        self.kv.publish(seq, seq.num_computed, self._fresh)
        if chunk.draws:
            self._partial.discard(seq.row)

    def _admit(self, plan: StepPlan) -> None:
        """Start waiting sequences while there are rows, budget and blocks."""
        while self._waiting and self._rows.num_free and plan.num_decodes_left:
            seq = self._waiting.first
            match = self.kv.match(seq)
            chunk = plan.chunk(seq, match.num_tokens)
            if chunk is None:
                return
            changes = self.kv.reserve(seq, match.num_tokens + chunk.num_new, match)
            if changes is None:
                return
            self._waiting.remove(seq)
            self._running.add(seq)
            seq.num_computed = match.num_tokens
            if seq.num_cached_tokens is None:
                seq.num_cached_tokens = match.num_tokens
                self._num_query_tokens += len(seq.request.prompt_token_ids)
                self._num_hit_tokens += match.num_tokens
            self._rows.start(seq, len(seq.blocks[0]) * self.kv.block_size, self._limit(seq))
            self.started.append(seq)
            self._partial.add(seq.row)
            plan.add_row(seq)
            plan.add_blocks(seq, changes)
            self._add_chunk(seq, chunk, plan)

    def _preempt(self, seq: Sequence) -> None:
        """Take a sequence off the device, for somebody else or because it may not go on."""
        seq.num_preemptions += 1
        self._num_preemptions += 1
        self._start_over(seq)

    def _start_over(self, seq: Sequence) -> None:
        """Back to its place in the queue."""
        self._clear(seq)
        self._queue(seq)

    def _queue(self, seq: Sequence) -> None:
        """Let a sequence wait that has no row and no blocks."""
        seq.status = Status.WAITING
        self._waiting.add(seq)

    def _clear(self, seq: Sequence) -> None:
        """Take a sequence off the device, such that it can compute its tokens from the first on, in the regime of their
        number."""
        self._leave(seq)
        seq.num_computed = 0
        regime = self._regime_of(seq)
        if regime != seq.regime:
            seq.regime = regime
            seq.digests.clear()
        if seq.wants_prompt_logprobs:
            seq.prompt_logprobs.clear()  # cut short: the prompt's start over with it

    def _regime_of(self, seq: Sequence) -> int:
        """The regime of as many tokens as it has."""
        return bisect_left(self._regimes, len(seq.tokens))

    def _limit(self, seq: Sequence) -> int:
        """Tokens at which a running sequence ends, or is the first time too long for its regime."""
        total = seq.request.max_total_tokens
        return min(total, self._regimes[seq.regime] + 1) if seq.regime < len(self._regimes) else total

    def _leave(self, seq: Sequence) -> None:
        """Give back the row and the blocks."""
        self.kv.free(seq)
        self._running.remove(seq)
        self._partial.discard(seq.row)
        self._rows.stop(seq)

    # ---- settle -------------------------------------------------------------------------------------------------

    def update(self, plan: SchedulerOutput, result: StepOutput) -> list[Sequence]:
        """Settle the oldest step in flight: append drawn tokens, publish blocks that they have filled, finish what has
        ended. Returns the sequences that have got something; results of an old epoch are dropped."""
        self._in_flight.popleft()
        if self._relief.is_on:
            self._relief.succeed()
        rows, members = self._rows, self._rows.members
        if plan.num_new is members.ones and members.num_logprobs < 0 and result.tokens.min() >= 0:
            return self._append_all(members.rows, result.tokens, members.seqs)  # all decode, nobody has left since
        ends = np.cumsum(plan.num_logits)
        drawn = result.tokens[ends - 1] if len(result.tokens) else np.full(len(ends), -1)
        alive = (rows.epochs[plan.rows] == plan.epochs) & (plan.num_logits > 0)
        only_draws = (plan.num_logits == 1) & (plan.draws > 0) & (rows.logprobs[plan.rows] < 0)
        plain = alive & only_draws & (drawn >= 0)
        numbers = plan.rows[plain]
        changed = self._append_all(numbers, drawn[plain], rows.at_all(numbers.tolist()))
        bad = []
        for index in np.flatnonzero(alive & ~plain).tolist():
            seq = rows.at(int(plan.rows[index]))
            end = int(ends[index])
            start = end - int(plan.num_logits[index])
            changed.append(seq)
            if (result.tokens[start:end] < 0).any():
                bad.append(seq)
                continue
            draws = bool(plan.draws[index])
            keep_logprobs(seq, result.logprobs, start, end, draws)
            if draws:
                self._append_all(plan.rows[index : index + 1], result.tokens[end - 1 : end], [seq])
        if bad:
            self._drop(bad)
        return changed

    def _append_all(self, numbers: Int32, drawn: npt.NDArray[np.int64], seqs: list[Sequence]) -> list[Sequence]:
        """One drawn token for each of these rows and their sequences."""
        rows = self._rows
        any(map(list.append, [seq.tokens for seq in seqs], drawn.tolist()))  # each gives None: all are called
        rows.settled[numbers] = settled = rows.settled[numbers] + 1
        ended = rows.stops.hits(drawn) | (settled >= rows.limit[numbers])
        full = (settled - 1) % self.kv.block_size == 0
        publish = self.kv.publish
        for index in np.flatnonzero(full | ended).tolist():
            seq = seqs[index]
            publish(seq, len(seq.tokens) - 1)  # the last one is computed by the next step
            if ended[index]:
                self._end(seq)
        return list(seqs)

    def _end(self, seq: Sequence) -> None:
        """Finish a sequence, or let it start over, if its last token, just settled, says so. Who starts over is in no
        step in flight: known tokens never pass the limit."""
        reason = finish_reason(seq)
        if reason is not None:
            self._finish(seq, reason)
        elif self._regime_of(seq) != seq.regime:
            self._start_over(seq)

    def _drop(self, bad: list[Sequence]) -> None:
        """Sequences whose logits were no numbers. None of their blocks is found any more, and what they held is zeroed
        before it is used again. Who computed all of its blocks itself fails; who adopted some may be innocent, and
        computes again without the cache."""
        for seq in bad:
            self.kv.taint(seq)
            if seq.num_adopted:
                seq.reads_cache = False
                self._preempt(seq)
            else:
                self._finish(seq, "error")

    def fail(self) -> None:
        """Take all steps in flight back: what they published is found no more, and every running sequence starts over
        from the tokens that the host has. The device's rows are written anew as they do."""
        for flight in self._in_flight:
            self.kv.unpublish(flight.fresh)
            self.kv.soil(flight.zeroed)  # perhaps it was not
        self._in_flight.clear()
        for seq in list(self._running):
            self._preempt(seq)

    def shed(self, plan: SchedulerOutput, error: AphroditeError) -> Sequence | None:
        """Memory has run out in a step: as `fail`, and steps are smaller for a while. If that was tried already, the
        longest sequence of the step ends with this error, and is returned: the others can go on without it."""
        longest, length = self._longest(plan)
        is_vain = self._relief.shrink(int(plan.num_new.sum()), longest, length)
        self.fail()
        if longest is None or not is_vain:
            return None
        longest.error = error
        self._finish(longest, "error")
        return longest

    def _longest(self, plan: SchedulerOutput) -> tuple[Sequence | None, int]:
        """The sequence of a step with the most tokens computed by its end, and their number; of equals the one that
        came last. None if nobody of the step is left."""
        rows = self._rows
        alive = plan.rows[rows.epochs[plan.rows] == plan.epochs].tolist()
        lengths = {row: int(rows.computed[row]) for row in alive}
        row = max(alive, key=lambda row: (lengths[row], rows.at(row).arrival), default=None)
        return (None, 0) if row is None else (rows.at(row), lengths[row])

    def reset_prefix_cache(self) -> None:
        """Forget all cached blocks; running sequences keep theirs."""
        self.kv.reset()

    def _finish(self, seq: Sequence, reason: str | None) -> None:
        if seq.status is Status.RUNNING:
            self._leave(seq)
        elif seq.status is Status.WAITING:
            self._waiting.remove(seq)
        else:
            self._held.remove(seq.request.request_id)
        seq.status = Status.FINISHED
        seq.finish_reason = reason
        del self._by_id[seq.request.request_id]

    def stats(self) -> EngineStats:
        """How full it is, and what it has done."""
        usage = self.kv.usage()
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_held=len(self._held),
            kv_blocks_total=usage.num_blocks,
            kv_blocks_free=usage.num_free,
            kv_blocks_evictable=usage.num_evictable,
            kv_blocks_leaked=0 if self._by_id else usage.num_blocks - usage.num_free,
            num_preemptions=self._num_preemptions,
            prefix_query_tokens=self._num_query_tokens,
            prefix_hit_tokens=self._num_hit_tokens,
        )

    def live(self) -> Iterator[Sequence]:
        """Every sequence that has not finished."""
        return iter(self._by_id.values())

    def check(self) -> None:
        """AssertionError unless blocks, rows and queues agree with one another."""
        running = list(self._running)
        self.kv.check(self.live())
        self._rows.check(running, self.kv.block_size, len(self._in_flight))
        held = [seq for seq in self.live() if seq.status is Status.HELD]
        assert self._held == {seq.request.request_id for seq in held}
        assert len(self._by_id) == len(self._waiting) + len(running) + len(held)
        for queue, status in ((self._waiting, Status.WAITING), (self._running, Status.RUNNING)):
            keys = [queue.key(seq) for seq in queue]
            assert keys == sorted(keys, reverse=True) and all(seq.status is status for seq in queue)
        rows = self._rows
        assert self._partial == {seq.row for seq in running if rows.computed[seq.row] < rows.settled[seq.row]} - {
            seq.row for seq in running if rows.decoding[seq.row]
        }
        assert all(rows.at(row).num_computed == rows.computed[row] for row in self._partial)
        assert all(not any(seq.blocks) and seq.num_computed == 0 for seq in (*self._waiting, *held))
