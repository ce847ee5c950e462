"""Traces: what a span says of its request, and whose it is."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import serving
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otel_kit import CALLER, TRACE, TRACED, collecting, facts, sent_to, spans, tracing, value
from pydantic import ValidationError

from muxx import ConfigError, Exchange, Gateway, hookimpl, load_config
from muxx_std.otel import Traces
from muxx_std.otel.settings import OtelConfig
from muxx_std.otel.spans import place_of, request_of, span_id

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
