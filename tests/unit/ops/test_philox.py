"""Philox 4x32-10 against published answers and against a second implementation on unsigned integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aphrodite.ops.philox import philox, random_words

ONES = 0xFFFFFFFF
KNOWN = [  # counter, key, answer: kat_vectors of Random123, philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def second(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al. 2011, section 4.3, on Python's unbounded integers cut by numpy's uint64."""
    c, k = [np.uint64(word) for word in counter], [np.uint64(word) for word in key]
    low, shift = np.uint64(ONES), np.uint64(32)
    for _ in range(10):
        left, right = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(right >> shift) ^ c[1] ^ k[0], right & low, (left >> shift) ^ c[3] ^ k[1], left & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return [int(word) for word in c]


def words(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    made = philox(tuple(torch.tensor([word]) for word in counter), (torch.tensor([key[0]]), torch.tensor([key[1]])))
    return tuple(int(word.item()) for word in made)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_published_answers(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert words(counter, key) == answer
    assert tuple(second(list(counter), list(key))) == answer


@pytest.mark.parametrize("seed", range(5))
def test_random_counters_and_keys_agree_with_the_second_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = [int(x) for x in rng.integers(0, 2**32, 6)]
    assert list(words(tuple(numbers[:4]), tuple(numbers[4:]))) == second(numbers[:4], numbers[4:])


@pytest.mark.parametrize("vocab", [1, 3, 4, 5, 101])
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_a_draw_is_keyed_by_seed_and_counted_by_vocabulary_position_child_and_stage(vocab: int, seed: int) -> None:
    position, child, stage = 2**33 + 7, 3, 5
    lane = torch.tensor([child], dtype=torch.int32)
    made = random_words(torch.tensor([seed]), torch.tensor([position]), lane, stage, vocab)
    expected = [
        word
        for quad in range(-(-vocab // 4))
        for word in second([quad, position & ONES, child, stage], [seed & ONES, seed >> 32])
    ]
    assert made.tolist() == [expected[:vocab]]
