"""Integers as people write them."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from aphrodite.cli.parse import Words, call, find_command
from aphrodite.config.engine import EngineConfig, config_from
from aphrodite.config.numbers import integer
from aphrodite.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32),
        ("32k", 32_000),
        ("32K", 32_768),
        ("1.5K", 1_536),
        ("1.5m", 1_500_000),
        ("2G", 2**31),
        ("1t", 10**12),
        ("1T", 2**40),
        ("-5", -5),
        ("-1.5k", -1_500),
        ("+7", 7),
        (" 8 ", 8),
        ("0.5K", 512),
    ],
)
def test_a_suffix_multiplies(text: str, value: int) -> None:
    assert integer(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.5", "0.3K", "1kk", "1 k", "0x10", "1e3", "one", "1_000", "٣", "9" * 5000])
def test_what_is_no_integer_stays_text(text: str) -> None:
    assert integer(text) == text


def test_fractions_are_exact() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(500):
        number, letter = f"{draw.randrange(10**6)}.{draw.randrange(10**6):06}", draw.choice("kKmMgGtT")
        power, base = "kmgt".index(letter.lower()) + 1, 1000 if letter.islower() else 1024
        truth = Fraction(number) * base**power
        assert integer(number + letter) == (int(truth) if truth.denominator == 1 else number + letter)


def settings_of(*flags: str) -> EngineConfig:
    command, words = find_command(["explain", "m", *flags])
    return config_from(call(command, Words(command, words)).settings)


def test_settings_take_them_and_refuse_others_in_one_way() -> None:
    assert settings_of("--max-model-len", "32K").model.max_model_len == 32_768
    assert settings_of("--max-model-len", "auto").model.max_model_len is None
    assert settings_of("--kv-cache-memory-bytes", "1.5G").cache.kv_cache_memory_bytes == 3 * 2**29
    for wrong, got in (("many", "'many'"), ("0", "0"), ("-1k", "-1000"), ("1.5", "'1.5'"), ("auto", "'auto'")):
        with pytest.raises(UsageError, match=f"max_num_seqs must be an integer of at least 1, got {got}"):
            settings_of(f"--max-num-seqs={wrong}")
    with pytest.raises(UsageError, match="max_num_seqs must be an integer of at least 1, got '8'"):
        config_from({"max_num_seqs": "8"})  # in Python a number is a number
