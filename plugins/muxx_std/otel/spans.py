"""A row of the log as a span, in the words of OpenTelemetry's conventions for client calls of generative AI. Pure.

https://github.com/open-telemetry/semantic-conventions-genai/blob/v0.1.0/docs/gen-ai/client-inference.md is where the names
`gen_ai.*` are from, but for `gen_ai.usage.cost`: the conventions have no cost, and that is where tools look for one. What is
muxx's own begins with `muxx.`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, SpanFlags, Status

from muxx import __version__

from .settings import OtelConfig

OPERATIONS = {"responses": "chat", "messages": "chat", "count_content": "count_tokens"}
"""Endpoints whose operation has another name in the conventions."""
PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""Providers that have another name in the conventions."""
PICO = 1e12
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)


class Place(NamedTuple):
    """Where a span stands."""

    trace_id: bytes
    parent_id: bytes
    """Empty: it is the first of its trace."""
    remote: bool
    """Its parent is the caller's."""
    sampled: bool


def request_of(rows: Iterable[Mapping[str, Any]], config: OtelConfig) -> tuple[bytes, int]:
    """What is posted to a collector, and how many spans that is: rows that are not sampled have none."""
    spans = [span for row in rows if (span := span_of(row, config)) is not None]
    resource = {"service.name": config.service_name, "service.version": __version__, "host.name": socket.gethostname()}
    scope = ScopeSpans(scope=InstrumentationScope(name="muxx", version=__version__), spans=spans)
    whole = ResourceSpans(resource=Resource(attributes=_pairs(resource | config.resource)), scope_spans=[scope])
    return ExportTraceServiceRequest(resource_spans=[whole]).SerializeToString(), len(spans)


def span_of(row: Mapping[str, Any], config: OtelConfig) -> Span | None:
    """None: it is not sampled. Ids come from the request's, so that a span that is sent twice is the same one."""
    attributes = _object(row["attributes"])
    place = place_of(row["request_id"], attributes, config.sample)
    if not place.sampled:
        return None
    started = int(row["started_at"] * 1e9)
    operation = OPERATIONS.get(row["endpoint"], row["endpoint"])
    flags = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | 1
    if place.remote:
        flags |= SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    return Span(
        trace_id=place.trace_id,
        span_id=span_id(row["request_id"]),
        parent_span_id=place.parent_id,
        flags=flags,
        name=_text(" ".join(filter(None, (operation, row["model_requested"])))),
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=started,
        end_time_unix_nano=started + int((row["duration_ms"] or 0) * 1e6),
        attributes=_pairs(dict(_facts(row, operation, config))),
        status=_status(row),
    )


def place_of(request_id: str, attributes: Mapping[str, Any], share: float) -> Place:
    """In the caller's trace, if it said so; in that of the request a plugin made it for; or else in one of its own."""
    parent = str(attributes.get("parent", ""))
    inner = span_id(parent) if parent else b""
    if given := _TRACEPARENT.fullmatch(str(attributes.get("traceparent", ""))):
        trace, caller, flags = map(bytes.fromhex, given.groups())
        return Place(trace, inner or caller, not inner, bool(flags[0] & 1))
    trace = _digest("trace", parent or request_id)[:16]
    return Place(trace, inner, False, int.from_bytes(trace[8:]) < share * 2**64)


def span_id(request_id: str) -> bytes:
    return _digest("span", request_id)[:8]


def _digest(what: str, request_id: str) -> bytes:
    return sha256(f"{what} {request_id}".encode()).digest()


def _facts(row: Mapping[str, Any], operation: str, config: OtelConfig) -> Iterator[tuple[str, Any]]:
    """Those that are None are not told."""
    yield "gen_ai.operation.name", operation
    yield "gen_ai.provider.name", PROVIDERS.get(row["provider"], row["provider"])
    yield "gen_ai.request.model", row["model_requested"]
    yield "gen_ai.request.stream", True if row["stream"] else None
    yield "gen_ai.response.model", row["model"]
    yield "gen_ai.response.finish_reasons", orjson.loads(row["finish_reasons"] or "[]") or None
    yield "gen_ai.response.time_to_first_chunk", None if row["first_token_ms"] is None else row["first_token_ms"] / 1000
    yield "http.response.status_code", row["status"]
    yield "error.type", _error(row)
    if row["usage_source"] not in ("none", "cache"):  # what another request paid for would be counted twice
        yield from _usage(row)
    yield "muxx.request_id", row["request_id"]
    for name in ("project", "environment", "cache", "attempts", "ended_by", "phase", "usage_source"):
        yield f"muxx.{name}", row[name]
    yield "muxx.saved_usd", None if row["saved_pico"] is None else row["saved_pico"] / PICO
    if "user_id" in config.tell:
        yield "user.id", row["user_id"]
    if "client_ip" in config.tell:
        yield "client.address", row["client_ip"]
    if "metadata" in config.tell:
        for name, value in _object(row["metadata"]).items():
            yield f"muxx.metadata.{name}", value if isinstance(value, str) else orjson.dumps(value).decode()


def _usage(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "gen_ai.usage.input_tokens", row["input_tokens"]
    yield "gen_ai.usage.output_tokens", row["output_tokens"]
    yield "gen_ai.usage.cache_read.input_tokens", row["cache_read_tokens"] or None
    yield "gen_ai.usage.cache_write.input_tokens", row["cache_write_tokens"] or None
    yield "gen_ai.usage.reasoning.output_tokens", row["reasoning_tokens"] or None
    yield "gen_ai.usage.cost", None if row["cost_pico"] is None else row["cost_pico"] / PICO


def _error(row: Mapping[str, Any]) -> str | None:
    """The code of the error, or else the status that says there was one."""
    return row["error_code"] or (str(row["status"]) if (row["status"] or 0) >= 400 else None)


def _status(row: Mapping[str, Any]) -> Status | None:
    error = _error(row)
    return None if error is None else Status(code=Status.STATUS_CODE_ERROR, message=_text(error))


def _object(text: str | None) -> dict[str, Any]:
    found = orjson.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def _pairs(values: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=_text(name), value=_value(value)) for name, value in values.items() if value is not None]


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return AnyValue(array_value=ArrayValue(values=map(_value, value)))
    return AnyValue(string_value=_text(value))


def _text(value: Any) -> str:
    """A client's text may be none in UTF-8."""
    return str(value).encode("utf-8", "replace").decode()
