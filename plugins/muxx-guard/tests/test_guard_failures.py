"""A service that fails, in any way there is, and the limits on what it may cost."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from guard_kit import PLUGINS, GuardService, delta, gateway_for, no_bad_word, pieces_of, said, texts
from muxx import StartError
from muxx.testing import DONE, RunningGateway, answers, eventually, leak, sse, unused_port

from muxx_guard.protocol import MOST_BYTES, Refused, ServiceFailed, Text, edits_of

STORY = "Once upon a time there was a very long answer, and it went on. " * 5


def replacing(**members: Any) -> bytes:
    return json.dumps({"allow": True, "replace": [{"text": 0, "start": 0, "end": 1, "with": ""} | members]}).encode()


NO_VERDICT = {
    "nothing": b"",
    "a page": b"<html>",
    "a yes that is a text": b'{"allow": "true"}',
    "a yes that is a number": b'{"allow": 1}',
    "no word on it": b'{"code": "x"}',
    "a list": b"[true]",
    "replacing what is not there": replacing(end=10**6),
    "replacing in a text nobody sent": replacing(text=9),
    "replacing nothing": replacing(start=1, end=1),
    "replacing backwards": replacing(start=2, end=1),
    "replacing with a number": replacing().replace(b'""', b"7"),
    "replacing twice": replacing().replace(b"[{", b'[{"text": 0, "start": 0, "end": 3, "with": ""}, {'),
    "too much": b'{"allow": true, "x": "' + b"x" * MOST_BYTES + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("name", NO_VERDICT)
async def test_what_is_no_verdict_is_never_a_yes(name: str) -> None:
    async with GuardService() as service, gateway_for(service) as gateway:
        service.body = NO_VERDICT[name]
        response = await gateway.chat("Hello there")
        assert (response.status, response.error["code"]) == (503, "guard_unavailable")
        assert gateway.upstream.requests == []


@pytest.mark.parametrize("status", [204, 302, 400, 401, 404, 500, 503])
async def test_any_status_but_200_is_a_failure_and_a_redirect_is_not_followed(status: int) -> None:
    async with GuardService() as other, GuardService() as service, gateway_for(service) as gateway:
        service.status, service.location = status, other.url
        response = await gateway.chat()
        assert (response.status, response.error["code"], response.header("x-should-retry")) == (503, "guard_unavailable", "true")
        assert other.questions == []


async def test_a_service_that_is_down_refuses_or_lets_pass_as_the_operator_says() -> None:
    url = f"http://127.0.0.1:{unused_port()}/"
    for on_failure, status, asked in (("refuse", 503, 0), ("allow", 200, 1)):
        async with gateway_for(GuardService(), url=url, on_failure=on_failure) as gateway:
            response = await gateway.chat()
            row = await gateway.get_row(response.request_id)
            assert response.status == status
            assert len(gateway.upstream.requests) == asked
            assert row["attributes"]["guard"]["request"]["verdict"] == "unchecked"


async def test_a_service_that_is_slow_holds_up_a_request_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    for on_failure, status in (("refuse", 503), ("allow", 200)):
        settings = {"service_timeout_s": 0.3, "on_failure": on_failure, "answers": False}
        async with GuardService() as service, gateway_for(service, **settings) as gateway:
            service.delay = 30
            started = time.monotonic()
            assert (await gateway.chat()).status == status
            assert time.monotonic() - started < 1.5
    assert "guard: request req_" in caplog.text
    assert "no answer within 0.3 s" in caplog.text
    assert "Hello" not in caplog.text


@pytest.mark.parametrize("on_failure", ["refuse", "allow"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_service_that_fails_during_an_answer_ends_it_or_lets_it_pass(streamed: bool, on_failure: str) -> None:
    async with GuardService() as service, gateway_for(service, window_chars=100, on_failure=on_failure) as gateway:

        def fail_later(question: dict[str, Any]) -> Any:
            is_first_window = streamed and len(service.questions) == 2
            return {"allow": True} if question["kind"] == "request" or is_first_window else {}

        service.judge = fail_later
        gateway.upstream.script(sse(texts(pieces_of(STORY, 10))) if streamed else answers.chat(STORY))
        response = await gateway.chat(stream=streamed)
        row = await gateway.get_row(response.request_id)
    assert row["attributes"]["guard"]["answer"]["verdict"] == "unchecked"
    if on_failure == "allow":
        assert (said(response) if streamed else response.json()["choices"][0]["message"]["content"]) == STORY
        return
    assert "guard_unavailable" in response.text
    assert "and it went on. Once" not in response.text
    assert not streamed or response.events[-1]["error"]["code"] == "guard_unavailable"


# ── what it may cost ──


async def test_connections_are_used_again() -> None:
    async with GuardService() as service, gateway_for(service, window_chars=50) as gateway:
        for _ in range(5):
            gateway.upstream.script(sse(texts(pieces_of(STORY, 10))))
            assert (await gateway.chat(stream=True)).done
    assert len(service.questions) > 25
    assert len(service.connections) == 1


async def test_a_question_whose_connection_breaks_is_asked_a_second_time_and_no_third() -> None:
    async with GuardService() as service, gateway_for(service, answers=False) as gateway:
        for drops, status, asked in ((0, 200, 1), (1, 200, 2), (2, 503, 2)):
            before, service.drops = len(service.questions), drops
            assert (await gateway.chat()).status == status
            assert len(service.questions) - before == asked


async def test_no_more_questions_run_at_once_than_may() -> None:
    async with GuardService() as service, gateway_for(service, answers=False, max_questions=3, service_timeout_s=1.9) as gateway:
        service.delay = 0.05
        responses = await asyncio.gather(*(gateway.chat() for _ in range(20)))
    assert {response.status for response in responses} == {200}
    assert service.most_at_once == 3


async def test_the_questions_of_a_long_request_are_asked_at_once_and_a_no_ends_the_others() -> None:
    settings = {"answers": False, "batch_chars": 100, "overlap_chars": 0, "service_timeout_s": 1.5}
    async with GuardService() as service, gateway_for(service, **settings) as gateway:
        service.delay = 0.3
        started = time.monotonic()
        assert (await gateway.chat("word " * 200)).status == 200
        assert time.monotonic() - started < 1.2
        assert service.most_at_once == 10
        service.judge = no_bad_word
        assert (await gateway.chat("forbidden " + "word " * 200)).status == 400


async def test_a_client_that_leaves_takes_its_question_along() -> None:
    async with GuardService() as service, gateway_for(service, requests=False, window_chars=10, service_timeout_s=60) as gateway:
        service.delay = 60
        gateway.upstream.script(sse(chunks=[delta(content=STORY), delta("stop") + DONE], gap=30))
        async with await gateway.connect() as client:
            body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
            await client.post_chat(gateway.key, body)
            await eventually(lambda: service.at_once == 1)
        await eventually(lambda: service.at_once == 0)
        await gateway.upstream.last.peer_left(1.0)


async def test_a_service_may_not_take_as_long_as_the_whole_chain() -> None:
    config: dict[str, Any] = {"plugins": {"guard": {"url": "http://127.0.0.1:1/", "service_timeout_s": 2}}}
    with pytest.raises(StartError, match=r"^plugins\.guard\.service_timeout_s: must be below \[server\] chain_timeout_s \(2 s\)"):
        async with RunningGateway(config, plugins=PLUGINS):
            pass
    config["plugins"]["guard"]["requests"] = False
    async with RunningGateway(config, plugins=PLUGINS):
        pass


async def test_the_services_secret_and_what_it_is_asked_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    secret = "guard-token-canary"
    async with GuardService() as service, gateway_for(service, token=secret) as gateway:
        await gateway.chat("prompt-canary")
        service.status = 500
        response = await gateway.chat("prompt-canary")
        await gateway.get_row(response.request_id)
        kept = [path for path in gateway.directory.iterdir() if path.name != "muxx.toml"]
        assert leak.find([secret], *kept) == []
    assert not leak.find([secret, "prompt-canary"], caplog.text.encode(), response.body)


# ── a verdict's words ──


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        ({"code": "hate.speech"}, "hate.speech", ""),
        ({"code": "Ignore all: <b>", "reason": "a\r\nb\x1b[31m"}, "refused", "a  b [31m"),
        ({"code": "x" * 65, "reason": "y" * 1000}, "refused", "y" * 200),
        ({}, "refused", ""),
        ({"replace": [{"text": 0, "start": 0, "end": 99, "with": ""}]}, "refused", ""),
    ],
)
def test_a_foreign_word_reaches_clients_and_logs_in_a_safe_form_only(said: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        edits_of(json.dumps({"allow": False} | said).encode(), [Text("user", "text", "", "abc")])
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_replacements_may_come_in_any_order_and_meet_but_not_overlap() -> None:
    text = [Text("user", "text", "", "abcdef")]
    items = [{"text": 0, "start": 3, "end": 6, "with": "Y"}, {"text": 0, "start": 0, "end": 3, "with": "X"}]
    assert edits_of(json.dumps({"allow": True, "replace": items, "more": 1}).encode(), text) == [[(0, 3, "X"), (3, 6, "Y")]]
    items[1]["end"] = 4
    with pytest.raises(ServiceFailed):
        edits_of(json.dumps({"allow": True, "replace": items}).encode(), text)
