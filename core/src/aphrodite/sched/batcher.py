"""Continuous batching: who computes what in the next step, within its budget and the free blocks.

Running sequences go before waiting ones; when blocks run out, the last running sequence is preempted and computes its
tokens again later. Sequences that decode are handled as arrays by row; Python touches those that start, stop or need
another block.
"""

from __future__ import annotations

import numpy as np

from aphrodite.kv.manager import Change
from aphrodite.sched.lifecycle import Lifecycle
from aphrodite.sched.plan import Budget, Chunk, StepPlan
from aphrodite.sched.rows import Bool
from aphrodite.types.request import Sequence, Status
from aphrodite.types.step import SchedulerOutput


class Batcher:
    """Makes one batch after the other, and can say of the last one:

    must_settle  it left somebody out for want of blocks, since nobody may be preempted now
    started      the sequences that it starts, or starts again
    fresh        blocks that it has published before their step has run
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._kv = lifecycle.kv
        self._rows = lifecycle.rows
        self._waiting, self._running = lifecycle.waiting, lifecycle.running
        self._may_preempt = True
        self.must_settle = False
        self.started: list[Sequence] = []
        self.fresh: list[Change] = []

    def batch(self, budget: Budget, may_preempt: bool) -> SchedulerOutput | None:
        """The next step, or None when nothing can be scheduled."""
        self.fresh, self.started, self.must_settle, self._may_preempt = [], [], False, may_preempt
        self._make_way(budget)
        plan = StepPlan(budget, self._rows)
        num_running = len(self._running)
        decodes = self._choose_decodes(plan)
        self._continue(plan, decodes)
        if len(self._running) == num_running and not self.must_settle:  # who went without goes before who waits
            self._admit(plan)
        return plan.output(decodes & self._rows.decoding, self._kv.dirty)

    def _make_way(self, budget: Budget) -> None:
        """Preempt sequences of a lower priority for the first in the queue, if it has no row or no blocks."""
        while self._waiting.has_priorities and self._waiting and self._running:
            head, victim = self._waiting.first, self._running.last
            if head.request.priority >= victim.request.priority:
                return
            match = self._kv.match(head)
            num_tokens = min(len(head.tokens), match.num_tokens + budget.num_tokens)
            if self._rows.num_free and self._kv.has_room(head, num_tokens, match):
                return
            if not self._may_preempt:
                self.must_settle = True
                return
            self._lifecycle.preempt(victim)

    def _choose_decodes(self, plan: StepPlan) -> Bool:
        """The decoding rows that the budget holds, all of them but for tiny budgets. A copy: who is preempted later
        still stands in it."""
        chosen = self._rows.decoding.copy()
        count, most = int(np.count_nonzero(chosen)), plan.num_decodes_left
        wanted = bool(self._rows.partial) or (len(self._waiting) > 0 and self._rows.num_free > 0)
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
            if seq.row in self._rows.partial:
                left -= seq.num_pending
            elif chosen[seq.row]:
                chosen[seq.row] = stays = left > 0
                left, count = left - stays, count + stays
        return count

    def _continue(self, plan: StepPlan, decodes: Bool) -> None:
        """Running sequences that need Python: those in the middle of known tokens, those whose blocks are full."""
        rows = self._rows
        full = np.flatnonzero(decodes & (rows.computed >= rows.room)).tolist()
        if not full and not rows.partial:
            return
        if not rows.partial and self._kv.num_free >= len(full):
            self._extend(full, plan)
            return
        touched = sorted(rows.at_all({*full, *rows.partial}), key=self._running.key, reverse=True)
        for seq in touched:
            if seq.status is not Status.RUNNING:
                continue  # preempted for an earlier one, further up in this loop
            if seq.row not in rows.partial:
                row, seq.num_computed = seq.row, int(rows.computed[seq.row])
                decodes[row] = self._make_room(seq, seq.num_computed + 1, plan)
                continue
            chunk = plan.chunk(seq, seq.num_computed)
            if chunk is not None and self._make_room(seq, seq.num_computed + chunk.num_new, plan):
                self._add_chunk(seq, chunk, plan)

    def _extend(self, full: list[int], plan: StepPlan) -> None:
        """A block for each of these decoding rows, all of whose blocks are full. There are enough: nobody has to go."""
        rows, kv = self._rows, self._kv
        for seq, num_computed in zip(rows.at_all(full), rows.computed[full].tolist(), strict=True):
            seq.num_computed = num_computed
            if kv.slides:
                plan.add_blocks(seq, kv.advance(seq))
            plan.add_blocks(seq, kv.extend(seq))
        rows.room[full] += kv.block_size

    def _make_room(self, seq: Sequence, num_tokens: int, plan: StepPlan) -> bool:
        """Reserve blocks for a running sequence, preempting later ones if need be; False if it was itself the last and
        had to go, or if nobody may go now. Whoever is in the plan already goes before it, and is safe."""
        if not self._may_preempt and (self.must_settle or not self._kv.has_room(seq, num_tokens)):
            self.must_settle = True  # those behind it take no blocks either
            return False
        plan.add_blocks(seq, self._kv.advance(seq))
        while (changes := self._kv.reserve(seq, num_tokens)) is None:
            victim = self._running.last
            self._lifecycle.preempt(victim)
            if victim is seq:
                return False
        plan.add_blocks(seq, changes)
        self._rows.room[seq.row] = len(seq.blocks[0]) * self._kv.block_size
        return True

    def _admit(self, plan: StepPlan) -> None:
        """Start waiting sequences while there are rows, budget and blocks."""
        while self._waiting and self._rows.num_free and plan.num_decodes_left:
            seq = self._waiting.first
            match = self._kv.match(seq)
            chunk = plan.chunk(seq, match.num_tokens)
            if chunk is None:
                return
            changes = self._kv.reserve(seq, match.num_tokens + chunk.num_new, match)
            if changes is None:
                return
            self._lifecycle.start(seq, match.num_tokens)
            self.started.append(seq)
            plan.add_row(seq)
            plan.add_blocks(seq, changes)
            self._add_chunk(seq, chunk, plan)

    def _add_chunk(self, seq: Sequence, chunk: Chunk, plan: StepPlan) -> None:
        """Put known tokens of a sequence into the step. They are published at once: each layer writes all keys and
        values before it reads any, so that those who come after it in the same step can adopt its blocks."""
        plan.add_chunk(seq, chunk)
        seq.num_computed += chunk.num_new
        self._kv.publish(seq, seq.num_computed, self.fresh)
        if chunk.draws:
            self._rows.partial.discard(seq.row)
