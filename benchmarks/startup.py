"""How long a newcomer waits: for an import, for --help, for a first token from LLM(...) and from `aphrodite run`.

    python benchmarks/startup.py [--runs 5] [--out FILE]

Each row is the best of several fresh processes, less a bare interpreter where that is the limit's wording. The first
token is measured on a checkpoint of about 100 MB with dummy weights, after torch has been imported. `aphrodite run
demo` (aphrodite-demo) takes turns with `python -c "import torch"`; both medians are shown, and the limit is on their
difference.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
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


def import_torch() -> float:
    """Seconds that a fresh process takes to import torch."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - start


def serve_demo() -> tuple[float, float]:
    """Seconds from the command to /ready, and to the end of an answer of one token."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    start = time.perf_counter()
    command = [sys.executable, "-m", "aphrodite.cli.main", "run", "demo", "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not is_ready(port):
            if server.poll() is not None:
                raise RuntimeError(f"aphrodite run demo has ended with {server.returncode}")
            time.sleep(0.005)
        ready_s = time.perf_counter() - start
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 1}).encode()
        url = f"http://127.0.0.1:{port}/v1/completions"
        urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/json"})).read()
        return ready_s, time.perf_counter() - start
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def is_ready(port: int) -> bool:
    """Whether the server would take a request on now."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready"):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of aphrodite run and of import torch")
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
    turns = [(import_torch(), *serve_demo()) for _ in range(args.runs)]
    torch_s, ready_s, first_s = (statistics.median(column) for column in zip(*turns, strict=True))
    rows["aphrodite run demo, over import torch"] = (first_s - torch_s, 1.5)
    print(f"{'what':38} {'seconds':>8} {'limit':>7} {'share':>6}")
    for name, (seconds, limit) in rows.items():
        print(f"{name:38} {seconds:8.3f} {limit:7.3f} {seconds / limit:6.2f}")
    print(f"import torch {torch_s:.2f}, aphrodite run demo to /ready {ready_s:.2f}, to the first token {first_s:.2f} s")
    if args.out:
        figures = {name: {"seconds": seconds, "limit": limit} for name, (seconds, limit) in rows.items()}
        served = {"import_torch_s": torch_s, "ready_s": ready_s, "first_token_s": first_s}
        args.out.write_text(
            json.dumps({"schema": "aphrodite.bench.startup/1", "bare_s": bare, "rows": figures, **served})
        )


if __name__ == "__main__":
    main()
