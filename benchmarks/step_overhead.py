"""What the host adds to a step: schedule + update, with a runner that returns fresh tokens at once; submit + sample.

    python benchmarks/step_overhead.py [--steps N] [--out FILE]

Steady decode, by number of sequences: stop ids looked for, lengths counted, blocks reserved and published as they fill,
outputs handed to a consumer that takes each sequence's new token; detokenising is not in it. Sequences have lengths of
their own, so that block boundaries are spread over the steps.

submit + sample on the host: the real runner and Programs of a 32-layer model on the core's CPU platform, every kernel
replaced by an empty function once the engine has run. What is left is staging, uploads, downloads and the replay of
some 300 calls.

The prefix cache: finding a prompt of 32k tokens, and admitting 256 requests that share 2,048 tokens, as ratios to the
time of bare hashing (the same tokens, packed and hashed block by block, nothing else) in the same run.

--out writes {"schema": "aphrodite.bench.step_overhead/1", "machine": {...}, "results": [...]}.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from aphrodite.build import assemble
from aphrodite.config.engine import CacheConfig, DeviceConfig, EngineConfig, ModelConfig, SchedulerConfig
from aphrodite.engine.engine import Engine
from aphrodite.kv.manager import KVCacheManager
from aphrodite.kv.spec import CacheGroup, KVPlan, LayerKV
from aphrodite.sched.scheduler import Budget, Scheduler
from aphrodite.types.request import Request, Sequence
from aphrodite.types.sampling_params import SamplingParams
from aphrodite.types.step import SchedulerOutput, StepOutput

SIZE = 16
GROUP = CacheGroup("full", (LayerKV(8, 128, 128, 2),))
TARGETS_US = {1: 60.0, 256: 250.0}
RUNNER_TARGETS_US = {1: 100.0, 256: 250.0}
NETWORK = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}
MOST_TIMES_HASHING = 2.0
STOP_IDS = frozenset({151_643, 151_645})
KEY = b"of the bare hashing, 32 bytes..."


class FakeRunner:
    """Draws a fresh token for every logit row; none of them ends a sequence."""

    def __init__(self) -> None:
        self._tokens = np.random.default_rng(0).integers(0, 150_000, (64, 1024))
        self._count = 0

    def run(self, plan: SchedulerOutput) -> StepOutput:
        self._count += 1
        return StepOutput(self._tokens[self._count % 64, : int(plan.num_logits.sum())].copy(), None)


def scheduler(num_seqs: int, num_blocks: int, num_tokens: int = 1 << 20) -> Scheduler:
    """A scheduler for so many sequences."""
    kv = KVCacheManager(KVPlan((GROUP,), SIZE, num_blocks))
    return Scheduler(kv, Budget(num_tokens, num_seqs, max(64, num_seqs)))


def request(name: str, tokens: tuple[int, ...], max_tokens: int) -> Request:
    """A request that may end by two token ids, as those of chat models do."""
    return Request(name, tokens, SamplingParams(max_tokens=max_tokens), 0, STOP_IDS, len(tokens) + max_tokens)


def steady_us(num_seqs: int, steps: int) -> float:
    """Microseconds of schedule + update + hand-off, the runner's time taken out: the best window of SIZE steps, in
    which each sequence fills exactly one block."""
    rng = np.random.default_rng(num_seqs)
    sched, runner = scheduler(num_seqs, num_seqs * (-(-(400 + steps) // SIZE) + 1)), FakeRunner()
    for number in range(num_seqs):
        tokens = tuple(rng.integers(0, 150_000, int(rng.integers(20, 300))).tolist())
        sched.add(request(str(number), tokens, steps + 50))
    handed: list[tuple[str, int]] = []
    times = []
    for step in range(steps + 10):
        start = time.perf_counter()
        plan = sched.schedule()
        middle = time.perf_counter()
        assert plan is not None
        result = runner.run(plan)
        back = time.perf_counter()
        changed = sched.update(plan, result)
        handed = [(seq.request.request_id, seq.tokens[-1]) for seq in changed]
        end = time.perf_counter()
        assert len(handed) == num_seqs
        if step >= 10:
            times.append(middle - start + end - back)
    sched.check()
    return min(statistics.fmean(times[first : first + SIZE]) for first in range(0, steps - SIZE, SIZE)) * 1e6


def stub(engine: Engine) -> int:
    """Replace every kernel that is bound so far by an empty function; how many calls a step has."""

    def nothing(dims: object) -> None:
        pass

    count = 0
    for program in engine._runner._programs:  # type: ignore[attr-defined]
        count = max(count, *(len(runs) for runs in program._runs.values()), 0)
        program._bound = dict.fromkeys(program._bound, nothing)
        program._runs.clear()
    return count


def runner_us(num_seqs: int, steps: int) -> float:
    """Microseconds of submit + sample in steady decode, the best window of SIZE steps."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(NETWORK))
        config = EngineConfig(
            ModelConfig(folder, dtype="float32", load_format="dummy", max_model_len=2048),
            CacheConfig(num_blocks=num_seqs * (steps + 128) // SIZE + 2 * num_seqs + 200),
            SchedulerConfig(max_num_seqs=max(num_seqs, 16)),
            DeviceConfig("cpu", plugins="none"),
        )
        engine = assemble(config).engine
    for number in range(num_seqs):
        prompt = tuple(range(20 + number % SIZE))
        engine.add(request(str(number), prompt, steps + 50))
    while engine.step() == [] or any(not seq.num_output for seq in engine._scheduler.live()):
        pass
    stub(engine)
    sched, runner, fake, times = engine._scheduler, engine._runner, FakeRunner(), []
    for step in range(steps + 10):
        plan = sched.schedule()
        assert plan is not None
        start = time.perf_counter()
        runner.sample(runner.submit(plan))
        end = time.perf_counter()
        assert len(sched.update(plan, fake.run(plan))) == num_seqs
        if step >= 10:
            times.append(end - start)
    engine.close()
    return min(statistics.fmean(times[first : first + SIZE]) for first in range(0, steps - SIZE, SIZE)) * 1e6


def bare_hashing_s(prompts: list[tuple[int, ...]]) -> float:
    """Pack each prompt and hash it block by block: the least that names of blocks can cost."""
    start = time.perf_counter()
    for prompt in prompts:
        parent, packed = b"\0" * 16, array("i", prompt).tobytes()
        for first in range(0, len(packed) - 4 * SIZE + 1, 4 * SIZE):
            parent = blake2b(parent + packed[first : first + 4 * SIZE], digest_size=16, key=KEY).digest()
    return time.perf_counter() - start


def best_ratio(ours: Callable[[], float], bare: Callable[[], float], runs: int) -> tuple[float, float]:
    """The best of both in turn: seconds of ours and of bare hashing."""
    pairs = []
    for _ in range(runs):
        gc.collect()
        pairs.append((ours(), bare()))
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def lookup() -> tuple[float, float]:
    """Match a prompt of 32k tokens, all of it cached."""
    prompt = tuple(np.random.default_rng(1).integers(0, 150_000, 32 * 1024).tolist())
    sched, runner = scheduler(1, 2 * len(prompt) // SIZE), FakeRunner()
    sched.add(request("first", prompt, 1))
    plan = sched.schedule()
    assert plan is not None
    sched.update(plan, runner.run(plan))

    def ours() -> float:
        seq = Sequence(request("again", prompt, 1), list(prompt), [[]])
        start = time.perf_counter()
        match = sched.kv.match(seq)
        end = time.perf_counter()
        assert match.num_tokens == len(prompt) - SIZE
        return end - start

    return best_ratio(ours, lambda: bare_hashing_s([prompt]), runs=50)


def admission() -> tuple[float, float]:
    """Add and schedule 256 requests that arrive together: 2,048 tokens shared, 64 of their own."""
    rng = np.random.default_rng(2)
    shared = tuple(rng.integers(0, 150_000, 2048).tolist())
    prompts = [(*shared, *rng.integers(0, 150_000, 64).tolist()) for _ in range(256)]

    def ours() -> float:
        sched = scheduler(256, 256 * 8 + 200)
        requests = [request(str(number), prompt, 64) for number, prompt in enumerate(prompts)]
        start = time.perf_counter()
        for one in requests:
            sched.add(one)
        plan = sched.schedule()
        end = time.perf_counter()
        assert plan is not None and int(plan.num_new.sum()) == 2112 + 255 * 64
        return end - start

    return best_ratio(ours, lambda: bare_hashing_s(prompts), runs=12)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="steps measured for each number of sequences")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    results: list[dict[str, object]] = []
    print(f"{'steady decode':28} {'us/step':>9} {'target':>9}")
    for num_seqs in (1, 16, 64, 256):
        cost, target = steady_us(num_seqs, args.steps), TARGETS_US.get(num_seqs)
        results.append({"name": "steady decode", "num_seqs": num_seqs, "us_per_step": cost, "target_us": target})
        print(f"{f'{num_seqs} sequences':28} {cost:9.1f} {target or '':>9}")
    print(f"\n{'submit + sample':28} {'us/step':>9} {'target':>9}")
    for num_seqs in (1, 256):
        cost, target = runner_us(num_seqs, min(args.steps, 400)), RUNNER_TARGETS_US.get(num_seqs)
        results.append({"name": "submit + sample", "num_seqs": num_seqs, "us_per_step": cost, "target_us": target})
        print(f"{f'{num_seqs} sequences':28} {cost:9.1f} {target or '':>9}")
    print(f"\n{'prefix cache':28} {'ms':>9} {'hashing':>9} {'ratio':>9} {'target':>9}")
    for name, (ours, bare) in (("lookup of 32k tokens", lookup()), ("admission of 256 x 2,112", admission())):
        results.append({"name": name, "s": ours, "hashing_s": bare, "ratio": ours / bare, "target": MOST_TIMES_HASHING})
        print(f"{name:28} {ours * 1e3:9.2f} {bare * 1e3:9.2f} {ours / bare:9.2f} {MOST_TIMES_HASHING:9.1f}")
    if args.out:
        machine = {"processor": platform.machine(), "system": platform.system(), "python": platform.python_version()}
        document = {"schema": "aphrodite.bench.step_overhead/1", "machine": machine, "results": results}
        args.out.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
