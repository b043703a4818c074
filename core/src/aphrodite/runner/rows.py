"""Row state: where each field lies, and the host's differences as (index, value) pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aphrodite.errors import CapacityError
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.platform.layout import RowField
from aphrodite.types.shaping import MAX_BAD_TOKENS, MAX_BIASES, MAX_STOPS, Shaping
from aphrodite.types.step import Int32, NewBlocks, NewRow

_WORD = ITEMSIZE["i32"]
_BITS = 32
_MAX_F32 = float(np.finfo(np.float32).max)
_NUMBERS = (  # one after the other, so that a row's are one write
    ("num_tokens", "i32"),
    ("num_computed", "i32"),
    ("temperature", "f32"),
    ("child", "i32"),
    ("num_prompt", "i32"),
    ("top_k", "i32"),
    ("top_p", "f32"),
    ("min_p", "f32"),
    ("repetition", "f32"),
    ("frequency", "f32"),
    ("presence", "f32"),
    ("min_len", "i32"),
    ("num_stops", "i32"),
    ("num_biases", "i32"),
    ("num_bad_tokens", "i32"),
    ("has_allowed", "i32"),
)
_LISTS = (
    ("stops", "i32", MAX_STOPS),
    ("bias_ids", "i32", MAX_BIASES),
    ("biases", "f32", MAX_BIASES),
    ("bad_ids", "i32", MAX_BAD_TOKENS),
    ("bad_places", "i32", MAX_BAD_TOKENS),
)


class RowTable:
    """The layout of the state: num_rows rows and a spare one, of `width` i32 words each.

    seed | numbers, one a field | stops biases bad words allowed | table0 ... | tokens

    How the lists lie is said at Rows. An ordinary request writes none, only the numbers that turn them off.
    """

    def __init__(self, *, num_rows: int, max_len: int, table_width: int, num_groups: int, vocab_size: int) -> None:
        self.num_rows = num_rows
        fields: list[RowField] = []
        column = 0
        wanted = [("seed", "i64", 1)]
        wanted += [(name, dtype, 1) for name, dtype in _NUMBERS]
        wanted += _LISTS
        wanted += [("allowed", "i32", -(-vocab_size // _BITS))]
        wanted += [(f"table{group}", "i32", table_width) for group in range(num_groups)]
        wanted += [("tokens", "i32", max_len + 1)]
        for name, dtype, width in wanted:
            fields.append(RowField(name, dtype, column, width))
            column += width * ITEMSIZE[dtype] // _WORD
        self.fields = tuple(fields)
        self.width = column + column % 2  # i64 fields stay aligned in every row
        self.shape = (num_rows + 1, self.width)
        self._columns = {field.name: field.column for field in fields}
        self._allowed_words = -(-vocab_size // _BITS)
        if self.shape[0] * self.shape[1] >= 2**31:
            raise CapacityError(
                f"row state of {num_rows} sequences of {max_len} tokens has more than 2^31 words: lower max_num_seqs "
                "or max_model_len",
                subject="max_num_seqs",
            )

    def updates(self, new_rows: Sequence[NewRow], new_blocks: Sequence[NewBlocks]) -> tuple[Int32, Int32]:
        """The differences as distinct flat indices and their values."""
        index: list[Int32] = []
        values: list[Int32] = []

        def write(row: int, name: str, data: Int32, start: int = 0) -> None:
            first = row * self.width + self._columns[name] + start
            index.append(np.arange(first, first + len(data), dtype=np.int32))
            values.append(data)

        for new in new_rows:
            write(new.row, "seed", np.array([new.seed], np.int64).view(np.int32))
            write(new.row, _NUMBERS[0][0], _numbers(new))
            for name, data in _lists(new.shaping, self._allowed_words):
                write(new.row, name, data)
            write(new.row, "tokens", np.array(new.tokens, np.int32))
        for added in new_blocks:
            write(added.row, f"table{added.group}", np.array(added.blocks, np.int32), added.start)
        if not index:
            return _NONE, _NONE
        return np.concatenate(index), np.concatenate(values)


_NONE: Int32 = np.empty(0, np.int32)


def _numbers(new: NewRow) -> Int32:
    """A new row's numbers, in their order."""
    shaping = new.shaping
    values = (
        len(new.tokens),
        new.num_computed,
        new.temperature,
        new.child,
        shaping.num_prompt,
        shaping.top_k,
        shaping.top_p,
        shaping.min_p,
        shaping.repetition,
        shaping.frequency,
        shaping.presence,
        shaping.min_len,
        len(shaping.stops),
        len(shaping.biases),
        sum(map(len, shaping.bad_words)),
        int(shaping.allowed is not None),
    )
    out = np.empty(len(_NUMBERS), np.int32)
    floats = out.view(np.float32)
    for place, ((_, dtype), value) in enumerate(zip(_NUMBERS, values, strict=True)):
        if dtype == "f32":
            floats[place] = min(value, _MAX_F32)
        else:
            out[place] = value
    return out


def _lists(shaping: Shaping, allowed_words: int) -> Iterator[tuple[str, Int32]]:
    """The entries of a row's lists; none for a request that brought none."""
    if shaping.stops:
        yield "stops", np.array(shaping.stops, np.int32)
    if shaping.biases:
        yield "bias_ids", np.array([token for token, _ in shaping.biases], np.int32)
        yield "biases", np.array([bias for _, bias in shaping.biases], np.float32).view(np.int32)
    if shaping.bad_words:
        yield "bad_ids", np.concatenate([np.array(word, np.int32) for word in shaping.bad_words])
        yield "bad_places", np.concatenate([_places(len(word)) for word in shaping.bad_words])
    if shaping.allowed is not None:
        bits = np.zeros(allowed_words * _BITS, np.uint8)
        bits[list(shaping.allowed)] = 1
        yield "allowed", np.packbits(bits, bitorder="little").view("<i4").astype(np.int32)


def _places(length: int) -> Int32:
    """[-(length - 1) ... -2 -1 length]"""
    places = np.arange(1 - length, 1, dtype=np.int32)
    places[-1] = length
    return places
