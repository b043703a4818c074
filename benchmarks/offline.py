"""Offline throughput on the CPU beside Transformers, in one run.

    python benchmarks/offline.py [--requests 32] [--new-tokens 64] [--repeats 3] [--threads N] [--out FILE]

A Llama of 134 million parameters with random weights, float32; prompts of 64 to 512 tokens, all of them given at once
to `LLM.generate`, one after the other to Transformers' own `generate` (greedy, with its cache, on as many threads).
Tokens a second count prompts and outputs. The floor is what a perfect engine would take on the same matrix products:
prefill at the rate of one large product measured in the same run, and the weights read once for each decode step at
the measured bandwidth.

With --threads 1 the seconds are the process's own CPU time, which a busy machine does not spoil; with more they are the
clock's.

--out writes {"schema": "aphrodite.bench.offline/1", ...}.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

CONFIG = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "intermediate_size": 2048,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


Clock = Callable[[], float]


def best_s(run: Callable[[], object], repeats: int, clock: Clock) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def floor_s(num_prompt: int, num_steps: int, parameters: int, clock: Clock) -> float:
    """Seconds that the matrix products and the reading of weights take at the measured rates."""
    m, k, n = 1024, 2048, 2048
    a, b = torch.randn(m, k), torch.randn(n, k)
    flops = 2 * m * k * n / best_s(lambda: torch.nn.functional.linear(a, b), 10, clock)
    data = torch.ones(64 << 20)
    bandwidth = data.numel() * 4 / best_s(data.sum, 5, clock)
    print(
        f"one product {flops / 1e9:.0f} GFLOP/s, reading {bandwidth / 1e9:.1f} GB/s, {torch.get_num_threads()} threads"
    )
    return 2 * parameters * num_prompt / flops + 4 * parameters * num_steps / bandwidth


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of ours; the median counts. Transformers runs once"
    )
    parser.add_argument("--threads", type=int, help="threads of both; default: torch's")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from transformers import LlamaConfig, LlamaForCausalLM

    from aphrodite import LLM, SamplingParams

    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 32000) for _ in range(draw.randint(64, 512))] for _ in range(args.requests)]
    num_prompt, num_new = sum(map(len, prompts)), args.requests * args.new_tokens
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    parameters = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    floor = floor_s(num_prompt, args.new_tokens, parameters, clock)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        sampling = SamplingParams(temperature=0, max_tokens=args.new_tokens, ignore_eos=True)
        with LLM(folder, device="cpu", max_model_len=1024, max_num_seqs=max(32, args.requests)) as llm:
            ours = []
            for _ in range(args.repeats):
                llm.reset_prefix_cache()
                start = clock()
                outputs = llm.generate(prompts, sampling)
                ours.append(clock() - start)
    assert all(len(output.outputs[0].token_ids) == args.new_tokens for output in outputs)
    same = 0
    start = clock()
    with torch.inference_mode():
        for prompt, output in zip(prompts, outputs, strict=True):
            ids = torch.tensor([prompt])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.new_tokens,
                min_new_tokens=args.new_tokens, do_sample=False, pad_token_id=0,
            )  # fmt: skip
            same += out[0, len(prompt) :].tolist() == output.outputs[0].token_ids
    theirs = clock() - start
    seconds, total = statistics.median(ours), num_prompt + num_new
    print(f"{args.requests} requests, {num_prompt} prompt and {num_new} new tokens; {same} of them with the same text")
    print(f"{'':14} {'s':>8} {'tokens/s':>9} {'x floor':>8}")
    for name, s in (("floor", floor), ("aphrodite", seconds), ("transformers", theirs)):
        print(f"{name:14} {s:8.2f} {total / s:9.0f} {s / floor:8.2f}")
    print(f"ours are {theirs / seconds:.2f} times the tokens/s of Transformers (wanted: 3)")
    if args.out:
        figures = {"ours_s": ours, "transformers_s": theirs, "floor_s": floor, "tokens": total}
        args.out.write_text(json.dumps({"schema": "aphrodite.bench.offline/1", **figures}))


if __name__ == "__main__":
    main()
