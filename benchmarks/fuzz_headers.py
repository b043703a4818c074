"""Headers of checkpoint files with some of their bytes changed: each is refused by a CheckpointError, or it is sound.

    python benchmarks/fuzz_headers.py [--count 1000000] [--processes 2] [--seed N] [--out FILE]

A sound file of a few tensors, changed in one to four places (`mutations.py`), the data's end cut or grown now and then.
Wrong are any other error, a header that is taken though a tensor does not lie in the data or has not the size that it
says, an address in a message, and an answer that takes more than two seconds.

--out writes {"schema": "aphrodite.bench.fuzz_headers/1", ...}. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mutations import mutated
from served import circumstances

MOST_S = 2.0
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "F8_E4M3": 1}
_SHAPES = {
    "embed.weight": ("F32", [4, 3]),
    "layers.0.q.weight": ("BF16", [2, 2, 2]),
    "b": ("U8", []),
    "é": ("I64", [0]),
}


def sound() -> tuple[bytes, int]:
    """A header, and the bytes of its data."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in _SHAPES.items():
        size = math.prod(shape) * _SIZES[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return json.dumps(entries, separators=(",", ":")).encode(), end


def files(count: int, rng: random.Random) -> Iterator[bytes]:
    """Changed files. In half of them the length before the header still fits, so that what is in it is looked at."""
    header, size = sound()
    for _ in range(count):
        if rng.random() < 0.5:
            changed = mutated(header, rng)
            start = len(changed).to_bytes(8, "little") + changed
        else:
            start = mutated(len(header).to_bytes(8, "little") + header, rng)
        yield start + bytes(max(0, size + (rng.randint(-4, 4) if rng.random() < 0.1 else 0)))


def run(count: int, seed: int) -> dict[str, int]:
    """What became of so many."""
    from aphrodite.errors import CheckpointError
    from aphrodite.weights.header import read_header

    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "model.safetensors"
        for data in files(count, random.Random(seed)):
            path.write_bytes(data)
            began = time.monotonic()
            try:
                found = read_header(path)
            except CheckpointError as error:
                seen["refused"] += 1
                seen["wrong: an address in a message"] += bool(_ADDRESS.search(str(error)))
            except BaseException as error:
                seen[f"wrong: {type(error).__name__}"] += 1
            else:
                seen["taken"] += 1
                seen["wrong: taken, and not sound"] += not all(_fits(entry, at, len(data)) for _, entry, at in found)
            seen["wrong: slow"] += time.monotonic() - began > MOST_S
    return dict(+seen)


def _fits(entry: dict[str, Any], at: int, num_bytes: int) -> bool:
    start, stop = entry["data_offsets"]
    size = _SIZES.get(entry["dtype"])
    is_sized = size is None or math.prod(entry["shape"]) * size == stop - start
    return 0 <= start <= stop <= num_bytes - at and is_sized


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    about, began, seen = circumstances(), time.monotonic(), Counter[str]()
    each = -(-args.count // args.processes)
    with ProcessPoolExecutor(args.processes) as pool:
        for found in pool.map(run, [each] * args.processes, range(args.seed, args.seed + args.processes)):
            seen.update(found)
    del about["model"]
    document = {"schema": "aphrodite.bench.fuzz_headers/1", **about, "seed": args.seed, "seen": dict(seen)}
    document["took_s"] = round(time.monotonic() - began, 1)
    print(json.dumps(document))
    if args.out:
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(name.startswith("wrong") for name in seen))


if __name__ == "__main__":
    sys.exit(main())
