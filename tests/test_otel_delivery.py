"""Traces: nothing is lost on the way to a collector, whatever it answers, and nothing comes twice that need not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest
from carrying_kit import serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from otel_kit import OK, answering, collecting, spans, spans_at, spans_in, tracing
from process_kit import Upstream, gateway_process, keeper_of, logs_file, query, rows

from muxx.testing import RecordedRequest, RunningGateway, Script, eventually, fin, pause, unused_port
from muxx_std.otel import collector as collector_module
from muxx_std.otel import plugin
from muxx_std.otel.spans import span_id


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "plugins.otel" in r.getMessage() and r.levelno >= logging.WARNING]


async def test_spans_wait_for_a_collector_that_is_away_and_come_in_order_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = f"http://127.0.0.1:{unused_port()}"
    async with tracing(away, directory=tmp_path) as gateway:
        ids = [(await gateway.chat()).request_id for _ in range(3)]
        await eventually(lambda: bool(warnings(caplog)), 10.0)
        await eventually(lambda: len(rows(tmp_path)) == 3, 10.0)
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


async def test_a_batch_that_is_too_large_is_sent_in_smaller_ones_and_only_a_span_that_is_too_large_alone_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "MORE", 1)
    async with tracing(f"http://127.0.0.1:{unused_port()}", directory=tmp_path) as gateway:
        ids = [(await gateway.chat()).request_id for _ in range(5)]
        await eventually(lambda: len(rows(tmp_path)) == 5, 10.0)
    async with collecting() as collector:
        taken: list[bytes] = []

        def choose(request: RecordedRequest) -> Script:
            sent = spans_in(ExportTraceServiceRequest.FromString(request.body))
            if len(sent) > 2 or span_id(ids[3]) in [span.span_id for span in sent]:
                return answering(413)
            taken.extend(span.span_id for span in sent)
            return OK

        collector.choose = choose
        async with tracing(collector, directory=tmp_path):
            await eventually(lambda: len(taken) == 4, 10.0)
    assert taken == [span_id(ids[number]) for number in (0, 1, 2, 4)]
    assert [told for told in warnings(caplog) if "left out" in told] == [
        "1 spans are left out: the collector of [plugins.otel] answered 413"
    ]


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_what_a_collector_says_it_left_out_is_told(in_pieces: bool, caplog: pytest.LogCaptureFixture) -> None:
    partly = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="too\nold")
    ).SerializeToString()
    whole = answering(200, partly)
    if in_pieces:
        sent = b"".join(step for step in whole if isinstance(step, bytes))
        whole = [sent[:-5], pause(0.2), sent[-5:]]
    async with collecting(whole, OK) as collector, tracing(collector) as gateway:
        await gateway.chat()
        await eventually(lambda: bool(warnings(caplog)), 10.0)
    assert warnings(caplog) == ["the collector of [plugins.otel] left out 1 spans: too old"]


async def test_a_collector_is_told_of_both_workers_once_and_of_nothing_twice_after_a_restart(tmp_path: Path) -> None:
    async with Upstream() as upstream, collecting() as collector:
        config = {"plugins": {"otel": {"endpoint": collector.url}}}
        gateway = gateway_process(tmp_path, upstream, config, workers=2)
        ids: list[str] = []

        async def told(count: int) -> None:
            """So many requests are made, their spans taken, and that is written down: what comes later comes once."""
            ids.extend([(await gateway.chat()).request_id for _ in range(count)])
            await eventually(lambda: _position(tmp_path) == len(ids), 20.0)

        async with gateway:
            await told(10)
            keeper = keeper_of(gateway)
            assert keeper is not None
            os.kill(keeper, signal.SIGKILL)
            await told(1)
            gateway.terminate()
            assert await gateway.wait() == 0
            await gateway.start()
            await told(1)
        assert sorted(span.span_id for span in spans_at(collector)) == sorted(map(span_id, ids))


async def test_the_log_from_before_the_plugin_was_switched_on_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(directory=tmp_path) as gateway:
        await gateway.chat()
        await eventually(lambda: len(rows(tmp_path)) == 1, 10.0)
    monkeypatch.setattr(plugin, "BEFORE", 0.0)
    async with collecting() as collector, tracing(collector, directory=tmp_path) as gateway:
        await eventually(lambda: _position(tmp_path) is not None, 10.0)
        after = await gateway.chat()
        [span] = await spans(collector)
        assert span.span_id == span_id(after.request_id)


async def test_rows_that_waited_too_long_are_not_sent_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tracing(f"http://127.0.0.1:{unused_port()}", directory=tmp_path) as gateway:
        for _ in range(3):
            await gateway.chat()
        await eventually(lambda: len(rows(tmp_path)) == 3 and _position(tmp_path) is not None, 10.0)
    await asyncio.sleep(1.0)
    monkeypatch.setattr(collector_module, "KEPT_SECONDS", 1.0)
    async with collecting() as collector, tracing(collector, directory=tmp_path) as gateway:
        late = await gateway.chat()
        [span] = await spans(collector)
        assert span.span_id == span_id(late.request_id)


def _position(directory: Path) -> int | None:
    """Of the last row that was sent; None: nothing has begun."""
    return next((int(position) for (position,) in query(logs_file(directory), "SELECT position FROM otel_state")), None)


async def test_without_the_log_there_is_nothing_to_send_and_muxx_says_so(caplog: pytest.LogCaptureFixture) -> None:
    config = {
        "plugins": {"otel": {"endpoint": "http://127.0.0.1:1"}, "logs": {"enabled": False}, "spend_caps": {"enabled": False}}
    }
    async with RunningGateway(config, mock=True) as gateway:
        assert (await gateway.chat()).status == 200
    assert [w for w in warnings(caplog) if "the plugin logs is off" in w]
