"""Training and held-out text as token files, made on all cores.

    python make_data.py --tokenizer tokenizer --out data --tokens 250e6

Writes train.npy [rows, 1025] and, a task each, held_out_TASK.npy, all int16: each row begins with a document and holds
whole documents only; what is left of it is the pad token. Shard i depends on the seed and i alone, so the data does not
depend on the number of cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from corpus import mix
from corpus.template import PAD
from make_tokenizer import LONGEST

ROW = LONGEST + 1  # inputs and targets are the row without its last and without its first token
ROWS_IN_SHARD = 2048
HELD_OUT_ROWS = 32
_OPEN = 12  # rows that wait for documents at a time
_BATCH = 512

Rows = NDArray[np.int16]


def main() -> None:
    """Make the shards and join them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--tokens", type=float, default=250e6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    make(args.tokenizer, args.out, int(args.tokens), seed=args.seed, processes=args.processes)


def make(tokenizer: Path, out: Path, tokens: int, *, seed: int, processes: int) -> None:
    """All files; `tokens` is rounded up to whole shards."""
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    path = str(tokenizer / "tokenizer.json")
    num_shards = -(-tokens // (ROWS_IN_SHARD * LONGEST))
    jobs = [(path, seed, f"held_out_{task}", HELD_OUT_ROWS) for task in mix.TASKS]
    jobs += [(path, seed, f"train {shard}", ROWS_IN_SHARD) for shard in range(num_shards)]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        made = pool.imap(_shard, jobs)
        for task in mix.TASKS:
            np.save(out / f"held_out_{task}.npy", next(made))
        train = np.lib.format.open_memmap(
            out / "train.npy", mode="w+", dtype=np.int16, shape=(num_shards * ROWS_IN_SHARD, ROW)
        )
        for shard in range(num_shards):
            train[shard * ROWS_IN_SHARD : (shard + 1) * ROWS_IN_SHARD] = next(made)
            if (shard + 1) % 20 == 0 or shard + 1 == num_shards:
                seconds = time.perf_counter() - began
                print(f"data: {shard + 1} of {num_shards} shards, {seconds:.0f} s", flush=True)
        train.flush()


def _shard(job: tuple[str, int, str, int]) -> Rows:
    path, seed, name, num_rows = job
    tokenizer = Tokenizer.from_file(path)
    rng = random.Random(f"{name} {seed}")
    if name.startswith("held_out_"):
        make, held_out = mix.TASKS[name.removeprefix("held_out_")], True
    else:
        make, held_out = mix.document, False
    return packed(tokenizer, lambda: make(rng, held_out), num_rows)


def packed(tokenizer: Tokenizer, make: Callable[[], str], num_rows: int) -> Rows:
    """Rows of whole documents, each put where it leaves the least room."""
    pad = tokenizer.token_to_id(PAD)
    rows: list[list[int]] = []
    waiting: list[list[int]] = []
    while len(rows) < num_rows:
        for encoded in tokenizer.encode_batch([make() for _ in range(_BATCH)], add_special_tokens=False):
            ids = encoded.ids
            if len(ids) > ROW:
                continue
            fits = [row for row in waiting if len(row) + len(ids) <= ROW]
            if fits:
                max(fits, key=len).extend(ids)
                continue
            if len(waiting) == _OPEN:
                fullest = max(waiting, key=len)
                waiting.remove(fullest)
                rows.append(fullest)
            waiting.append(list(ids))
    out = np.full((num_rows, ROW), pad, np.int16)
    for place, row in enumerate(rows[:num_rows]):
        out[place, : len(row)] = row
    return out


if __name__ == "__main__":
    main()
