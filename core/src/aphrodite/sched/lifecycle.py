"""Where each sequence stands, and what it takes along or gives back on the way from one standing to another.

    WAITING --- start --------------> RUNNING       add: to WAITING
       ^ ^----- preempt, start_over ----'  |        hold: from WAITING, too
       '------- release --- HELD <-- hold -'        finish: from each of them to FINISHED

Only who runs has a row and blocks. Who waits or is held has none, and computes its tokens from the first on.
"""

from __future__ import annotations

from collections.abc import Iterator

from aphrodite.errors import CapacityError
from aphrodite.kv.manager import KVCacheManager
from aphrodite.sched.policy import Queue
from aphrodite.sched.regimes import Regimes
from aphrodite.sched.rows import Rows
from aphrodite.types.request import Request, Sequence, Status
from aphrodite.types.stats import EngineStats


class Lifecycle:
    """All sequences that have not finished.

    kv                whose blocks they hold
    waiting, running  in the order in which they are served; who is held is in neither
    rows              who is running, by device row
    """

    def __init__(self, kv: KVCacheManager, num_rows: int, policy: str, regimes: Regimes) -> None:
        self.kv = kv
        self.waiting = Queue(policy)
        self.running = Queue(policy)
        self.rows = Rows(num_rows)
        self._regimes = regimes
        self._held: set[str] = set()  # ids
        self._by_id: dict[str, Sequence] = {}
        self._num_arrived = 0
        self._num_preemptions = 0
        self._num_query_tokens = self._num_hit_tokens = 0  # of prompts, looked for and found in the prefix cache

    @property
    def has_work(self) -> bool:
        """Whether there is somebody to schedule; who is held is not."""
        return len(self._by_id) > len(self._held)

    def live(self) -> Iterator[Sequence]:
        """Every sequence that has not finished."""
        return iter(self._by_id.values())

    def get(self, request_id: str) -> Sequence | None:
        """The sequence of a request; None if it has finished, or never was here."""
        return self._by_id.get(request_id)

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
        seq.arrival, seq.regime = self._num_arrived, self._regimes.of(seq)
        self._num_arrived += 1
        self._by_id[request.request_id] = seq
        self.waiting.add(seq)
        return seq

    def start(self, seq: Sequence, num_computed: int) -> None:
        """Give a row to a sequence that waits and has its blocks, of which so many tokens were found in the cache."""
        self.waiting.remove(seq)
        self.running.add(seq)
        seq.num_computed = num_computed
        if seq.num_cached_tokens is None:
            seq.num_cached_tokens = num_computed
            self._num_query_tokens += len(seq.request.prompt_token_ids)
            self._num_hit_tokens += num_computed
        self.rows.start(seq, len(seq.blocks[0]) * self.kv.block_size, self._regimes.limit(seq))

    def preempt(self, seq: Sequence) -> None:
        """Take a sequence off the device, for somebody else or because it may not go on."""
        seq.num_preemptions += 1
        self._num_preemptions += 1
        self.start_over(seq)

    def start_over(self, seq: Sequence) -> None:
        """Back to its place in the queue."""
        self._clear(seq)
        self._queue(seq)

    def outgrows(self, seq: Sequence) -> bool:
        """Whether a running sequence has come into the next regime, and must start over."""
        return self._regimes.of(seq) != seq.regime

    def hold(self, seq: Sequence) -> None:
        """Set a sequence aside. It gives up its row and blocks, so it stands in nobody's way; its blocks stay cached
        until others need them."""
        if seq.status is Status.HELD:
            return
        if seq.status is Status.RUNNING:
            self._clear(seq)
        else:
            self.waiting.remove(seq)
        seq.status = Status.HELD
        self._held.add(seq.request.request_id)

    def release(self, seq: Sequence) -> None:
        """Let a sequence that is held go on, from its old place in the queue. Others are ignored."""
        if seq.status is Status.HELD:
            self._held.remove(seq.request.request_id)
            self._queue(seq)

    def finish(self, seq: Sequence, reason: str | None) -> None:
        """The end of a sequence, wherever it stands."""
        if seq.status is Status.RUNNING:
            self._leave(seq)
        elif seq.status is Status.WAITING:
            self.waiting.remove(seq)
        else:
            self._held.remove(seq.request.request_id)
        seq.status = Status.FINISHED
        seq.finish_reason = reason
        del self._by_id[seq.request.request_id]

    def _queue(self, seq: Sequence) -> None:
        """Let a sequence wait that has no row and no blocks."""
        seq.status = Status.WAITING
        self.waiting.add(seq)

    def _clear(self, seq: Sequence) -> None:
        """Take a sequence off the device, such that it can compute its tokens from the first on, in the regime of their
        number."""
        self._leave(seq)
        seq.num_computed = 0
        regime = self._regimes.of(seq)
        if regime != seq.regime:
            seq.regime = regime
            seq.digests.clear()
        if seq.wants_prompt_logprobs:
            seq.prompt_logprobs.clear()  # cut short: the prompt's start over with it

    def _leave(self, seq: Sequence) -> None:
        """Give back the row and the blocks."""
        self.kv.free(seq)
        self.running.remove(seq)
        self.rows.stop(seq)

    def stats(self) -> EngineStats:
        """How full it is, and what has been done."""
        usage = self.kv.usage()
        return EngineStats(
            num_running=len(self.running),
            num_waiting=len(self.waiting),
            num_held=len(self._held),
            kv_blocks_total=usage.num_blocks,
            kv_blocks_free=usage.num_free,
            kv_blocks_evictable=usage.num_evictable,
            kv_blocks_leaked=0 if self._by_id else usage.num_blocks - usage.num_free,
            num_preemptions=self._num_preemptions,
            prefix_query_tokens=self._num_query_tokens,
            prefix_hit_tokens=self._num_hit_tokens,
        )

    def check(self, num_in_flight: int) -> None:
        """AssertionError unless blocks, rows and queues agree with one another."""
        running = list(self.running)
        self.kv.check(self.live())
        self.rows.check(running, self.kv.block_size, num_in_flight)
        held = [seq for seq in self.live() if seq.status is Status.HELD]
        assert self._held == {seq.request.request_id for seq in held}
        assert len(self._by_id) == len(self.waiting) + len(running) + len(held)
        for queue, status in ((self.waiting, Status.WAITING), (self.running, Status.RUNNING)):
            keys = [queue.key(seq) for seq in queue]
            assert keys == sorted(keys, reverse=True) and all(seq.status is status for seq in queue)
        assert all(not any(seq.blocks) and seq.num_computed == 0 for seq in (*self.waiting, *held))
