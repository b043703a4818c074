"""`aphrodite bench latency`: how long a batch of equal requests takes, and where the time goes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aphrodite.cli import bench
from aphrodite.cli.command import Call
from aphrodite.cli.output import print_note
from aphrodite.progress import progress
from aphrodite.types.outputs import RequestOutput

_ROWS = (
    ("first_token_ms", "first token, ms"),
    ("token_ms", "each further token, ms"),
    ("batch_ms", "whole batch, ms"),
)


def run(call: Call) -> int:
    """Measure and print. Each batch has prompts of its own and finds nothing in the prefix cache."""
    options = call.options
    bench.check_out(options.out)
    sampling = call.sampling(max_tokens=options.output_len, ignore_eos=True)

    from aphrodite.engine.llm import LLM

    draw = random.Random(options.seed)
    times: dict[str, list[float]] = {name: [] for name, _ in _ROWS}
    bar = progress(call.quiet)
    with LLM(progress=bar, **call.settings) as llm:
        bench.check_lengths(llm, options.input_len, options.output_len)
        found = bench.facts(llm)
        if not call.quiet:
            print_note(llm.blueprint.summary)
        vocab_size = llm.blueprint.spec.vocab_size
        bar.start("batches", options.num_warmup + options.num_iters, "batch")
        try:
            for number in range(options.num_warmup + options.num_iters):
                prompts = bench.prompts_of([options.input_len] * options.batch_size, vocab_size, draw)
                params = [sampling.replace(seed=options.seed + place) for place in range(options.batch_size)]
                llm.reset_prefix_cache()
                outputs = llm.generate(prompts, params)
                bench.check_outputs(outputs, [options.output_len] * options.batch_size)
                if number >= options.num_warmup:
                    _add(times, outputs)
                bar.advance(1)
        finally:
            bar.finish()
    figures = {name: bench.statistics(values) for name, values in times.items()}
    figures["output_tokens_per_s"] = _rates(times["batch_ms"], options.batch_size * options.output_len)

    def show() -> None:
        print(bench.heading(call, found))
        print(
            f"batch of {options.batch_size}, {options.input_len} tokens in, {options.output_len} out; "
            f"{options.num_iters} batches after {options.num_warmup} to warm up\n"
        )
        columns = ("mean", "p50", "p90", "p99")
        print(f"{'':24}" + "".join(f"{column:>12}" for column in columns))
        for name, label in _ROWS:
            print(f"{label:24}" + "".join(f"{figures[name][column]:12.3f}" for column in columns))
        print(f"\n{figures['output_tokens_per_s']['mean']:.1f} output tokens/s")

    return bench.finish(call, found, figures, show)


def _add(times: dict[str, list[float]], outputs: Sequence[RequestOutput]) -> None:
    """What one batch took, by the engine's own clock; of each request, but for the whole."""
    metrics = [output.metrics for output in outputs]
    arrivals, ends = [], []
    for output, one in zip(outputs, metrics, strict=True):
        assert one is not None and one.first_token_s is not None and one.finished_s is not None
        times["first_token_ms"].append(1000 * (one.first_token_s - one.arrival_s))
        num_further = len(output.outputs[0].token_ids) - 1
        times["token_ms"].append(1000 * (one.finished_s - one.first_token_s) / num_further)
        arrivals.append(one.arrival_s)
        ends.append(one.finished_s)
    times["batch_ms"].append(1000 * (max(ends) - min(arrivals)))


def _rates(batches_ms: Sequence[float], num_tokens: int) -> dict[str, float]:
    return {"mean": num_tokens * len(batches_ms) / (sum(batches_ms) / 1000)}
