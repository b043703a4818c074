"""Metrics for Prometheus: `aphrodite:*`, and the same series once more under vLLM's names for its dashboards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from aphrodite.types.stats import EngineStats

if TYPE_CHECKING:
    from aphrodite.server.errors import ApiError
    from aphrodite.server.run import Run

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LOG = logging.getLogger("aphrodite.server")
_LABEL = "model_name"
_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_ALSO = {  # older spellings, still asked for
    "aphrodite:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc",
    "aphrodite:prefix_cache_queries": "vllm:gpu_prefix_cache_queries",
    "aphrodite:prefix_cache_hits": "vllm:gpu_prefix_cache_hits",
}


class Metrics:
    """All series of one server, in a registry of their own."""

    def __init__(self, model_name: str, *, compat: bool = True) -> None:
        self._registry = CollectorRegistry()
        self._name = model_name
        self._compat = compat
        self.stats: Callable[[], EngineStats] = EngineStats
        self.queue: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)  # in flight, limit, restarts
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.refused = self._counter("requests_refused", "Requests refused because the queue was full.")
        self.too_slow = self._counter("clients_too_slow", "Streams cut because they were not read.")
        self.bugs = self._counter("internal_errors", "Errors that nobody foresaw.")
        self._failed = {
            "numerical_error": self._counter("numerical_errors", "Requests whose logits were not numbers."),
            "out_of_memory": self._counter("out_of_memory_errors", "Requests that ended because memory ran out."),
        }
        self._ended = Counter(
            "aphrodite:request_success", "Requests ended.", [_LABEL, "finished_reason"], registry=self._registry
        )
        self._answers = Counter("aphrodite:http_answers", "Answers by status.", ["status"], registry=self._registry)
        self._answers_of: dict[int, Counter] = {}  # to find one among labels takes longer than to count
        self._first = self._histogram("time_to_first_token_seconds", "From arrival to the first text.", _SECONDS)
        self._between = self._histogram("inter_token_latency_seconds", "Mean time from token to token.", _SECONDS)
        self._each = self._histogram("time_per_output_token_seconds", "The same, by its older name.", _SECONDS)
        self._whole = self._histogram("e2e_request_latency_seconds", "From arrival to the end.", _SECONDS)
        self._queued = self._histogram("request_queue_time_seconds", "From arrival to the first step.", _SECONDS)
        self._prefill = self._histogram("request_prefill_time_seconds", "From there to the first token.", _SECONDS)
        self._decode = self._histogram("request_decode_time_seconds", "From the first token to the last.", _SECONDS)
        self._prompts = self._histogram("request_prompt_tokens", "Tokens of a request's prompts.", _TOKENS)
        self._outputs = self._histogram("request_generation_tokens", "Tokens that a request got.", _TOKENS)
        self._longest = self._histogram("request_max_num_generation_tokens", "Of its longest continuation.", _TOKENS)
        self._registry.register(_Gauges(self, model_name))

    def ended(self, run: Run) -> None:
        """A request is over, one way or another."""
        usage = run.usage
        now = run.now_s()
        self.generation_tokens.inc(usage.completion_tokens)
        self._prompts.observe(usage.prompt_tokens)
        self._outputs.observe(usage.completion_tokens)
        self._longest.observe(max(prompt.state.most_output for prompt in run.prompts))
        self._whole.observe(now - run.began_s)
        self._ended.labels(self._name, run.outcome).inc()
        if run.outcome == "error" and run.error_code in self._failed:
            self._failed[run.error_code].inc()
        if run.first_piece_s is not None:
            self._first.observe(run.first_piece_s - run.began_s)
            if usage.completion_tokens > 1:
                each = (now - run.first_piece_s) / (usage.completion_tokens - 1)
                self._between.observe(each)
                self._each.observe(each)
        for seq in run.sequences:
            times = seq.times
            if times.first_scheduled_s is not None:
                self._queued.observe(max(0.0, times.first_scheduled_s - times.arrival_s))
                if times.first_token_s is not None:
                    self._prefill.observe(max(0.0, times.first_token_s - times.first_scheduled_s))
                    if times.finished_s is not None:
                        self._decode.observe(max(0.0, times.finished_s - times.first_token_s))

    def no_room(self, error: ApiError, count: int = 1) -> None:
        """So many requests were refused for that while there was room for no sequence."""
        if error.status == 429:
            self.refused.inc(count)

    def answered(self, status: int, count: int = 1) -> None:
        """So many answers were sent; 0: the client left before."""
        series = self._answers_of.get(status)
        if series is None:
            series = self._answers_of[status] = self._answers.labels(str(status or 499))
        series.inc(count)

    def bug(self, error: BaseException) -> None:
        """Something went wrong that nobody foresaw."""
        self.bugs.inc()
        _LOG.error("an internal error", exc_info=error)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(_Twice(self._registry) if self._compat else self._registry)

    def _counter(self, name: str, doc: str) -> Any:
        return Counter(f"aphrodite:{name}", doc, [_LABEL], registry=self._registry).labels(self._name)

    def _histogram(self, name: str, doc: str, buckets: tuple[float, ...]) -> Any:
        found = Histogram(f"aphrodite:{name}", doc, [_LABEL], buckets=buckets, registry=self._registry)
        return found.labels(self._name)


class _Gauges(Collector):
    """What the engine and the queue are when somebody looks."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def collect(self) -> Iterator[Metric]:
        """The gauges, and counts that the engine keeps."""
        stats = self._metrics.stats()
        in_flight, limit, restarts = self._metrics.queue()
        used = stats.kv_blocks_total - stats.kv_blocks_free
        gauges = {
            "num_requests_running": (stats.num_running, "Sequences that the engine works on."),
            "num_requests_waiting": (stats.num_waiting, "Sequences that wait for the engine."),
            "num_requests_swapped": (0, "Sequences whose KV waits on the host: none, it is computed again."),
            "num_requests_held": (stats.num_held, "Sequences that wait for their readers."),
            "num_requests_in_flight": (in_flight, "Sequences admitted and not ended."),
            "queue_limit": (limit, "Most sequences that are admitted."),
            "kv_cache_usage_perc": (used / max(1, stats.kv_blocks_total), "Share of KV blocks held, 0 to 1."),
            "kv_blocks_total": (stats.kv_blocks_total, "Usable KV blocks."),
            "kv_blocks_free": (stats.kv_blocks_free, "KV blocks that nobody holds."),
            "kv_blocks_evictable": (stats.kv_blocks_evictable, "Of these, cached ones."),
            "kv_blocks_leaked": (stats.kv_blocks_leaked, "KV blocks lost: must be 0."),
        }
        counts = {
            "num_preemptions": (stats.num_preemptions, "Times that a sequence had to make room."),
            "prefix_cache_queries": (stats.prefix_query_tokens, "Prompt tokens looked for in the prefix cache."),
            "prefix_cache_hits": (stats.prefix_hit_tokens, "Prompt tokens found there."),
            "engine_steps": (stats.num_steps, "Steps of the engine."),
            "engine_restarts": (restarts, "Times that the engine was lost and started again."),
        }
        for name, (value, doc) in gauges.items():
            yield _labelled(GaugeMetricFamily(f"aphrodite:{name}", doc, labels=[_LABEL]), self._name, value)
        for name, (value, doc) in counts.items():
            yield _labelled(CounterMetricFamily(f"aphrodite:{name}", doc, labels=[_LABEL]), self._name, value)
        info = InfoMetricFamily("aphrodite:model", "What is served.", labels=[_LABEL])
        info.add_metric([self._name], {"blocks": str(stats.kv_blocks_total)})
        yield info


def _labelled(family: Any, name: str, value: float) -> Metric:
    family.add_metric([name], value)
    found: Metric = family
    return found


class _Twice(CollectorRegistry):
    """A registry's series, and the same under vLLM's names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._inner = registry

    def collect(self) -> Iterator[Metric]:
        """Each series, then its twin."""
        for metric in self._inner.collect():
            yield metric
            yield _renamed(metric, metric.name.replace("aphrodite:", "vllm:", 1))
            if metric.name in _ALSO:
                yield _renamed(metric, _ALSO[metric.name])


def _renamed(metric: Metric, name: str) -> Metric:
    twin = Metric(name, metric.documentation, metric.type, metric.unit)
    twin.samples = [sample._replace(name=name + sample.name.removeprefix(metric.name)) for sample in metric.samples]
    return twin
