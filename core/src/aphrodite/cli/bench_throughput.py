"""`aphrodite bench throughput`: requests and tokens a second, of many requests given at once."""

from __future__ import annotations

import random
import re
import time

from aphrodite.cli import bench
from aphrodite.cli.command import Call
from aphrodite.cli.output import print_note
from aphrodite.config.numbers import integer
from aphrodite.errors import UsageError
from aphrodite.progress import progress

_RANGE = re.compile(r"(.+?)(?:\.\.(.+))?")


def run(call: Call) -> int:
    """Measure and print."""
    options = call.options
    bench.check_out(options.out)
    num_in, num_out = _range("input_len", options.input_len), _range("output_len", options.output_len)
    sampling = call.sampling(ignore_eos=True)

    from aphrodite.engine.llm import LLM

    draw = random.Random(options.seed)
    bar = progress(call.quiet)
    with LLM(progress=bar, **call.settings) as llm:
        bench.check_lengths(llm, num_in[1], num_out[1])
        found = bench.facts(llm)
        if not call.quiet:
            print_note(llm.blueprint.summary)
        vocab_size = llm.blueprint.spec.vocab_size
        for count, is_measured in ((options.num_warmup, False), (options.num_prompts, True)):
            lengths_in = [draw.randint(*num_in) for _ in range(count)]
            lengths_out = [draw.randint(*num_out) for _ in range(count)]
            prompts = bench.prompts_of(lengths_in, vocab_size, draw)
            params = [sampling.replace(max_tokens=n, seed=options.seed + i) for i, n in enumerate(lengths_out)]
            llm.reset_prefix_cache()
            start = time.perf_counter()
            outputs = llm.generate(prompts, params, progress=bar if is_measured else None) if count else []
            elapsed_s = time.perf_counter() - start
            bench.check_outputs(outputs, lengths_out)
    totals = {"prompt": sum(lengths_in), "output": sum(lengths_out)}
    totals["total"] = sum(totals.values())
    figures = {
        "elapsed_s": elapsed_s,
        "requests_per_s": options.num_prompts / elapsed_s,
        "num_tokens": totals,
        "tokens_per_s": {name: count / elapsed_s for name, count in totals.items()},
        "num_preemptions": sum(output.metrics.num_preemptions for output in outputs if output.metrics is not None),
    }

    def show() -> None:
        print(bench.heading(call, found))
        print(f"{options.num_prompts} requests, {options.input_len} tokens in, {options.output_len} out\n")
        print(f"{'':12}{'count':>12}{'a second':>12}")
        print(f"{'requests':12}{options.num_prompts:12}{figures['requests_per_s']:12.2f}")
        for name, count in totals.items():
            print(f"{name + ' tok':12}{count:12}{count / elapsed_s:12.1f}")
        print(f"\n{elapsed_s:.2f} s, {figures['num_preemptions']} preemptions")

    return bench.finish(call, found, figures, show)


def _range(name: str, text: str) -> tuple[int, int]:
    """The ends of N or LOW..HIGH."""
    match = _RANGE.fullmatch(text)
    low = integer(match[1]) if match else text
    high = integer(match[2]) if match and match[2] is not None else low
    if not isinstance(low, int) or not isinstance(high, int) or not 1 <= low <= high:
        raise UsageError(f"{name} must be a number of at least 1, or LOW..HIGH of such, got {text!r}", subject=name)
    return low, high
