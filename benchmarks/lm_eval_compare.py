"""The same tasks, evaluated by lm-eval over HTTP and by lm-eval's own `hf` backend on the same checkpoint.

    python benchmarks/lm_eval_compare.py [--python PYTHON] [--limit N] [--out FILE]

This Python's environment has lm-eval; PYTHON has the packages of this project (default: this one). `aphrodite run demo`
in float32 answers `local-completions`; nothing comes from a hub: tasks and their data are in lm_eval_tasks/, the
tokenizer is in the model's folder. Compared are each request's log-likelihood and whether it was greedy, each text that
was drawn, and the figures of the tasks. Exit code 1 if they differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from served import Server

TASKS = Path(__file__).parent / "lm_eval_tasks"
MOST_DIFFERENCE = 1e-3  # nats of a log-likelihood: float32 sums in another order, over some hundred tokens
MOST_RELATIVE = 1e-4  # of a task's figure


def load_tasks() -> list[dict[str, Any]]:
    """The tasks as lm-eval takes them. Their data lies beside them, wherever that is."""
    import yaml

    return [yaml.safe_load(path.read_text().replace("FOLDER", str(TASKS))) for path in sorted(TASKS.glob("*.yaml"))]


def evaluate(model: str, arguments: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """What lm-eval finds."""
    from lm_eval import simple_evaluate

    return simple_evaluate(model, model_args=arguments, tasks=load_tasks(), limit=limit, bootstrap_iters=0)


def answers(found: dict[str, Any]) -> dict[tuple[str, int, int], Any]:
    """Each request's answer, by task, document and place."""
    return {
        (task, sample["doc_id"], place): answer[0]
        for task, samples in found["samples"].items()
        for sample in samples
        for place, answer in enumerate(sample["resps"])
    }


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Each task's figures."""
    return {
        f"{task} {name.partition(',')[0]}": value
        for task, results in found["results"].items()
        for name, value in results.items()
        if isinstance(value, float) and "stderr" not in name
    }


def difference(ours: Any, theirs: Any) -> float:
    """Of two log-likelihoods in nats; infinite where texts, or what was greedy, are not the same."""
    if isinstance(ours, str) or isinstance(theirs, str):
        return 0.0 if ours == theirs else float("inf")
    if isinstance(ours, (list, tuple)):
        return abs(ours[0] - theirs[0]) if bool(ours[1]) == bool(theirs[1]) else float("inf")
    return float(abs(ours - theirs))


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Print both, and what is wrong."""
    mine, others = answers(ours), answers(theirs)
    wrong = [] if mine.keys() == others.keys() else ["not the same requests were answered"]
    for task in ours["results"]:
        keys = [key for key in mine if key[0] == task and key in others]
        worst = max((difference(mine[key], others[key]) for key in keys), default=float("inf"))
        print(f"{task:32} {len(keys):4} answers   greatest difference {worst:.2g}")
        if not worst <= MOST_DIFFERENCE:
            key = max(keys, key=lambda key: difference(mine[key], others[key]))
            wrong.append(f"{task}: {mine[key]!r} over HTTP and {others[key]!r} by hf, document {key[1]}")
    theirs_ = figures(theirs)
    for name, value in figures(ours).items():
        print(f"{name:45} {value:10.6f} over HTTP {theirs_[name]:10.6f} hf")
        if not abs(value - theirs_[name]) <= MOST_RELATIVE * abs(theirs_[name]):
            wrong.append(f"{name} is {value} over HTTP and {theirs_[name]} by hf")
    return wrong


def main() -> int:
    """Run it; the exit code says whether they agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--limit", type=int, help="documents a task, for less")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from aphrodite_demo import DEMO

    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache  # what an earlier run read is not what this one reads
        server = Server("--device", "cpu", "--dtype", "float32", model="demo", python=args.python)
        try:
            asyncio.run(server.ready())
            over_http = {"model": "demo", "base_url": f"http://127.0.0.1:{server.port}/v1/completions"}
            more = {"tokenizer": str(DEMO), "num_concurrent": 8, "max_length": 1024, "add_bos_token": True}
            ours = evaluate("local-completions", {**over_http, **more}, args.limit)
        finally:
            server.end()
        hf = {"pretrained": str(DEMO), "dtype": "float32", "device": "cpu", "batch_size": 1, "add_bos_token": True}
        theirs = evaluate("hf", hf, args.limit)
    wrong = compare(ours, theirs)
    print("\n".join(wrong) or "they agree")
    if args.out:
        document = {"schema": "aphrodite.bench.lm_eval/1", "http": figures(ours), "hf": figures(theirs), "wrong": wrong}
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
