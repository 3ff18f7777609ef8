"""What Prometheus reads: our own names, and vLLM's beside them, so that dashboards made for vLLM work.

Gauges and counters of the engine are read when they are asked for; histograms are filled as answers end. Names and
meanings of the aliases are those of vLLM (vllm/v1/metrics/loggers.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.output import Delta

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# A small model gives a token in less than the 10 ms at which vLLM's buckets begin.
_TOKEN_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
_TOKENS = tuple(1 << power for power in range(0, 18))
_COUNTS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class _Gauge:
    """A value of `EngineStats` with its names; counters get `_total`."""

    field: str
    name: str
    alias: str | None
    what: str
    counts: bool = False


_ENGINE = (
    _Gauge("running", "requests_running", "num_requests_running", "Requests that are being computed"),
    _Gauge("waiting", "requests_waiting", "num_requests_waiting", "Requests that wait"),
    _Gauge("kv_usage", "kv_cache_usage_ratio", "kv_cache_usage_perc", "Part of the KV cache in use, 0..1"),
    _Gauge("heartbeat_age", "heartbeat_age_seconds", None, "Time since the engine's last sign of life"),
    _Gauge("prompt_tokens", "prompt_tokens", "prompt_tokens", "Prompt tokens, with cached ones", counts=True),
    _Gauge("generation_tokens", "generation_tokens", "generation_tokens", "Generated tokens", counts=True),
    _Gauge("prefix_queries", "prefix_cache_queries", "prefix_cache_queries", "Tokens looked up", counts=True),
    _Gauge("prefix_hits", "prefix_cache_hits", "prefix_cache_hits", "Tokens found in the cache", counts=True),
    _Gauge("preemptions", "preemptions", "num_preemptions", "Requests computed again", counts=True),
    _Gauge("drafts", "drafts", "spec_decode_num_drafts", "Verifications of drafts", counts=True),
    _Gauge("draft_tokens", "draft_tokens", "spec_decode_num_draft_tokens", "Drafted tokens", counts=True),
    _Gauge("accepted_tokens", "accepted_tokens", "spec_decode_num_accepted_tokens", "Accepted drafts", counts=True),
    _Gauge("steps", "steps", None, "Steps of the engine", counts=True),
    _Gauge("step_seconds", "step_seconds", None, "Time of all steps", counts=True),
    _Gauge("host_seconds", "host_seconds", None, "Time of the host's work for steps", counts=True),
)


class Metrics:
    """The metrics of one server.

    Args:
        model_name: the label `model_name` of the aliases.
    """

    def __init__(self, llm: AsyncLLM, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(llm, model_name))
        self._aliases: dict[str, str] = {}
        self.requests = self._counter("http_requests", "Answers by path and status", ["path", "status"], None)
        self._ended = self._counter("answers", "Ended answers by their reason", ["finished_reason"], "request_success")
        seconds = (
            ("time_to_first_token_seconds", "From the queue to the first token", _SECONDS),
            ("request_time_per_output_token_seconds", "Mean time of an answer's tokens but the first", _TOKEN_SECONDS),
            ("e2e_request_latency_seconds", "From the queue to the last token", _SECONDS),
            ("request_queue_time_seconds", "Wait before the first step", _SECONDS),
        )
        tokens = (
            ("request_prompt_tokens", "Tokens of prompts", _TOKENS),
            ("request_generation_tokens", "Tokens of answers", _TOKENS),
            ("request_params_n", "The parameter n", _COUNTS),
            ("request_params_max_tokens", "The parameter max_tokens", _TOKENS),
        )
        self._histograms = {name: self._histogram(name, what, buckets) for name, what, buckets in (*seconds, *tokens)}
        self.inter_token_latency = _QuickHistogram(
            "warploom_inter_token_latency_seconds", "Between pieces of an answer", _TOKEN_SECONDS
        )
        self._registry.register(self.inter_token_latency)
        self._aliases["warploom_inter_token_latency_seconds"] = "vllm:inter_token_latency_seconds"
        sources = [self._ended, self.inter_token_latency, *self._histograms.values()]
        self._registry.register(_AliasCollector(sources, self._aliases, model_name))

    def accepted(self, n: int, max_tokens: int | None) -> None:
        """Note a request that the engine has taken."""
        self._histograms["request_params_n"].observe(n)
        if max_tokens is not None:
            self._histograms["request_params_max_tokens"].observe(max_tokens)

    def finished(self, delta: Delta) -> None:
        """Note the last delta of an answer."""
        self._ended.labels(delta.finish_reason).inc()
        if delta.metrics is None:
            return
        metrics, rate = delta.metrics, delta.metrics.tokens_per_second
        values = {
            "time_to_first_token_seconds": metrics.time_to_first_token,
            "e2e_request_latency_seconds": metrics.total_time,
            "request_queue_time_seconds": metrics.queue_time,
            "request_prompt_tokens": metrics.num_prompt_tokens,
            "request_generation_tokens": metrics.num_output_tokens,
            **({"request_time_per_output_token_seconds": 1 / rate} if rate else {}),
        }
        for name, value in values.items():
            self._histograms[name].observe(value)

    def cancelled(self, count: int) -> None:
        """Note answers that were given up."""
        if count:
            self._ended.labels("cancelled").inc(count)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, labels: list[str], alias: str | None) -> Counter:
        if alias:
            self._aliases[f"warploom_{name}"] = f"vllm:{alias}"
        return Counter(f"warploom_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        self._aliases[f"warploom_{name}"] = f"vllm:{name}"
        return Histogram(f"warploom_{name}", what, buckets=buckets, registry=self._registry)


class _EngineCollector(Collector):
    """Reads the engine's own figures when they are asked for."""

    def __init__(self, llm: AsyncLLM, model_name: str) -> None:
        self._llm, self._model_name = llm, model_name

    def collect(self) -> Iterator[Metric]:
        stats = self._llm.stats()
        for gauge in _ENGINE:
            family = CounterMetricFamily if gauge.counts else GaugeMetricFamily
            value = float(getattr(stats, gauge.field))
            yield family(f"warploom_{gauge.name}", gauge.what, value=value)
            if gauge.alias:
                alias = family(f"vllm:{gauge.alias}", gauge.what, labels=["model_name"])
                alias.add_metric([self._model_name], value)
                yield alias
        yield from self._accepted_by_position(stats.accepted_by_position)

    def _accepted_by_position(self, accepted: tuple[int, ...]) -> Iterator[Metric]:
        what = "Drafts that were output, by their place in a verification"
        own = CounterMetricFamily("warploom_accepted_tokens_by_position", what, labels=["position"])
        name = "vllm:spec_decode_num_accepted_tokens_per_pos"
        alias = CounterMetricFamily(name, what, labels=["model_name", "position"])
        for position, number in enumerate(accepted):
            own.add_metric([str(position)], number)
            alias.add_metric([self._model_name, str(position)], number)
        yield own
        yield alias


class _QuickHistogram(Collector):
    """A histogram that one thread fills, without the locks that cost more than all else that is done for a token."""

    def __init__(self, name: str, what: str, bounds: Sequence[float]) -> None:
        self._name, self._what, self._bounds = name, what, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._what, buckets=buckets, sum_value=self._sum)


class _AliasCollector(Collector):
    """The same samples under other names, with the label `model_name`."""

    def __init__(
        self, sources: Sequence[Counter | Histogram | Collector], aliases: dict[str, str], model_name: str
    ) -> None:
        self._sources, self._aliases, self._labels = sources, aliases, {"model_name": model_name}

    def collect(self) -> Iterator[Metric]:
        for source in self._sources:
            for metric in source.collect():
                alias = Metric(self._aliases[metric.name], metric.documentation, metric.type)
                for sample in metric.samples:
                    name = alias.name + sample.name.removeprefix(metric.name)
                    alias.add_sample(name, {**self._labels, **sample.labels}, sample.value)
                yield alias
