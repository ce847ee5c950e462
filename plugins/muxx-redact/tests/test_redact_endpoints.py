"""The plugin on completions, embeddings and Responses: no text that a request or an answer can carry leaves unmasked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from muxx.testing import RawResponse, RunningGateway, answers, cuts, leak, sse
from redact_answers import (
    KINDS,
    as_stream,
    completion,
    completion_stream,
    item_events,
    of_item,
    piece,
    response,
    response_stream,
    spoken,
    told,
    values_of,
)
from redact_kit import EVERY, PLUGINS, SECRETS, cut, left_in, post

PLANTED = [(name, secret) for name, secret in EVERY if name != "ip"]
ONE_EACH = [(name, secrets[0]) for name, secrets in SECRETS.items() if name != "ip"]
one_loop = pytest.mark.asyncio(loop_scope="module")
at_places = pytest.mark.parametrize("places", [4, pytest.param(120, marks=pytest.mark.soak)])
"""What is done with every cut of a text is in test_redact_cutting.py; here it is through a gateway."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[RunningGateway]:
    """A gateway with the plugin as it comes, in front of a scripted provider."""
    async with RunningGateway(plugins=PLUGINS) as running:
        yield running


def offsets(secret: str, places: int) -> range:
    """Every place within a secret, or within a long one so many at the most."""
    return range(1, len(secret), 1 + len(secret) // places)


# ── completions ──


def completed(stream: bytes) -> Counter[tuple[int, str]]:
    """What every choice of a streamed completion said."""
    said: dict[int, str] = {}
    for value in values_of(stream):
        for choice in value["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
    return Counter(said.items())


@one_loop
@at_places
@pytest.mark.parametrize(("name", "secret"), PLANTED)
async def test_a_completion_is_masked_wherever_it_is_cut(gateway: RunningGateway, name: str, secret: str, places: int) -> None:
    before, expected = "Take ", f"Take [{name.upper()}] now."
    text = f"{before}{secret} now."
    for pieces in (list(text), *(cut(text, [len(before) + at]) for at in offsets(secret, places))):
        gateway.upstream.script(sse(completion_stream(pieces, choices=2)))
        streamed = await post(gateway, "completions", prompt="x", n=2, stream=True)
        assert completed(streamed.body) == Counter({(0, expected): 1, (1, expected): 1})
        assert not left_in(secret, streamed.body)
    gateway.upstream.script(answers.json(completion(text, choices=2)))
    plain = await post(gateway, "completions", prompt="x", n=2)
    assert [choice["text"] for choice in plain.json()["choices"]] == [expected, expected]
    for answer in (streamed, plain):
        row = await gateway.get_row(answer.request_id)
        assert [choice["text"] for choice in row["output"]["choices"]] == [expected, expected]
        assert not left_in(secret, row)


@one_loop
async def test_the_tokens_of_what_is_hidden_in_a_completion_are_hidden_too(gateway: RunningGateway) -> None:
    words = ("zyx", "@example", ".org", " is", " here")
    told_of = [{"tokens": [word], "token_logprobs": [-1.0], "text_offset": [0], "top_logprobs": [{word: -1.0}]} for word in words]
    gateway.upstream.script(
        sse(b"".join(piece(word, logprobs=each) for word, each in zip(words, told_of, strict=True)) + completion_stream([]))
    )
    streamed = await post(gateway, "completions", prompt="x", stream=True, logprobs=1)
    assert completed(streamed.body) == Counter({(0, "[EMAIL] is here"): 1})
    assert " here" in streamed.text
    whole = completion("".join(words))
    whole["choices"][0]["logprobs"] = {"tokens": list(words), "top_logprobs": [{word: -1.0} for word in words]}
    gateway.upstream.script(answers.json(whole))
    plain = await post(gateway, "completions", prompt="x", logprobs=1)
    assert plain.json()["choices"][0]["text"] == "[EMAIL] is here"
    for answer in (streamed, plain):
        row = await gateway.get_row(answer.request_id)
        assert not leak.find(["zyx", "@example", ".org"], answer.body, json.dumps(row["output"]))


# ── Responses ──


def check_stream(answer: RawResponse, secret: str, expected: str) -> None:
    """Every text of every kind says what it should, in its pieces and wherever it is repeated."""
    assert answer.complete
    found = list(told(answer.body))
    assert {at for at, _, _ in found} == set(range(len(KINDS)))
    for at, teller, text in found:
        assert text == spoken(KINDS[at], expected), (KINDS[at].name, teller)
    assert not left_in(secret, answer.body)


async def check_row(gateway: RunningGateway, answer: RawResponse, secret: str, expected: str) -> None:
    row = await gateway.get_row(answer.request_id)
    said = [text for item in row["output"]["output"] for text in of_item(item)]
    assert said == [spoken(kind, expected) for kind in KINDS]
    assert not left_in(secret, row)
    assert row["attributes"]["redact"]["answer"].keys() == {expected[expected.index("[") + 1 : expected.index("]")].lower()}


def cut_within(secret: str, before: str, after: str, places: int) -> Iterator[list[list[str]]]:
    """For each kind its text in pieces: single characters, and cut once at each of these places of the secret."""
    texts = [spoken(kind, before + secret + after) for kind in KINDS]
    yield [list(text) for text in texts]
    starts = [text.index(before) + len(before) for text in texts]
    for at in offsets(secret, places):
        yield [cut(text, [start + at]) for text, start in zip(texts, starts, strict=True)]


@one_loop
@at_places
@pytest.mark.parametrize(("name", "secret"), PLANTED)
async def test_every_kind_of_text_in_a_responses_stream_is_masked_wherever_it_is_cut(
    gateway: RunningGateway, name: str, secret: str, places: int
) -> None:
    expected = f"Take [{name.upper()}] now."
    for pieces in cut_within(secret, "Take ", " now.", places):
        gateway.upstream.script(sse(response_stream(pieces)))
        answer = await post(gateway, "responses", input="x", stream=True)
        check_stream(answer, secret, expected)
    await check_row(gateway, answer, secret, expected)


@one_loop
@pytest.mark.parametrize(("name", "secret"), PLANTED)
async def test_texts_that_come_whole_and_plain_answers_are_masked_in_every_kind(
    gateway: RunningGateway, name: str, secret: str
) -> None:
    expected = f"Take [{name.upper()}] now."
    texts = [spoken(kind, f"Take {secret} now.") for kind in KINDS]
    for form in ({"deltas": False}, {"items": False}):
        gateway.upstream.script(sse(response_stream([[text] for text in texts], **form)))
        answer = await post(gateway, "responses", input="x", stream=True)
        check_stream(answer, secret, expected)
        await check_row(gateway, answer, secret, expected)
    gateway.upstream.script(answers.json(response(texts)))
    plain = await post(gateway, "responses", input="x")
    assert [text for item in plain.json()["output"] for text in of_item(item)] == [spoken(kind, expected) for kind in KINDS]
    assert not left_in(secret, plain.body)
    await check_row(gateway, plain, secret, expected)


@one_loop
@pytest.mark.parametrize(
    ("seed", "status"),
    [
        (0, "completed"), (1, "incomplete"), (3, "failed"),
        *(pytest.param(seed, "completed", marks=pytest.mark.soak) for seed in (1, 2, 3)),
        *(pytest.param(seed, "incomplete", marks=pytest.mark.soak) for seed in (0, 2, 3)),
        *(pytest.param(seed, "failed", marks=pytest.mark.soak) for seed in (0, 1, 2)),
    ],
)  # fmt: skip
async def test_it_does_not_matter_how_the_network_cuts_a_responses_stream(
    gateway: RunningGateway, seed: int, status: str
) -> None:
    text = " and ".join(secret for _, secret in ONE_EACH)
    expected = " and ".join(f"[{name.upper()}]" for name, _ in ONE_EACH)
    said = [spoken(kind, text) for kind in KINDS]
    pieces = [[each[start : start + 7] for start in range(0, len(each), 7)] for each in said]
    gateway.upstream.script(sse(chunks=list(cuts(response_stream(pieces, status), seed))))
    answer = await post(gateway, "responses", input="x", stream=True)
    for at, teller, found in told(answer.body):
        assert found == spoken(KINDS[at], expected), (KINDS[at].name, teller)
    row = await gateway.get_row(answer.request_id)
    assert not [secret for _, secret in ONE_EACH if left_in(secret, answer.body, row)]


@one_loop
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_a_responses_stream_that_breaks_off_gives_away_nothing_it_held(gateway: RunningGateway, kind: Any) -> None:
    """Cut after every event: what has left by then holds no beginning of the secret."""
    secret = "ghp_" + "aB3" * 12
    text = spoken(kind, f"Take {secret} now.")
    events = item_events(kind, 0, cut(text, range(0, len(text), 5)))
    for end in range(1, len(events)):
        gateway.upstream.script(sse(as_stream(events[:end])))
        answer = await post(gateway, "responses", input="x", stream=True)
        assert "upstream_truncated" in answer.text
        row = await gateway.get_row(answer.request_id)
        assert not leak.find(["ghp_", "aB3"], answer.body, json.dumps(row["output"]))


@one_loop
async def test_texts_of_many_items_are_each_seen_whole_though_they_take_turns(gateway: RunningGateway) -> None:
    """Some providers write several items at once."""
    secret = "ghp_" + "aB3" * 12
    items = [item_events(kind, at, list(spoken(kind, f"Take {secret} now."))) for at, kind in enumerate(KINDS)]
    events = [("response.created", {"response": {"id": "resp_1", "object": "response", "output": []}})]
    events += [item.pop(0) for item in items]
    while any(items):
        events += [item.pop(0) for item in items if item]
    texts = [spoken(kind, f"Take {secret} now.") for kind in KINDS]
    events.append(("response.completed", {"response": response(texts)}))
    gateway.upstream.script(sse(as_stream(events)))
    answer = await post(gateway, "responses", input="x", stream=True)
    check_stream(answer, secret, "Take [API_KEY] now.")
    await check_row(gateway, answer, secret, "Take [API_KEY] now.")


# ── requests ──


def requests(text: str) -> list[tuple[str, dict[str, Any]]]:
    """A request to each endpoint, with the text wherever it can hold one."""
    arguments = json.dumps({"to": text})
    said = {"role": "user", "content": [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": "http://x"}]}
    spoken_before = [{"type": "output_text", "text": text}, {"type": "refusal", "refusal": text}]
    thought = {"summary": [{"type": "summary_text", "text": text}], "content": [{"type": "reasoning_text", "text": text}]}
    items = [
        {"role": "developer", "content": f"You know {text}."},
        said,
        {"type": "message", "role": "assistant", "content": spoken_before},
        {"type": "reasoning", "id": "rs", **thought},
        {"type": "function_call", "call_id": "c", "name": "send", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c", "output": f"sent to {text}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": text}]},
        {"type": "custom_tool_call", "call_id": "d", "name": "send", "input": text},
        {"type": "custom_tool_call_output", "call_id": "d", "output": text},
        {"type": "mcp_call", "id": "m", "name": "n", "arguments": arguments, "output": text, "error": text},
    ]  # fmt: skip
    return [
        ("completions", {"prompt": f"Once {text} was", "suffix": f"not {text}"}),
        ("completions", {"prompt": ["first", text, f"({text})"]}),
        ("embeddings", {"input": f"about {text}"}),
        ("embeddings", {"input": ["first", text], "encoding_format": "base64", "dimensions": 8}),
        ("responses", {"input": f"I am {text}.", "instructions": f"Say {text}!"}),
        ("responses", {"input": items}),
        ("responses", {"prompt": {"id": "p", "variables": {"who": text, "more": {"type": "input_text", "text": text}}}}),
    ]


@one_loop
@pytest.mark.parametrize(("name", "secret"), PLANTED)
async def test_the_provider_and_the_row_get_masks_wherever_a_request_holds_text(
    gateway: RunningGateway, name: str, secret: str
) -> None:
    asked, expected = requests(secret), requests(f"[{name.upper()}]")
    for (path, body), (_, masked) in zip(asked, expected, strict=True):
        gateway.upstream.script(answers.json(PLAIN[path]))
        answer = await post(gateway, path, **body)
        assert answer.status == 200
        sent = gateway.upstream.last
        assert not left_in(secret, sent.body)
        assert {member: sent.json()[member] for member in masked} == masked
        row = await gateway.get_row(answer.request_id)
        assert {member: row["input"][member] for member in masked} == masked
        assert not left_in(secret, row)


PLAIN: dict[str, dict[str, Any]] = {
    "completions": completion("fine"),
    "responses": response([spoken(kind, "fine") for kind in KINDS]),
    "embeddings": {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.25]}]},
}


@one_loop
async def test_tokens_and_vectors_pass_as_they_are(gateway: RunningGateway) -> None:
    for path, member in (("completions", "prompt"), ("embeddings", "input")):
        for tokens in ([4111, 1111], [[4111], [1111, 1111]]):
            gateway.upstream.script(answers.json(PLAIN[path]))
            answer = await post(gateway, path, **{member: tokens})
            assert gateway.upstream.last.json()[member] == tokens
            assert answer.json() == PLAIN[path]
