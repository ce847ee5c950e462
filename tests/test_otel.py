"""Traces: what a collector of OpenTelemetry's gets, read by the protocol's own messages, and that nothing is lost on the way."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alerts_kit import receiving as collecting
from carrying_kit import serving
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from process_kit import Upstream, gateway_process, keeper_of
from pydantic import ValidationError

from muxx import ConfigError, Exchange, Gateway, hookimpl, load_config
from muxx.testing import RunningGateway, Script, ScriptedUpstream, eventually, fin, json, unused_port
from muxx.testing.settings import merged
from muxx_std.otel import Traces, plugin
from muxx_std.otel import collector as collector_module
from muxx_std.otel.settings import OtelConfig
from muxx_std.otel.spans import place_of, request_of, span_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


def answering(status: int, content: bytes = b"", **headers: str) -> Script:
    return json(content, status, {"Content-Type": "application/x-protobuf", **headers})


OK = answering(200)


@asynccontextmanager
async def tracing(
    collector: ScriptedUpstream | str,
    config: Mapping[str, Any] | None = None,
    *,
    directory: Path | None = None,
    plugins: Mapping[str, type] | None = None,
    **otel: Any,
) -> AsyncIterator[RunningGateway]:
    endpoint = collector if isinstance(collector, str) else collector.url
    settings = merged({"plugins": {"otel": {"endpoint": endpoint, **otel}}}, config or {})
    async with serving(config=settings, directory=directory, plugins=plugins) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "LOOKED_EVERY", 0.05)


def sent_to(collector: ScriptedUpstream) -> list[ExportTraceServiceRequest]:
    return [ExportTraceServiceRequest.FromString(request.body) for request in collector.requests]


def spans_at(collector: ScriptedUpstream) -> list[Span]:
    return [
        span
        for request in sent_to(collector)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


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


# ── what a span says ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_streamed_request_is_a_span_in_its_callers_trace() -> None:
    async with collecting() as collector, tracing(collector, service_name="edge", resource={"region": "eu"}) as gateway:
        answer = await gateway.chat(stream=True, headers=TRACED)
        [span] = await spans(collector)
        [request] = sent_to(collector)
        row = (await gateway.get(f"/v1/logs/{answer.request_id}")).json()
    assert collector.last.target == "/v1/traces"
    assert collector.last.header("content-type") == "application/x-protobuf"
    resource = {pair.key: value(pair.value) for pair in request.resource_spans[0].resource.attributes}
    assert resource["service.name"] == "edge"
    assert resource["region"] == "eu"
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.span_id) == (TRACE, CALLER, span_id(answer.request_id))
    assert (span.name, span.kind, span.flags) == ("chat gpt-4o", Span.SPAN_KIND_CLIENT, 0x301)
    assert span.start_time_unix_nano / 1e9 == pytest.approx(datetime.fromisoformat(row["started_at"]).timestamp(), abs=0.002)
    assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(row["duration_ms"], abs=0.01)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert facts(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": row["model"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": pytest.approx(row["first_token_ms"] / 1000),
        "http.response.status_code": 200,
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.usage.cost": pytest.approx(float(row["cost_usd"])),
        "muxx.request_id": answer.request_id,
        "muxx.project": "default",
        "muxx.environment": "live",
        "muxx.cache": "miss",
        "muxx.attempts": 1,
        "muxx.usage_source": row["usage_source"],
    }


async def test_the_row_says_in_whose_trace_its_request_was_made() -> None:
    async with serving() as gateway:
        answer = await gateway.chat(headers=TRACED)
        assert (await gateway.get(f"/v1/logs/{answer.request_id}")).json()["attributes"] == TRACED
        for wrong in ("", "00", f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{CALLER}-01"):
            answer = await gateway.chat(headers={"traceparent": wrong})
            assert answer.status == 200
            assert (await gateway.get(f"/v1/logs/{answer.request_id}")).json()["attributes"] == {}


async def test_a_refused_request_is_a_span_in_its_callers_trace_that_says_what_was_wrong() -> None:
    config = {"project": {"limits": {"rpm": 1}}}
    async with collecting() as collector, tracing(collector, config) as gateway:
        assert (await gateway.chat()).status == 200
        assert (await gateway.chat(headers=TRACED)).status == 429
        _, refused = await spans(collector, 2)
    assert (refused.trace_id.hex(), refused.parent_span_id.hex()) == (TRACE, CALLER)
    assert refused.status.code == Status.STATUS_CODE_ERROR
    told = facts(refused)
    assert told["error.type"] == refused.status.message == "rate_limit_exceeded"
    assert (told["http.response.status_code"], told["muxx.phase"], told["muxx.ended_by"]) == (429, "limit", "muxx")
    assert not [name for name in told if name.startswith("gen_ai.usage")]


async def test_an_answer_of_the_cache_is_a_span_without_tokens() -> None:
    """They were used by the request whose answer it is: who adds them up must find them once."""
    config = {"plugins": {"cache": {"max_bytes": 1_000_000}}}
    async with collecting() as collector, tracing(collector, config) as gateway:
        await gateway.chat()
        await gateway.chat()
        made, hit = map(facts, await spans(collector, 2))
    assert (made["muxx.cache"], hit["muxx.cache"]) == ("miss", "hit")
    assert hit["muxx.saved_usd"] == pytest.approx(made["gen_ai.usage.cost"])
    assert not [name for name in hit if name.startswith("gen_ai.usage")]


class Asks:
    """Asks a model about each request."""

    @hookimpl
    async def pre_request(self, gateway: Gateway, exchange: Exchange) -> None:
        if exchange.parent is None:
            await gateway.call("chat", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Fine?"}]}, parent=exchange)


@pytest.mark.parametrize("headers", [TRACED, {}])
async def test_a_plugins_own_call_is_a_span_below_the_requests(headers: dict[str, str]) -> None:
    async with collecting() as collector, tracing(collector, plugins={"asks": Asks}) as gateway:
        answer = await gateway.chat(headers=headers)
        by_name = {span.name: span for span in await spans(collector, 2)}
    outer, inner = by_name["chat gpt-4o"], by_name["chat gpt-4o-mini"]
    assert outer.span_id == inner.parent_span_id == span_id(answer.request_id)
    assert outer.trace_id == inner.trace_id
    assert outer.parent_span_id.hex() == (CALLER if headers else "")
    assert (outer.flags, inner.flags) == (0x301 if headers else 0x101, 0x101)


async def test_who_asked_from_where_and_with_what_metadata_is_told_on_request_only() -> None:
    headers = {"X-Muxx-User-Id": "ada", "X-Muxx-Metadata": '{"feature": "search", "depth": 3}'}
    async with collecting() as quiet, tracing(quiet) as gateway:
        await gateway.chat(headers=headers)
        [span] = await spans(quiet)
        assert "ada" not in str(span)
        assert "search" not in str(span)
    async with collecting() as told, tracing(told, tell=["user_id", "client_ip", "metadata"]) as gateway:
        await gateway.chat(headers=headers)
        [span] = await spans(told)
    found = facts(span)
    assert (found["user.id"], found["client.address"]) == ("ada", "127.0.0.1")
    assert (found["muxx.metadata.feature"], found["muxx.metadata.depth"]) == ("search", "3")


async def test_callers_decide_on_their_traces_and_the_sample_on_all_others() -> None:
    unsampled = {"traceparent": TRACED["traceparent"][:-1] + "0"}
    async with collecting() as collector, tracing(collector, sample=0.0) as gateway:
        await gateway.chat("one")
        await gateway.chat("two", headers=unsampled)
        last = await gateway.chat("three", headers=TRACED)
        [span] = await spans(collector)
        assert span.span_id == span_id(last.request_id)


def test_a_share_of_the_requests_is_sampled_and_a_request_with_all_its_calls() -> None:
    ids = [f"req_{number}" for number in range(4000)]
    taken = [id for id in ids if place_of(id, {}, 0.25).sampled]
    assert 0.2 < len(taken) / len(ids) < 0.3
    for id in ids[:200]:
        own, inner = place_of(id, {}, 0.25), place_of("another", {"parent": id}, 0.25)
        assert (own.sampled, own.trace_id) == (inner.sampled, inner.trace_id)


_TEXTS = st.none() | st.text(st.characters(), max_size=20)
_COUNTS = st.integers(-(2**63), 2**63 - 1)


@given(
    texts=st.lists(_TEXTS, min_size=13, max_size=13),
    counts=st.lists(_COUNTS | st.none(), min_size=7, max_size=7),
    attributes=st.sampled_from([None, "{}", "[]", '{"traceparent": 7, "parent": []}', '{"traceparent": "00-x"}']),
)
def test_any_row_is_a_span(texts: list[str | None], counts: list[int | None], attributes: str | None) -> None:
    names = (
        "project", "environment", "user_id", "client_ip", "provider", "model_requested", "model", "ended_by", "phase",
        "usage_source", "cache", "error_code", "metadata",
    )  # fmt: skip
    numbers = (
        "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_pico", "saved_pico"
    )  # fmt: skip
    row: dict[str, Any] = {**dict(zip(names, texts, strict=True)), **dict(zip(numbers, counts, strict=True))}
    row |= {"metadata": '{"\\u0000": [null]}', "attributes": attributes, "finish_reasons": '["stop"]', "endpoint": "messages"}
    row |= {"request_id": "req_1", "started_at": 1e9, "first_token_ms": None, "duration_ms": None, "stream": 1, "status": 200}
    row |= {"attempts": 0, "position": 1}
    data, count = request_of([row], OtelConfig(tell=("user_id", "client_ip", "metadata")))
    assert count == 1
    [span] = ExportTraceServiceRequest.FromString(data).resource_spans[0].scope_spans[0].spans
    assert (len(span.trace_id), len(span.span_id)) == (16, 8)


def test_the_page_names_every_attribute() -> None:
    row: dict[str, Any] = {
        "position": 1, "request_id": "req_1", "started_at": 1e9, "first_token_ms": 7.0, "duration_ms": 9.0, "project": "default",
        "environment": "live", "user_id": "ada", "metadata": '{"feature": "x"}', "client_ip": "10.0.0.1", "endpoint": "chat",
        "provider": "google", "model_requested": "a", "model": "b", "stream": 1, "status": 502, "ended_by": "upstream",
        "phase": "head", "attempts": 2, "input_tokens": 1, "output_tokens": 2, "cache_read_tokens": 3, "cache_write_tokens": 4,
        "reasoning_tokens": 5, "usage_source": "provider", "cost_pico": 6, "saved_pico": 7, "cache": "miss",
        "finish_reasons": '["stop"]', "error_code": "upstream_error", "attributes": "{}",
    }  # fmt: skip
    data, _ = request_of([row], OtelConfig(tell=("user_id", "client_ip", "metadata")))
    [span] = ExportTraceServiceRequest.FromString(data).resource_spans[0].scope_spans[0].spans
    told = {"muxx.metadata.*" if name.startswith("muxx.metadata.") else name for name in facts(span)}
    page = (Path(__file__).parent.parent / "docs" / "traces.md").read_text()
    named = {name for name in re.findall(r"`([a-z_]+\.[a-z_.*]+)`", page) if not name.startswith(("service.", "attributes."))}
    assert told | {facts(span)["gen_ai.provider.name"]} == named, "its own example among them"


# ── that nothing is lost ────────────────────────────────────────────────────────────────────────────────────────────────────


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "plugins.otel" in r.getMessage() and r.levelno >= logging.WARNING]


async def test_spans_wait_for_a_collector_that_is_away_and_come_in_order_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = f"http://127.0.0.1:{unused_port()}"
    async with tracing(away, directory=tmp_path) as gateway:
        ids = [(await gateway.chat()).request_id for _ in range(3)]
        await eventually(lambda: bool(warnings(caplog)), 10.0)
        await eventually(lambda: _rows(tmp_path) == 3, 10.0)
    async with collecting() as collector, tracing(collector, directory=tmp_path) as gateway:
        found = await spans(collector, 3)
        assert [span.span_id for span in found] == list(map(span_id, ids))
        await gateway.chat()
        await spans(collector, 4)
    assert warnings(caplog) == ["the collector of [plugins.otel] cannot be reached; its spans wait in the log, up to a day"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answering(503), "answered 503"),
        (answering(429, **{"Retry-After": "1"}), "answered 429"),
        (answering(401), "answered 401: set what it knows us by in headers"),
        (answering(404), "answered 404: is endpoint the address"),
        (answering(307, Location="http://127.0.0.1:1/"), "answered 307, a redirect, which is not followed"),
        ([fin()], "broke the connection off"),
    ],
)
async def test_what_a_collector_does_not_take_now_it_gets_again(
    answer: Script, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with collecting(answer, OK) as collector, tracing(collector, headers={"X-Token": "canary-7d1"}) as gateway:
        await gateway.chat()
        await eventually(lambda: len(collector.requests) == 2, 10.0)
        first, second = collector.requests
        assert first.body == second.body
        assert first.header("x-token") == second.header("x-token") == "canary-7d1"
    [warning] = warnings(caplog)
    assert said in warning
    assert "canary" not in caplog.text


async def test_what_a_collector_will_never_take_is_left_out_and_the_next_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with collecting(answering(400), OK) as collector, tracing(collector) as gateway:
        await gateway.chat()
        await eventually(lambda: len(collector.requests) == 1, 10.0)
        second = await gateway.chat()
        await eventually(lambda: len(collector.requests) == 2, 10.0)
        assert spans_at(collector)[1].span_id == span_id(second.request_id)
    assert warnings(caplog) == ["1 spans are left out: the collector of [plugins.otel] answered 400"]


async def test_what_a_collector_says_it_left_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    partly = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="too\nold")
    ).SerializeToString()
    async with collecting(answering(200, partly), OK) as collector, tracing(collector) as gateway:
        await gateway.chat()
        await eventually(lambda: bool(warnings(caplog)), 10.0)
    assert warnings(caplog) == ["the collector of [plugins.otel] left out 1 spans: too old"]


async def test_a_collector_is_told_of_both_workers_once_and_of_nothing_twice_after_a_restart(tmp_path: Path) -> None:
    async with Upstream() as upstream, collecting() as collector:
        config = {"plugins": {"otel": {"endpoint": collector.url}}}
        gateway = gateway_process(tmp_path, upstream, config, workers=2)
        async with gateway:
            ids = [(await gateway.chat()).request_id for _ in range(10)]
            found = await spans(collector, 10)
            assert {span.span_id for span in found} == set(map(span_id, ids))
            keeper = keeper_of(gateway)
            assert keeper is not None
            os.kill(keeper, signal.SIGKILL)
            ids.append((await gateway.chat()).request_id)
            await eventually(lambda: len(spans_at(collector)) == 11, 20.0)
            gateway.terminate()
            assert await gateway.wait() == 0
            await gateway.start()
            ids.append((await gateway.chat()).request_id)
            await eventually(lambda: len(spans_at(collector)) == 12, 20.0)
        assert {span.span_id for span in spans_at(collector)} == set(map(span_id, ids))


async def test_the_log_from_before_the_plugin_was_switched_on_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(directory=tmp_path) as gateway:
        await gateway.chat()
        await eventually(lambda: _rows(tmp_path) == 1, 10.0)
    monkeypatch.setattr(plugin, "BEFORE", 0.0)
    async with collecting() as collector, tracing(collector, directory=tmp_path) as gateway:
        await eventually(lambda: _begun(tmp_path), 10.0)
        after = await gateway.chat()
        [span] = await spans(collector)
        assert span.span_id == span_id(after.request_id)


async def test_rows_that_waited_too_long_are_not_sent_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tracing(f"http://127.0.0.1:{unused_port()}", directory=tmp_path) as gateway:
        for _ in range(3):
            await gateway.chat()
        await eventually(lambda: _rows(tmp_path) == 3 and _begun(tmp_path), 10.0)
    await asyncio.sleep(1.0)
    monkeypatch.setattr(collector_module, "KEPT_SECONDS", 1.0)
    async with collecting() as collector, tracing(collector, directory=tmp_path) as gateway:
        late = await gateway.chat()
        [span] = await spans(collector)
        assert span.span_id == span_id(late.request_id)


def _rows(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "muxx-logs.db")) as log:
        return int(log.execute("SELECT count(*) FROM generations").fetchone()[0])


def _begun(directory: Path) -> bool:
    with closing(sqlite3.connect(directory / "muxx-logs.db")) as log:
        return bool(log.execute("SELECT * FROM otel_state").fetchall())


async def test_without_the_log_there_is_nothing_to_send_and_muxx_says_so(caplog: pytest.LogCaptureFixture) -> None:
    config = {"plugins": {"otel": {"endpoint": "http://127.0.0.1:1"}, "logs": {"enabled": False}, "spend_caps": {"enabled": False}}}
    async with RunningGateway(config, mock=True) as gateway:
        assert (await gateway.chat()).status == 200
    assert [w for w in warnings(caplog) if "the plugin logs is off" in w]


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otlp.example/api/otel", "https://otlp.example/api/otel/v1/traces"),
        ("https://otlp.example/v1/traces", "https://otlp.example/v1/traces"),
    ],
)
def test_spans_go_where_other_exporters_would_take_them(endpoint: str, url: str) -> None:
    assert OtelConfig(endpoint=endpoint).url == url


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "127.0.0.1:4318"},
        {"endpoint": "grpc://127.0.0.1:4317"},
        {"endpoint": "http://user:secret@example.org"},
        {"endpoint": "http://example.org/?key=secret"},
        {"endpoint": "http://example.org:99999"},
        {"headers": {"a b": "x"}},
        {"headers": {"Content-Type": "x"}},
        {"headers": {"X-Token": "a\r\nb"}},
        {"headers": {"X-Token": ""}},
        {"tell": ["prompt"]},
        {"sample": 1.5},
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_word_of_a_secret(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        OtelConfig.model_validate(wrong)
    assert "secret" not in str(refused.value)


def test_without_the_extra_a_file_with_an_endpoint_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxx_std.otel.settings.find_spec", lambda name: None)
    path = tmp_path / "muxx.toml"
    path.write_text('[plugins.otel]\nendpoint = "http://127.0.0.1:4318"\n')
    with pytest.raises(ConfigError, match=r"takes the extra otel: pip install 'muxx\[otel\]'"):
        load_config(path, {"otel": Traces.Config})
    path.write_text("[plugins.otel]\nsample = 0.5\n")
    load_config(path, {"otel": Traces.Config})
