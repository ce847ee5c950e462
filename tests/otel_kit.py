"""What the tests of traces share: a collector, a gateway that sends to it, and its spans, read by the protocol's own messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from alerts_kit import receiving
from carrying_kit import serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from muxx.testing import RunningGateway, Script, ScriptedUpstream, eventually, json
from muxx.testing.settings import merged
from muxx_std.otel import plugin

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


def answering(status: int, content: bytes = b"", **headers: str) -> Script:
    return json(content, status, {"Content-Type": "application/x-protobuf", **headers})


OK = answering(200)


def collecting(*scripts: Script) -> AbstractAsyncContextManager[ScriptedUpstream]:
    """A collector. It takes everything, or answers by these scripts, one each in turn."""
    return receiving(*(scripts or (OK,)))


@asynccontextmanager
async def tracing(
    collector: ScriptedUpstream | str,
    config: Mapping[str, Any] | None = None,
    *,
    directory: Path | None = None,
    plugins: Mapping[str, type] | None = None,
    **otel: Any,
) -> AsyncIterator[RunningGateway]:
    """A gateway that sends its spans there, soon."""
    endpoint = collector if isinstance(collector, str) else collector.url
    settings = merged({"plugins": {"otel": {"endpoint": endpoint, **otel}}}, config or {})
    with mock.patch.object(plugin, "LOOKED_EVERY", 0.05):
        async with serving(config=settings, directory=directory, plugins=plugins) as gateway:
            yield gateway


def sent_to(collector: ScriptedUpstream) -> list[ExportTraceServiceRequest]:
    return [ExportTraceServiceRequest.FromString(request.body) for request in collector.requests]


def spans_in(request: ExportTraceServiceRequest) -> list[Span]:
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def spans_at(collector: ScriptedUpstream) -> list[Span]:
    return [span for request in sent_to(collector) for span in spans_in(request)]


async def spans(collector: ScriptedUpstream, count: int = 1) -> list[Span]:
    await eventually(lambda: len(spans_at(collector)) >= count, 10.0)
    found = spans_at(collector)
    assert len(found) == count
    return found


def value(of: Any) -> Any:
    kind = of.WhichOneof("value")
    return [value(one) for one in of.array_value.values] if kind == "array_value" else getattr(of, kind)


def facts(span: Span) -> dict[str, Any]:
    return {pair.key: value(pair.value) for pair in span.attributes}
