"""Decode of a Llama-3.1-8B shape on one GPU through the core's own Program and Runner: graphs and overlap on and off.

    python benchmarks/gpu_prototype/run.py [--layers 32] [--out FILE]

Random weights in bfloat16, prompt 128, greedy; ms/step = (time for 256 tokens - time for 32) / 224, median of 5.
Printed beside the device's floor (weight bytes over the read bandwidth measured in the same run) and vLLM 0.20.0's
4.92 ms, measured on an H200 on 2026-11-22 with the same lengths. Modes: eager; graphs, each step waited for; overlap,
graphs with a step in flight. All three must draw the same tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

VLLM_MS = {1: 4.92, 16: 5.185, 64: 6.119}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}


def install(folder: Path) -> None:
    """Make the prototype a plugin that discovery finds: metadata in a folder on the path."""
    info = folder / "gpu_prototype-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpu-prototype\nVersion: 0.1.0\n")
    points = "[aphrodite.plugins]\nproto = gpu_prototype.plugin\n\n[aphrodite.contract]\nproto = v0_1\n"
    (info / "entry_points.txt").write_text(points)
    sys.path[:0] = [str(folder), str(Path(__file__).parent.parent)]


def read_bandwidth() -> float:
    """Bytes a second of reading 4 GiB, best of several."""
    data = torch.ones(1 << 30, dtype=torch.float32, device="cuda")
    best = 0.0
    for _ in range(6):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        data.sum()
        stop.record()
        torch.cuda.synchronize()
        best = max(best, data.numel() * 4 / (start.elapsed_time(stop) * 1e-3))
    return best


def weight_bytes(config: dict[str, object]) -> int:
    """Bytes of the matrices that a decode step reads."""
    size = {name: value for name, value in config.items() if isinstance(value, int)}
    hidden, heads, kv = size["hidden_size"], size["num_attention_heads"], size["num_key_value_heads"]
    layer = hidden * (heads + 2 * kv) * 128 + heads * 128 * hidden + 3 * hidden * size["intermediate_size"]
    return 2 * (layer * size["num_hidden_layers"] + size["vocab_size"] * hidden)


def generate(llm: object, prompts: list[list[int]], num_tokens: int) -> tuple[float, list[list[int]]]:
    """Wall clock of one generate call, and its tokens."""
    from aphrodite import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    llm.reset_prefix_cache()  # type: ignore[attr-defined]
    start = time.perf_counter()
    outputs = llm.generate(prompts, sampling)  # type: ignore[attr-defined]
    return time.perf_counter() - start, [output.outputs[0].token_ids for output in outputs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = {**CONFIG, "num_hidden_layers": args.layers}
    bandwidth = read_bandwidth()
    floor_ms = weight_bytes(config) / bandwidth * 1e3
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        (Path(folder) / "config.json").write_text(json.dumps(config))
        from aphrodite import LLM

        start = time.perf_counter()
        with LLM(folder, device="proto", load_format="dummy", max_model_len=1024, max_num_seqs=64) as llm:
            print(f"loaded in {time.perf_counter() - start:.1f} s; read {bandwidth / 1e9:.0f} GB/s")
            graphs = llm._local.engine._runner._graphs
            captures = graphs._graphs
            generator = torch.Generator().manual_seed(0)
            for batch in (1, 16, 64):
                prompts = [torch.randint(0, 100000, (128,), generator=generator).tolist() for _ in range(batch)]
                seen = []
                for mode in ("eager", "graphs", "overlap"):
                    graphs._graphs = None if mode == "eager" else captures
                    llm._local.engine._steps_in_flight = int(mode == "overlap")
                    times = []
                    for _ in range(2 if mode == "eager" else 5):
                        many, tokens = generate(llm, prompts, 256)
                        few, _ = generate(llm, prompts, 32)
                        times.append((many - few) / 224 * 1e3)
                        seen.append(tokens)
                    rows.append((batch, mode, statistics.median(times), min(times), max(times)))
                same = sum(one == seen[0] for one in seen)
                print(f"batch {batch}: {same} of {len(seen)} runs drew the same tokens")
    print(f"{'batch':>5} {'mode':7} {'ms/step':>8} {'min':>7} {'max':>7} {'floor':>7} {'x floor':>8} {'x vLLM':>7}")
    for batch, mode, ms, low, high in rows:
        print(
            f"{batch:5} {mode:7} {ms:8.3f} {low:7.3f} {high:7.3f} {floor_ms:7.3f} {ms / floor_ms:8.2f} "
            f"{ms / VLLM_MS[batch]:7.2f}"
        )
    if args.out:
        names = ("batch", "mode", "ms", "min_ms", "max_ms")
        figures = [dict(zip(names, row, strict=True)) for row in rows]
        document = {"schema": "aphrodite.bench.gpu_prototype/1", "floor_ms": floor_ms, "rows": figures}
        args.out.write_text(json.dumps(document))


if __name__ == "__main__":
    main()
