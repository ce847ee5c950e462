"""The text that Prometheus reads. Making it takes long where there are many models, so it is made in a thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .running import Running
from .schema import BOUNDS, TOKENS

_MODEL = ("endpoint", "provider", "model")
_REQUEST = (*_MODEL, "status", "ended_by", "cache")
_PICO_IN_MICRO = 1_000_000
_PICO_IN_USD = 10**12


@dataclass(frozen=True)
class Gauges:
    """What is so now."""

    version: str
    running: Running
    bytes: Mapping[str, int]
    """Of the databases and the journal."""
    reloads: Mapping[str, int]


class _Collected(Collector):
    def __init__(self, rows: Sequence[Mapping[str, Any]], gauges: Gauges) -> None:
        self._rows = rows
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        yield from _of_rows(self._rows)
        yield from _of_now(self._gauges)


def exposition(rows: Sequence[Mapping[str, Any]], gauges: Gauges, accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the format that the `Accept` header prefers. `rows` are those of `schema.READ`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(rows, gauges))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    requests = CounterMetricFamily("muxx_requests", "Requests that have ended, whatever came of them.", labels=_REQUEST)
    for labels, found in _grouped(rows, _REQUEST):
        requests.add_metric(labels, _sum(found, "requests"))
    tokens = CounterMetricFamily(
        "muxx_tokens", "Tokens used. What was read from or written to a cache is part of the input, reasoning of the output.",
        labels=(*_MODEL, "type"),
    )  # fmt: skip
    cost = CounterMetricFamily("muxx_cost_usd", "What requests cost, in US dollars.", labels=_MODEL)
    saved = CounterMetricFamily("muxx_saved_usd", "What answers of the cache would have cost, in US dollars.", labels=_MODEL)
    unpriced = CounterMetricFamily("muxx_unpriced_requests", "Requests whose cost nobody knows.", labels=_MODEL)
    took = HistogramMetricFamily("muxx_request_duration_seconds", "From a request's head to its answer's end.", labels=_MODEL)
    first = HistogramMetricFamily(
        "muxx_time_to_first_token_seconds", "From a request's head to the first token of its streamed answer.", labels=_MODEL
    )
    for labels, found in _grouped(rows, _MODEL):
        for kind in TOKENS:
            tokens.add_metric([*labels, kind], _sum(found, kind + "_tokens"))
        cost.add_metric(labels, _usd(found, "cost"))
        saved.add_metric(labels, _usd(found, "saved"))
        unpriced.add_metric(labels, _sum(found, "unpriced"))
        for family, prefix in ((took, "took"), (first, "first")):
            family.add_metric(labels, _buckets(found, prefix), _sum(found, prefix + "_ms") / 1000)
    yield from (requests, tokens, cost, saved, unpriced, took, first)


def _of_now(gauges: Gauges) -> Iterator[Metric]:
    info = GaugeMetricFamily("muxx_build_info", "The version that answers.", labels=("version",))
    info.add_metric([gauges.version], 1)
    yield info
    yield GaugeMetricFamily("muxx_workers", "Workers that serve.", gauges.running.workers)
    yield GaugeMetricFamily("muxx_running_requests", "Requests under way in all workers.", gauges.running.requests)
    sizes = GaugeMetricFamily("muxx_file_bytes", "Size of the databases, and of the journal before them.", labels=("file",))
    for name, size in gauges.bytes.items():
        sizes.add_metric([name], size)
    yield sizes
    reloads = CounterMetricFamily("muxx_config_reloads", "Reloads of the configuration.", labels=("result",))
    for result, count in gauges.reloads.items():
        reloads.add_metric([result], count)
    yield reloads


def _grouped(rows: Iterable[Mapping[str, Any]], labels: Sequence[str]) -> Iterator[tuple[list[str], list[Mapping[str, Any]]]]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[label]) for label in labels), []).append(row)
    yield from ((list(values), found) for values, found in sorted(groups.items()))


def _sum(rows: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows))


def _usd(rows: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(row[name + "_micro"] * _PICO_IN_MICRO + row[name + "_rest"] for row in rows) / _PICO_IN_USD)


def _buckets(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[tuple[str, float]]:
    within = [(str(bound), _sum(rows, f"{prefix}_{number}")) for number, bound in enumerate(BOUNDS)]
    return [*within, ("+Inf", _sum(rows, prefix + "_all"))]
