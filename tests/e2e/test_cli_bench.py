"""`aphrodite bench`: figures that agree with each other, from exactly the work that was asked for."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from aphrodite.cli import bench
from tests.support.checkpoints import Checkpoints
from tests.support.cli import aphrodite, refused


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No tokenizer and no weights: a config alone."""
    folder = Checkpoints(tmp_path_factory.mktemp("bench")).llama()
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    return folder


def test_latency_adds_up(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    flags = ("--load-format", "dummy", "--batch-size", 3, "--input-len", 20, "--output-len", 9, "--num-iters", 4)
    run = aphrodite("bench", "latency", model, *flags, "--num-warmup", 1, "--json", "--out", out)
    assert run.returncode == 0
    assert run.stderr.startswith("cpu: ")
    assert run.stderr.count("\n") == 1
    document = json.loads(run.stdout)
    assert document == json.loads(out.read_text())
    assert document["schema"] == "aphrodite.bench.latency/1"
    assert document["options"]["batch_size"] == 3 and document["device"] == "cpu"
    for name in ("first_token_ms", "token_ms", "batch_ms"):
        found = document[name]
        assert 0 < found["min"] <= found["p50"] <= found["p90"] <= found["p99"] == found["max"]
        assert found["min"] <= found["mean"] <= found["max"]
    # each request is first token + 8 further ones, and no batch is shorter than its requests
    request_ms = document["first_token_ms"]["mean"] + 8 * document["token_ms"]["mean"]
    assert 0.5 * document["batch_ms"]["mean"] <= request_ms <= 1.001 * document["batch_ms"]["max"]
    rate = document["output_tokens_per_s"]["mean"]
    assert rate == pytest.approx(3 * 9 / (document["batch_ms"]["mean"] / 1000))
    table = aphrodite("bench", "latency", model, *flags, "--num-warmup", 0).stdout
    assert "first token, ms" in table and "p99" in table and max(map(len, table.splitlines()[1:])) <= 80


def test_throughput_counts_what_it_ran(model: Path) -> None:
    flags = ("--load-format", "dummy", "--num-prompts", 12, "--input-len", "5..30", "--output-len", "2..9")
    documents = [
        json.loads(aphrodite("bench", "throughput", model, *flags, "--json", "--seed", seed).stdout)
        for seed in (4, 4, 5)
    ]
    tokens = [document["num_tokens"] for document in documents]
    assert tokens[0] == tokens[1] != tokens[2]
    for document in documents:
        counts, elapsed = document["num_tokens"], document["elapsed_s"]
        assert 12 * 5 <= counts["prompt"] <= 12 * 30 and 12 * 2 <= counts["output"] <= 12 * 9
        assert counts["total"] == counts["prompt"] + counts["output"]
        assert document["requests_per_s"] == pytest.approx(12 / elapsed)
        assert document["tokens_per_s"] == pytest.approx({name: count / elapsed for name, count in counts.items()})
    assert "requests" in aphrodite("bench", "throughput", model, *flags, "--num-prompts", 2).stdout


def test_sampling_parameters_reach_the_requests_but_for_those_that_a_benchmark_fixes(model: Path) -> None:
    flags = ("--load-format", "dummy", "--num-iters", 1, "--output-len", 3)
    assert aphrodite("bench", "latency", model, *flags, "--temperature", 0, "--top-k", 5).returncode == 0
    refused(aphrodite("bench", "latency", model, *flags, "--top-k", -5), 2, "top_k must be")
    refused(aphrodite("bench", "latency", model, *flags, "--max-tokens", 5), 2, "has no flag --max-tokens")


def test_what_cannot_be_measured_is_refused_before_anything_runs(model: Path, tmp_path: Path) -> None:
    dummy = ("--load-format", "dummy")
    refused(aphrodite("bench", "latency", model, *dummy, "--input-len", 500), 2, "input_len 500", "512")
    refused(aphrodite("bench", "latency", model, *dummy, "--output-len", 1), 2, "output_len", "at least 2")
    refused(aphrodite("bench", "throughput", model, *dummy, "--input-len", "9..3"), 2, "input_len", "'9..3'")
    refused(aphrodite("bench", "throughput", model, *dummy, "--output-len", "0"), 2, "output_len", "'0'")
    refused(aphrodite("bench", "throughput", model, *dummy, "--out", tmp_path / "no" / "x"), 2, "out ", "written")
    refused(aphrodite("bench", "latency", tmp_path), 4, "config.json does not exist")


def test_percentiles_are_nearest_ranks() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for size in (1, 2, 3, 10, 99, 100, 101, 1000):
        values = [draw.random() for _ in range(size)]
        found = bench.statistics(values)
        assert found["mean"] == pytest.approx(statistics.fmean(values))
        for p in bench.PERCENTILES:  # the least value that at least p % are not above
            truth = min(v for v in values if 100 * sum(w <= v for w in values) >= p * size)
            assert found[f"p{p}"] == truth, (size, p)
