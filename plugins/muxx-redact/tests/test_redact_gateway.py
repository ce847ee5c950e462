"""The plugin in a running gateway: what the provider gets, what the client gets, and what is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio
from muxx.testing import DONE, RawResponse, RunningGateway, ScriptedUpstream, answers, cuts, leak, post_chat, sse
from redact_answers import KINDS, completion, completion_stream, response, response_stream, spoken
from redact_kit import EVERY, PEM, PLUGINS, SECRETS, call, cut, delta, left_in, post, said, texts

PLANTED = {name: secrets for name, secrets in SECRETS.items() if name != "ip"}
EVERY_PLANTED = [(name, secret) for name, secret in EVERY if name in PLANTED]


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    """A gateway with the plugin as it comes, in front of a scripted provider."""
    async with RunningGateway(plugins=PLUGINS) as running:
        yield running


def with_settings(**settings: Any) -> RunningGateway:
    return RunningGateway({"plugins": {"redact": settings}}, plugins=PLUGINS)


def plain(message: dict[str, Any]) -> Iterable[Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message, "finish_reason": "stop"}
    return answers.json({"id": "c-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]})


# ── answers ──


@pytest.mark.parametrize("name", PLANTED)
async def test_no_event_of_a_stream_holds_any_of_it_however_it_is_cut(gateway: RunningGateway, name: str) -> None:
    for secret in PLANTED[name]:
        text = f"Take {secret} now."
        places = range(1, len(text), 1 + len(text) // 8)
        for pieces in (list(text), [text], *(cut(text, [place]) for place in places)):
            gateway.upstream.script(sse(texts(pieces)))
            response = await gateway.chat(stream=True)
            assert said(response) == {"content": f"Take [{name.upper()}] now."}
            assert response.done
            assert not left_in(secret, response.body)


@pytest.mark.parametrize("seed", range(3))
async def test_it_does_not_matter_how_the_network_cuts_the_events(gateway: RunningGateway, seed: int) -> None:
    text = " and ".join(secret for _, secret in EVERY_PLANTED)
    stream = texts(text[start : start + 40] for start in range(0, len(text), 40))
    gateway.upstream.script(sse(chunks=cuts(stream, seed)))
    response = await gateway.chat(stream=True)
    assert said(response)["content"] == " and ".join(f"[{name.upper()}]" for name, _ in EVERY_PLANTED)
    assert not any(left_in(secret, response.body) for _, secret in EVERY_PLANTED)


async def test_a_plain_answer_is_masked_in_all_it_says(gateway: RunningGateway) -> None:
    for name, secret in EVERY_PLANTED:
        await masks_a_plain_answer(gateway, name, secret)


async def masks_a_plain_answer(gateway: RunningGateway, name: str, secret: str) -> None:
    function = {"name": "send", "arguments": json.dumps({"to": secret})}
    message = {
        "content": f"Take {secret}.",
        "reasoning_content": f"The user wants {secret}",
        "refusal": f"Not {secret}!",
        "tool_calls": [{"id": "t", "type": "function", "function": function}],
    }
    gateway.upstream.script(plain(message))
    response = await gateway.chat()
    [choice] = response.json()["choices"]
    mask = f"[{name.upper()}]"
    assert choice["message"]["content"] == f"Take {mask}."
    assert choice["message"]["reasoning_content"] == f"The user wants {mask}"
    assert choice["message"]["refusal"] == f"Not {mask}!"
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"to": mask}
    assert not left_in(secret, response.body)


async def test_choices_and_calls_that_take_turns_are_each_seen_whole(gateway: RunningGateway) -> None:
    text = "ask ada@example.org or 4111 1111 1111 1111"
    arguments = json.dumps({"to": text, "card": 4111111111111111})
    stream = b""
    for at in range(max(len(text), len(arguments))):
        sign, piece = text[at : at + 1], arguments[at : at + 1]
        stream += delta(reasoning_content=sign) + delta(index=1, content=sign)
        stream += delta(tool_calls=[call(piece, 0), call(piece, 1)], index=2)
    stream += b"".join(delta(content=sign) for sign in text)
    stream += delta("stop") + delta("stop", index=1) + delta("tool_calls", index=2) + DONE
    gateway.upstream.script(sse(stream))
    response = await gateway.chat(stream=True, n=3)
    masked = "ask [EMAIL] or [CARD]"
    expected = json.dumps({"to": masked, "card": "[CARD]"})
    assert said(response) == {"content": masked, "reasoning_content": masked}
    assert said(response, 1) == {"content": masked}
    assert said(response, 2) == {"0": expected, "1": expected}
    reasons = [choice["finish_reason"] for item in response.events for choice in item["choices"]]
    assert [reason for reason in reasons if reason] == ["stop", "stop", "tool_calls"]
    assert response.done


async def test_what_a_finish_and_usage_say_comes_after_all_text(gateway: RunningGateway) -> None:
    gateway.upstream.script(answers.chat("Write to ada@example.org"))
    response = await gateway.chat(stream=True, stream_options={"include_usage": True})
    *_, text, finish, usage = response.events
    assert text["choices"][0]["delta"]["content"] == "[EMAIL]"
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["completion_tokens"] == 5


async def test_an_answer_with_nothing_to_hide_leaves_as_its_own_bytes(gateway: RunningGateway) -> None:
    stream = texts(["It ", "was  ", "1984, ", "a ", "fine\n", "year"])
    gateway.upstream.script(sse(stream))
    response = await gateway.chat(stream=True)
    assert b"".join(part + b"\n\n" for part in response.body.split(b"\n\n") if part[:1] not in (b":", b"")) == stream
    body = b'{ "id":"x", "choices" : [{"index":0,"message":{"content":"\\u0041ll is well"},"finish_reason":"stop"}] }'
    gateway.upstream.script(answers.json(body))
    assert (await gateway.chat()).body == body


async def test_probabilities_of_hidden_words_are_hidden_too(gateway: RunningGateway) -> None:
    events = []
    for piece in ("ada", "@example", ".org", " is", " here"):
        logprobs = b'"logprobs":{"content":[{"token":"%b"}]},"finish_reason"' % piece.encode()
        events.append(delta(content=piece).replace(b'"finish_reason"', logprobs))
    gateway.upstream.script(sse(b"".join(events) + delta("stop") + DONE))
    response = await gateway.chat(stream=True)
    assert said(response)["content"] == "[EMAIL] is here"
    assert not leak.find(["ada", "@example", ".org"], response.body)
    assert "here" in response.text


async def test_an_answer_that_breaks_off_gives_away_nothing_it_held(gateway: RunningGateway) -> None:
    pieces = ["Here ", "it ", "is: ", *PEM[:300]]
    gateway.upstream.script(sse(b"".join(delta(content=piece) for piece in pieces)))
    response = await gateway.chat(stream=True)
    assert said(RawResponse(200, body=response.body.partition(b'data: {"error"')[0])) == {"content": "Here it is: "}
    assert response.events[-1]["error"]["code"] == "upstream_truncated"
    assert "MIIE" not in response.text


# ── requests ──


async def test_the_provider_gets_masks_wherever_a_message_holds_text(gateway: RunningGateway) -> None:
    for name, secret in EVERY_PLANTED:
        mask = f"[{name.upper()}]"
        arguments = json.dumps({"to": secret})
        messages = [
            {"role": "system", "content": f"You know {secret}."},
            {"role": "user", "content": [{"type": "text", "text": f"I am {secret}"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "t", "type": "function", "function": {"name": "send", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "t", "content": json.dumps({"sent": secret})},
        ]  # fmt: skip
        response = await post_chat(gateway.base_url, gateway.key, messages=messages)
        assert response.status == 200
        sent = gateway.upstream.last
        assert not left_in(secret, sent.body)
        system, user, assistant, tool = sent.json()["messages"]
        assert system["content"] == f"You know {mask}."
        assert user["content"][0]["text"] == f"I am {mask}"
        assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"to": mask}
        assert json.loads(tool["content"]) == {"sent": mask}


async def test_a_long_request_is_masked_to_its_end(gateway: RunningGateway) -> None:
    text = "All work and no play. " * 10_000
    for at in (65_530, 131_060, len(text)):
        await gateway.chat(text[:at] + " ada@example.org " + text[at:])
        assert gateway.upstream.last.json()["messages"][0]["content"] == text[:at] + " [EMAIL] " + text[at:]


# ── what is stored ──


@pytest.mark.parametrize("stream", [False, True])
async def test_the_row_holds_the_request_as_sent_and_the_answer_as_delivered(gateway: RunningGateway, stream: bool) -> None:
    gateway.upstream.script(answers.chat("Ask ada@example.org, or call (415) 555-0132."))
    response = await gateway.chat("I am bob@example.org, key ghp_" + "aB3" * 12, stream=stream)
    row = await gateway.get_row(response.request_id)
    assert row["input"]["messages"][0]["content"] == "I am [EMAIL], key [API_KEY]"
    assert row["output"]["choices"][0]["message"]["content"] == "Ask [EMAIL], or call [PHONE]."
    assert row["attributes"] == {"redact": {"request": {"email": 1, "api_key": 1}, "answer": {"email": 1, "phone": 1}}}


async def test_no_secret_is_left_on_the_disk(tmp_path: Any) -> None:
    async with ScriptedUpstream() as upstream:
        async with RunningGateway(plugins=PLUGINS, upstream=upstream, directory=tmp_path) as gateway:
            for stream in (False, True):
                for _, secret in EVERY_PLANTED:
                    upstream.script(answers.chat(f"Take {secret}."))
                    response = await gateway.chat(f"I have {secret}.", stream=stream)
            await gateway.get_row(response.request_id)
        found = leak.find([secret for _, secret in EVERY_PLANTED if "\n" not in secret], tmp_path)
    assert found == []


# ── what an operator may choose ──


async def test_a_detector_may_refuse_a_request_and_says_which_but_not_what() -> None:
    async with with_settings(block=["card"]) as gateway:
        response = await gateway.chat("Pay with 4111 1111 1111 1111, ada@example.org")
        row = await gateway.get_row(response.request_id)
        assert gateway.upstream.requests == []
        assert (await gateway.chat("I am ada@example.org")).status == 200
    assert (response.status, response.error["type"], response.error["code"], response.error["param"]) == (
        400, "invalid_request_error", "blocked_card", "messages[0].content",
    )  # fmt: skip
    assert "4111" not in response.text
    assert row["error_code"] == "blocked_card"
    assert row["attributes"] == {"redact": {"request": {"card": 1}}}


async def test_a_detector_may_end_an_answer_before_anything_it_found_has_left() -> None:
    async with with_settings(block=["private_key"]) as gateway:
        gateway.upstream.script(sse(texts(["Here ", "it is: ", *cut(PEM, range(0, len(PEM), 7)), " Done"])))
        response = await gateway.chat(stream=True)
        assert response.events[-1]["error"]["code"] == "blocked_private_key"
        assert "MIIE" not in response.text
        assert not response.done
        gateway.upstream.script(plain({"content": PEM}))
        whole = await gateway.chat()
    assert (whole.status, whole.error["type"], whole.error["code"]) == (403, "permission_error", "blocked_private_key")


@pytest.mark.parametrize("path", ["completions", "embeddings", "responses"])
async def test_a_detector_may_refuse_at_every_endpoint(path: str) -> None:
    member = "prompt" if path == "completions" else "input"
    secret = "ada@example.org"
    async with with_settings(block=["email"]) as gateway:
        refused = await post(gateway, path, **{member: ["x", secret] if path != "responses" else secret})
        assert (refused.status, refused.error["code"]) == (400, "blocked_email")
        assert refused.error["param"] == (member if path == "responses" else f"{member}[1]")
        assert gateway.upstream.requests == []
        if path == "embeddings":
            return
        told = [spoken(kind, f"Take {secret} now") for kind in KINDS]
        stream = response_stream([list(text) for text in told]) if path == "responses" else completion_stream(list(told[2]))
        gateway.upstream.script(sse(stream), answers.json(response(told) if path == "responses" else completion(told[2])))
        streamed, plain = await post(gateway, path, **{member: "x"}, stream=True), await post(gateway, path, **{member: "x"})
        assert (plain.status, plain.error["code"]) == (403, "blocked_email")
        assert "blocked_email" in streamed.text
        assert not left_in(secret, streamed.body, plain.body)
        assert b"[DONE]" not in streamed.body
        assert b"response.completed" not in streamed.body


async def test_each_side_can_be_left_alone() -> None:
    text = "ada@example.org"
    async with with_settings(answers=False) as gateway:
        gateway.upstream.script(answers.chat(text))
        for stream in (False, True):
            assert text in (await gateway.chat(text, stream=stream)).text
            assert b"[EMAIL]" in gateway.upstream.last.body
    async with with_settings(requests=False) as gateway:
        gateway.upstream.script(answers.chat(text))
        for stream in (False, True):
            assert "[EMAIL]" in (await gateway.chat(text, stream=stream)).text
            assert text.encode() in gateway.upstream.last.body


async def test_arguments_of_tools_can_be_left_alone() -> None:
    calls = [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"to": "ada@example.org"}'}}]
    messages = [{"role": "user", "content": "ada@example.org"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    async with with_settings(tool_arguments=False) as gateway:
        gateway.upstream.script(plain({"content": "ada@example.org", "tool_calls": calls}))
        response = await post_chat(gateway.base_url, gateway.key, messages=messages)
        sent = gateway.upstream.last.json()["messages"]
    message = response.json()["choices"][0]["message"]
    assert (sent[0]["content"], message["content"]) == ("[EMAIL]", "[EMAIL]")
    assert sent[1]["tool_calls"] == message["tool_calls"] == calls
