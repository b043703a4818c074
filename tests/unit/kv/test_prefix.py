"""The prefix cache: what is found, for whom, and what is never found; sliding windows keep only what is read."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from aphrodite.kv.manager import Change, KVCacheManager, Match
from aphrodite.kv.spec import CacheGroup, KVPlan, LayerKV
from aphrodite.types.request import Request, Sequence
from aphrodite.types.sampling_params import SamplingParams

LAYER = LayerKV(num_heads=1, head_dim=4, value_dim=4, itemsize=4)
FULL = CacheGroup("full", (LAYER,))
SIZE = 4


def sliding(window: int) -> CacheGroup:
    return CacheGroup("sliding", (LAYER,), window)


class Cache:
    """A manager of blocks of four tokens, checked after each use."""

    def __init__(self, num_blocks: int, *groups: CacheGroup, **options: object) -> None:
        self.groups = groups or (FULL,)
        self.kv = KVCacheManager(KVPlan(self.groups, SIZE, num_blocks), **options)  # type: ignore[arg-type]
        self.live: list[Sequence] = []

    def sequence(self, tokens: list[int], salt: str | None = None, **sampling: object) -> Sequence:
        params = SamplingParams(**sampling)  # type: ignore[arg-type]
        request = Request("r", tuple(tokens), params, 0, frozenset(), len(tokens) + 100, cache_salt=salt)
        return Sequence(request, list(tokens), [[] for _ in self.groups])

    def start(self, tokens: list[int], salt: str | None = None) -> Sequence:
        """Match, adopt, compute and publish a whole sequence."""
        seq = self.sequence(tokens, salt)
        match = self.kv.match(seq)
        assert self.kv.reserve(seq, len(tokens), match) is not None
        self.live.append(seq)
        seq.num_cached_tokens = seq.num_computed = match.num_tokens
        self.kv.publish(seq, len(tokens))
        seq.num_computed = len(tokens)
        self.check()
        return seq

    def free(self, *seqs: Sequence) -> None:
        for seq in seqs:
            self.kv.free(seq)
            self.live.remove(seq)
        self.check()

    def check(self) -> None:
        self.kv.check(self.live)

    def matched(self, tokens: list[int], salt: str | None = None, **sampling: object) -> int:
        return self.kv.match(self.sequence(tokens, salt, **sampling)).num_tokens


def test_whole_blocks_of_a_common_prefix_are_adopted_held_or_free() -> None:
    cache = Cache(20)
    first = cache.start(list(range(11)))
    second = cache.start([*range(9), 99, 98])
    assert second.num_cached_tokens == 8 and second.blocks[0][:2] == first.blocks[0][:2]
    assert second.blocks[0][2] != first.blocks[0][2]
    cache.free(first, second)
    assert cache.kv.num_free == 20
    assert cache.start(list(range(11))).num_cached_tokens == 8


@pytest.mark.parametrize(("length", "expected"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_the_last_token_is_always_left_to_compute(length: int, expected: int) -> None:
    cache = Cache(20)
    cache.start(list(range(12)))
    assert cache.matched(list(range(length))) == expected


def test_a_block_is_found_behind_its_own_past_alone() -> None:
    cache = Cache(20)
    cache.start([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cache.matched([5, 6, 7, 8, 9]) == 0
    assert cache.matched([1, 2, 3, 0, 5, 6, 7, 8, 9]) == 0


def test_salts_share_nothing() -> None:
    cache = Cache(40)
    tokens = list(range(9))
    for salt in (None, "", "a", "b"):
        assert cache.matched(tokens, salt) == 0
        cache.start(tokens, salt)
        assert cache.matched(tokens, salt) == 8


def test_names_depend_on_a_key_of_the_engine() -> None:
    keys = (None, None, b"one key", b"one key")
    names = [Cache(4, key=key).start(list(range(9))).digests for key in keys]
    assert names[0] != names[1] and names[2] == names[3]
    assert all(len(name) == 16 for name in names[0])


def test_requests_for_prompt_log_probabilities_find_nothing() -> None:
    cache = Cache(20)
    cache.start(list(range(9)))
    assert cache.matched(list(range(9)), prompt_logprobs=0) == 0


def test_nothing_is_kept_when_it_is_switched_off() -> None:
    cache = Cache(20, prefix_caching=False)
    cache.start(list(range(9)))
    assert cache.matched(list(range(9))) == 0 and cache.kv.num_cached == 0


def test_the_longest_unused_is_forgotten_first_and_tails_before_heads() -> None:
    cache = Cache(6)
    old, young = cache.start([1] * 9), cache.start([2] * 9)  # three blocks each, two of them whole
    cache.free(old, young)
    cache.matched([1] * 9)  # a look is no use
    other = cache.start([3] * 9)  # the two empty blocks, then the tail of the oldest
    assert (cache.matched([1] * 9), cache.matched([2] * 9)) == (4, 8)
    cache.free(other)
    again = cache.start([1] * 9)
    assert again.num_cached_tokens == 4
    cache.free(again)
    assert cache.matched([1] * 9) == 8


def test_adopting_free_blocks_counts_against_the_room() -> None:
    cache = Cache(4)
    cache.free(cache.start(list(range(9))))
    seq = cache.sequence(list(range(17)))
    match = cache.kv.match(seq)
    assert match.num_tokens == 8
    assert not cache.kv.has_room(seq, 17, match) and cache.kv.reserve(seq, 17, match) is None
    assert seq.blocks == [[]] and cache.kv.num_free == 4
    assert cache.kv.has_room(seq, 16, match), "two adopted and two taken are all four"
    cache.live.append(seq)
    assert cache.kv.reserve(seq, 16, match) is not None and cache.kv.num_free == 0
    cache.check()


def test_what_is_unpublished_is_not_found_and_its_holders_keep_it() -> None:
    cache = Cache(20)
    first = cache.start(list(range(9)))
    second = cache.start(list(range(9)))
    cache.kv.taint(first)
    assert cache.matched(list(range(9))) == 0 and second.blocks[0][:2] == first.blocks[0][:2]
    cache.free(first, second)
    assert cache.kv.num_free == 20 and cache.kv.num_cached == 0
    assert cache.start(list(range(9))).num_cached_tokens == 0


def test_reset_forgets_everything_and_what_runs_goes_on() -> None:
    cache = Cache(20)
    seq, done = cache.start(list(range(9))), cache.start([7] * 9)
    cache.free(done)
    cache.kv.reset()
    assert cache.matched(list(range(9))) == cache.matched([7] * 9) == 0
    seq.tokens += [9, 10, 11, 12]
    assert cache.kv.reserve(seq, 13) is not None
    seq.num_computed = 13
    cache.kv.publish(seq, 13)
    cache.check()
    assert cache.matched(seq.tokens) == 0, "its name goes back to blocks that were forgotten"
    cache.free(seq)


def test_two_who_compute_the_same_publish_it_once() -> None:
    cache = Cache(20)
    tokens = list(range(9))
    one, two = cache.sequence(tokens), cache.sequence(tokens)
    for seq in (one, two):
        assert cache.kv.reserve(seq, 9, Match(0, ([],))) is not None
        cache.live.append(seq)
    first: list[Change] = []
    second: list[Change] = []
    cache.kv.publish(one, 9, first)
    cache.kv.publish(two, 9, second)
    assert len(first) == 2 and second == []
    cache.check()
    cache.free(two)
    assert cache.start(tokens).blocks[0][:2] == one.blocks[0][:2]


# ---- sliding windows ------------------------------------------------------------------------------------------------


def test_blocks_behind_the_window_are_given_back_as_a_sequence_advances() -> None:
    cache = Cache(10, FULL, sliding(6))
    seq = cache.start([5])
    for length in range(2, 33):
        seq.tokens.append(length)
        cache.kv.advance(seq)
        assert cache.kv.reserve(seq, length) is not None
        seq.num_computed = length
        cache.check()
        first_read = max(0, (length - 1) - 6 + 1) // SIZE  # the token just computed saw five before it
        table = seq.blocks[1]
        assert table[:first_read] == [0] * first_read and all(table[first_read:])
    assert len(seq.blocks[0]) == 8 and all(seq.blocks[0])
    changes = cache.kv.advance(seq)
    assert [(c.group, c.blocks) for c in changes] in ([], [(1, [0])])
    cache.free(seq)
    assert cache.kv.num_free == 10


def test_a_sliding_group_needs_the_last_window_alone() -> None:
    cache = Cache(20, FULL, sliding(6))
    tokens = list(range(25))
    seq = cache.start(tokens)
    cache.kv.advance(seq)
    cache.check()
    cache.free(seq)
    again = cache.start(tokens)
    assert again.num_cached_tokens == 24
    assert again.blocks[1][:4] == [0] * 4 and all(again.blocks[1][4:]) and all(again.blocks[0])


def test_a_hole_in_the_window_shortens_the_match() -> None:
    cache = Cache(40, FULL, sliding(6))
    tokens = list(range(25))
    seq = cache.start(tokens)
    table = list(seq.blocks[1])
    cache.kv._pools[1].unpublish([table[4]])
    # 24 tokens need blocks 4 and 5 (positions 19 on), 20 need 3 and 4 (positions 15 on), 16 need 2 and 3.
    assert cache.matched(tokens) == 16
    cache.kv._pools[0].unpublish([seq.blocks[0][2]])
    assert cache.matched(tokens) == 8


def brute_force(cached: list[set[int]], windows: list[int | None], limit: int) -> int:
    """The longest match by its definition: every position that the next token reads is cached in every group."""
    for length in range(limit, 0, -1):
        end = length * SIZE
        needed = [range(end) if w is None else range(max(0, end - w + 1), end) for w in windows]
        if all({p // SIZE for p in need} <= have for need, have in zip(needed, cached, strict=True)):
            return length
    return 0


@pytest.mark.parametrize("seed", range(60))
def test_matches_are_the_longest_that_windows_allow(seed: int) -> None:
    draw = random.Random(seed)
    windows = [draw.choice([None, 1, 2, 4, 5, 6, 9, 13]) for _ in range(draw.randint(1, 3))]
    groups = [FULL if w is None else sliding(w) for w in windows]
    cache = Cache(40, *groups)
    tokens = [draw.randrange(9) for _ in range(draw.randint(1, 50))]
    seq = cache.start(tokens)
    limit, cached = (len(tokens) - 1) // SIZE, []
    for group, pool in enumerate(cache.kv._pools):
        lost = {place for place in range(len(seq.blocks[group])) if draw.random() < 0.15}
        pool.unpublish([seq.blocks[group][place] for place in lost])
        cached.append(set(range(limit)) - lost)
    other = cache.sequence(tokens)
    match = cache.kv.match(other)
    assert match.num_tokens == brute_force(cached, windows, limit) * SIZE, f"windows {windows}"
    assert cache.kv.reserve(other, len(tokens), match) is not None
    other.num_computed = match.num_tokens
    cache.live.append(other)
    cache.check()
    cache.free(seq, other)
    assert cache.kv.num_free == 40


def test_a_salt_of_the_request_stays_with_it_after_preemption() -> None:
    cache = Cache(20)
    seq = cache.start(list(range(9)), salt="a")
    cache.free(seq)
    seq.num_computed = 0
    seq.request = replace(seq.request, priority=3)
    assert cache.kv.match(seq).num_tokens == 8
