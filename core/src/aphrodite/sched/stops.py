"""Which token ids end a sequence: one look for a whole step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from aphrodite.types.request import Sequence


class StopIds:
    """How many running sequences each token id would end. A hit is a suspicion: the sequence itself decides."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int32)  # the last entry stands for all larger ids and stays 0

    def add(self, seq: Sequence) -> None:
        ids = _ids(seq)
        grown = max(ids, default=-1) + 2
        if grown > len(self._counts):
            self._counts = np.concatenate((self._counts, np.zeros(grown - len(self._counts), np.int32)))
        for token in ids:
            self._counts[token] += 1

    def remove(self, seq: Sequence) -> None:
        for token in _ids(seq):
            self._counts[token] -= 1

    def hits(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each token, none of them negative, ends some sequence."""
        found: npt.NDArray[np.bool_] = self._counts[np.minimum(tokens, len(self._counts) - 1)] > 0
        return found


def _ids(seq: Sequence) -> Iterable[int]:
    sampling = seq.request.sampling
    return {*sampling.stop_token_ids, *(() if sampling.ignore_eos else seq.request.stop_ids)}
