"""How long a newcomer waits: import, --help, and from LLM(...) to the first token.

    python benchmarks/startup.py [--out FILE]

Each row is the best of several fresh processes, less a bare interpreter where that is the limit's wording. The first
token is measured on a checkpoint of about 100 MB with dummy weights, after torch has been imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
    "torch_dtype": "float32",
    "tie_word_embeddings": True,
}
FIRST_TOKEN = """
import time, torch
from aphrodite import LLM, SamplingParams
start = time.perf_counter()
with LLM({folder!r}, load_format="dummy") as llm:
    llm.generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=1))
    print(time.perf_counter() - start)
"""


def best_of(runs: int, *command: str) -> float:
    """Seconds by the clock of the quickest of several processes."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    bare = best_of(7, "-c", "pass")
    rows = {
        "import aphrodite": (best_of(7, "-c", "import aphrodite") - bare, 0.150),
        "import aphrodite.plugin": (best_of(7, "-c", "import aphrodite.plugin") - bare, 0.150),
        "aphrodite --help": (best_of(7, "-m", "aphrodite.cli.main", "--help") - bare, 0.300),
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        code = FIRST_TOKEN.format(folder=folder)
        runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) for _ in range(3)]
        rows["LLM(...) to first token, 100 MB"] = (min(float(run.stdout) for run in runs), 2.0)
    print(f"{'what':34} {'seconds':>8} {'limit':>7} {'share':>6}")
    for name, (seconds, limit) in rows.items():
        print(f"{name:34} {seconds:8.3f} {limit:7.3f} {seconds / limit:6.2f}")
    if args.out:
        figures = {name: {"seconds": seconds, "limit": limit} for name, (seconds, limit) in rows.items()}
        args.out.write_text(json.dumps({"schema": "aphrodite.bench.startup/1", "bare_s": bare, "rows": figures}))


if __name__ == "__main__":
    main()
