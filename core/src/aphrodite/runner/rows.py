"""Row state: where each field lies, and the host's differences as (index, value) pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aphrodite.errors import CapacityError
from aphrodite.platform.dtypes import ITEMSIZE
from aphrodite.platform.layout import RowField
from aphrodite.types.step import Int32, NewBlocks, NewRow

_WORD = ITEMSIZE["i32"]
_MAX_F32 = float(np.finfo(np.float32).max)


class RowTable:
    """The layout of the state: num_rows rows and a spare one, of `width` i32 words each.

    seed | num_tokens num_computed temperature child | table0 ... | tokens
    """

    def __init__(self, *, num_rows: int, max_len: int, table_width: int, num_groups: int) -> None:
        self.num_rows = num_rows
        fields: list[RowField] = []
        column = 0
        wanted = [("seed", "i64", 1)]
        wanted += [
            ("num_tokens", "i32", 1),
            ("num_computed", "i32", 1),
            ("temperature", "f32", 1),
            ("child", "i32", 1),
        ]
        wanted += [(f"table{group}", "i32", table_width) for group in range(num_groups)]
        wanted += [("tokens", "i32", max_len + 1)]
        for name, dtype, width in wanted:
            fields.append(RowField(name, dtype, column, width))
            column += width * ITEMSIZE[dtype] // _WORD
        self.fields = tuple(fields)
        self.width = column + column % 2  # i64 fields stay aligned in every row
        self.shape = (num_rows + 1, self.width)
        self._columns = {field.name: field.column for field in fields}
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
            write(new.row, "temperature", np.array([min(new.temperature, _MAX_F32)], np.float32).view(np.int32))
            numbers = (
                ("num_tokens", len(new.tokens)),
                ("num_computed", new.num_computed),
                ("child", new.child),
            )
            for name, number in numbers:
                write(new.row, name, np.array([number], np.int32))
            write(new.row, "tokens", np.array(new.tokens, np.int32))
        for added in new_blocks:
            write(added.row, f"table{added.group}", np.array(added.blocks, np.int32), added.start)
        if not index:
            return _NONE, _NONE
        return np.concatenate(index), np.concatenate(values)


_NONE: Int32 = np.empty(0, np.int32)
