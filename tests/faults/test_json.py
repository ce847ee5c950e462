"""FAULTS J01 to J06 through a running gateway: what was checked is what is sent, and no body costs more than its size."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import orjson
import pytest
from carrying_kit import error_code, serving
from http_kit import CANARY, CHUNKED, PATH, chat_bytes, check_refusal, next_response, one_loop, plain, request, say

from muxx import Attempt, hookimpl
from muxx.testing import PROVIDER_KEY, RawResponse, RunningGateway

GATEWAY_CONFIG = {"server": {"max_body_bytes": 2**20}}


async def post(gateway: RunningGateway, body: bytes, *headers: str) -> RawResponse:
    [response] = (await say(gateway, plain(*headers, "Connection: close", body=body))).responses
    return response


def with_member(raw: bytes, name: bytes = b"metadata") -> bytes:
    """A good request with one more member, as raw JSON."""
    return b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}],"%b":%b}' % (name, raw)


# ── J01: syntax ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

NOT_JSON: list[bytes] = [
    b"", b" ", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf" + with_member(b"1"), with_member(b"1").decode().encode("utf-16"),
    with_member(b"1").decode().encode("utf-16-le"),
    with_member(b"1").decode().encode("utf-32"),
    with_member(b"1") + b"x", with_member(b"1") + b"\x00", with_member(b"1") * 2, with_member(b"1") + b",", b"x" + with_member(b"1"),
    b"{", b"}", b"[", b"{]", b"{}}", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,}', b'{,"a":1}', b"{a:1}", b"{'a':1}", b'{"a" 1}',
    b'{"a"::1}', b'{1:1}', b'{null:1}', b'{"a":1 "b":2}',
    b"nul", b"True", b"None", b"undefined", b"\x00", b"\xff", b"/* */ {}", b"{} // x", b"<html>", b"model=gpt-4o&messages=x",
    b"data: {}\n\n",
]  # fmt: skip

NOT_VALUES: list[bytes] = [
    b"NaN", b"Infinity", b"-Infinity", b"-NaN", b"inf", b"+1", b"01", b"-01", b"1.", b".5", b"-.5", b"1e", b"1e+", b"1.e1",
    b"0x10", b"1_000", b"1,000", b"--1", b"- 1", b"1 0", b"\xef\xbc\x91",
    b"'a'", b'"a', b'a"', b'"\n"', b'"\t"', b'"\x00"', b'"\\a"', b'"\\x41"', b'"\\u12"', b'"\\u123g"', b'"\\"', b'"\\ud800"',
    b'"\\udc00"', b'"\\ud800\\u0041"', b'"\\udc00\\ud800"',
    b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe0\x80\xaf"', b'"\xc3"', b"[1,]", b"[,1]",
    b"[1 2]", b"[1:2]", b"[", b"]", b"[1", b"[\"a\"", b"{1}", b'{"a"}', b'{"a":}',
    b'{"a":1,,"b":2}', b"tru", b"TRUE", b"fals", b"nulll", b"[a]", b"[\x0b1]", b"[\x0c1]", b"[\xc2\xa01]", b"[\xe2\x80\xa81]",
    b"\\u0041", b"*", b"~",
]  # fmt: skip

VALUES: list[bytes] = [
    b"null", b"true", b"false", b"0", b"-0", b"-1", b"1.5", b"-1.5e-3", b"1E5", b"1e+5", b"1.0", b"123456789012345678", b'""',
    b'"a"', b'"\\u0041"', b'"\\u00e9"', b'"\\ud83d\\ude00"',
    b'"\\/"', b'"\\b\\f\\n\\r\\t\\"\\\\"', b'"\\u0000"', b'"\\u2028"', b'"\xe2\x80\xa8"', b'"\xc3\xa9"', b'"\xf0\x9f\x98\x80"',
    b'"\xef\xbf\xbf"', b'"\xef\xbb\xbf"', b'"\x7f"', b"[]", b"[1]",
    b"[[]]", b"[null,1,\"a\",{}]", b"{}", b'{"":0}', b'{"a":{"b":[]}}', b'{"\\u0000":1}', b' [ 1 , 2 ] ', b"\t1\n",
    b'{"a":"b","a":"c"}', b"[0,-0,1e0]", b'"' + b"x" * 1000 + b'"',
]  # fmt: skip


@one_loop
@pytest.mark.parametrize("number", range(len(NOT_JSON)))
async def test_J01_what_is_no_json_is_refused(number: int, gateway: RunningGateway) -> None:
    check_refusal(await post(gateway, NOT_JSON[number]), 400, "invalid_json")
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize("number", range(len(NOT_VALUES)))
async def test_J01_what_is_no_value_is_refused_inside_a_good_request_too(number: int, gateway: RunningGateway) -> None:
    check_refusal(await post(gateway, with_member(NOT_VALUES[number])), 400, "invalid_json")
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize("number", range(len(VALUES)))
async def test_J01_every_value_arrives_as_it_was(number: int, gateway: RunningGateway) -> None:
    assert (await post(gateway, with_member(VALUES[number]))).status == 200
    assert gateway.upstream.last.json()["metadata"] == orjson.loads(VALUES[number])


@one_loop
@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"', b"true", b'["model"]'])
async def test_J01_json_that_is_no_object_is_of_the_wrong_type(body: bytes, gateway: RunningGateway) -> None:
    check_refusal(await post(gateway, body), 400, "invalid_type")


@one_loop
async def test_J01_the_refusal_says_where_but_never_what(gateway: RunningGateway) -> None:
    response = await post(gateway, b'{"model": "gpt-4o",\n "%b": oops}' % CANARY.encode())
    check_refusal(response, 400, "invalid_json")
    assert "line 2" in response.error["message"]


# ── J02: depth and complexity ───────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize("depth", [64, 65, 500, 1024, 1025, 10_000, 100_000])
@pytest.mark.parametrize("kind", [(b"[", b"]", b"1"), (b'{"a":', b"}", b"1")])
async def test_J02_nesting_has_a_limit(kind: tuple[bytes, bytes, bytes], depth: int, gateway: RunningGateway) -> None:
    opening, closing, inner = kind
    response = await post(gateway, with_member(opening * depth + inner + closing * depth))
    check_refusal(response, 400, "json_too_deep" if depth < 100_000 else "json_too_complex")
    just = with_member(opening * 63 + inner + closing * 63)
    assert (await post(gateway, just)).status == 200


@one_loop
@pytest.mark.parametrize("depth", [100, 100_000])
async def test_J02_unfinished_nesting_is_refused_too(depth: int, gateway: RunningGateway) -> None:
    response = await post(gateway, with_member(b"[" * depth))
    assert response.status == 400
    assert error_code(response) in ("invalid_json", "json_too_deep")


@one_loop
@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b'"",', b'{"a":1},', b"null,"])
async def test_J02_so_many_values_are_refused_before_they_cost_anything(unit: bytes, gateway: RunningGateway) -> None:
    many = with_member(b"[" + unit * (900_000 // len(unit)) + b"1]")
    lag = asyncio.create_task(longest_lag())
    response = await post(gateway, many)
    lag.cancel()
    check_refusal(response, 400, "json_too_complex")
    with suppress(asyncio.CancelledError):
        assert await lag < 0.5


async def longest_lag() -> float:
    """How long the event loop, which the gateway runs in, was ever held up; until cancelled."""
    longest = 0.0
    try:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before - 0.005)
    except asyncio.CancelledError:
        return longest


@one_loop
async def test_J02_text_full_of_brackets_and_commas_is_text(gateway: RunningGateway) -> None:
    text = '[],{}:"\\' * 60_000
    response = await post(gateway, chat_bytes(text))
    assert response.status == 200
    assert gateway.upstream.last.json()["messages"][0]["content"] == text


class Turns:
    """Counts the turns of the event loop while it is `on`."""

    on = True
    count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.on:
            asyncio.get_running_loop().call_soon(self)


@pytest.mark.parametrize(("size", "least"), [(2 * 2**20, 1), (20, 0)])
async def test_J02_others_have_their_turn_between_the_passes_over_a_large_request(size: int, least: int) -> None:
    turns, at = Turns(), []

    class Watch:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            at.append(turns.count)
            attempt.sign = lambda _: at.append(turns.count)

    async with serving(plugins={"watch": Watch}) as gateway:
        turns()
        assert (await gateway.chat("," * size)).status == 200
        turns.on = False
    assert at[1] - at[0] == least


# ── J03: duplicate members ──────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize("spelling", [b'"model"', b'"mo\\u0064el"', b'"\\u006dodel"'])
@pytest.mark.parametrize("last", [b"gpt-4o-mini", b"gpt-4o"])
async def test_J03_what_was_checked_is_what_is_sent(spelling: bytes, last: bytes, gateway: RunningGateway) -> None:
    first = b"gpt-4o" if last == b"gpt-4o-mini" else b"gpt-4o-mini"
    body = b'{"model":"%b","messages":[{"role":"user","content":"x"}],%b:"%b"}' % (first, spelling, last)
    response = await post(gateway, body)
    assert response.status == 200
    sent = gateway.upstream.last.body
    assert sent.count(b"model") == 1
    assert gateway.upstream.last.json()["model"] == last.decode()
    assert (await gateway.get_row(response.request_id))["model_requested"] == last.decode()


@one_loop
@pytest.mark.parametrize(
    ("members", "status"),
    [
        (b'"stream":true,"stream":false', 200),
        (b'"max_tokens":5,"max_tokens":0', 400),
        (b'"max_tokens":0,"max_tokens":5', 200),
        (b'"messages":[],"messages":[{"role":"user","content":"y"}]', 200),
        (b'"messages":[{"role":"user","content":"y"}],"messages":[]', 400),
        (b'"model":"gpt-4o","model":7', 400),
    ],
)
async def test_J03_the_last_of_two_members_is_the_one_checked_and_sent(
    members: bytes, status: int, gateway: RunningGateway
) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],%b}' % members
    assert (await post(gateway, body)).status == status
    if status == 200:
        sent = gateway.upstream.last
        assert sent.json() == orjson.loads(body)
        assert all(sent.body.count(b'"%b":' % name) == 1 for name in (b"model", b"messages"))
    else:
        assert gateway.upstream.requests == []


@one_loop
async def test_J03_nested_duplicates_too(gateway: RunningGateway) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"system","content":"x","role":"user"}]}'
    assert (await post(gateway, body)).status == 200
    assert gateway.upstream.last.body.count(b"role") == 1
    assert gateway.upstream.last.json()["messages"] == [{"role": "user", "content": "x"}]


# ── J04: numbers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

BIG = [
    b"9" * 5000,
    b"18446744073709551616",
    b"-9223372036854775809",
    b"12345678901234567890123",
    b"1e999",
    b"-1e999",
    b"1" + b"0" * 400,
]


@one_loop
@pytest.mark.parametrize("field", [b"max_tokens", b"seed", b"metadata"])
@pytest.mark.parametrize("number", range(len(BIG)))
async def test_J04_a_number_beyond_64_bits_is_refused_and_never_becomes_a_float(
    number: int, field: bytes, gateway: RunningGateway
) -> None:
    response = await post(gateway, with_member(BIG[number], field))
    check_refusal(response, 400, "invalid_type")
    assert response.error["param"] == field.decode()
    assert gateway.upstream.requests == []


@one_loop
async def test_J04_where_it_stands_is_said_when_it_is_nested(gateway: RunningGateway) -> None:
    response = await post(gateway, with_member(b'{"a":[0,{"b":18446744073709551616}]}'))
    assert response.error["param"] == "metadata.a[1].b"


@one_loop
async def test_J04_a_name_of_any_length_is_told_in_part(gateway: RunningGateway) -> None:
    response = await post(gateway, with_member(b'{"%b":{"\\n":%d}}' % (b"x" * 9000, 2**70)))
    check_refusal(response, 400, "invalid_type")
    assert response.error["param"] == "metadata." + "x" * 88 + "..."


@one_loop
@pytest.mark.parametrize(
    "value",
    [
        b"18446744073709551615",
        b"-9223372036854775808",
        b"9007199254740993",
        b"0.1",
        b"-0.0",
        b"1e308",
        b"5e-324",
        b"2.50",
        b"1e22",
    ],
)
async def test_J04_every_other_number_keeps_its_value(value: bytes, gateway: RunningGateway) -> None:
    assert (await post(gateway, with_member(value))).status == 200
    sent = gateway.upstream.last.json()["metadata"]
    assert (type(sent), sent) == (type(orjson.loads(value)), orjson.loads(value))


WRONG: dict[str, list[bytes]] = {
    "max_tokens": [b"0", b"-1", b"1.0", b"1.5", b"true", b'"5"', b"[]", b"{}", b"-0", b"1e2"],
    "temperature": [b"-0.1", b"2.1", b"true", b'"1"', b"[1]", b"-1", b"3"],
    "stream": [b"1", b"0", b'"true"', b"[]", b'"false"'],
    "tools": [b"{}", b'"x"', b"1", b"true"],
    "model": [b"null", b"1", b'""', b"[]", b"true"],
    "messages": [b"null", b"{}", b'"x"', b"[]", b"1"],
}


@one_loop
@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
async def test_J04_a_typed_field_of_another_type_is_refused_by_name(field: str, value: bytes, gateway: RunningGateway) -> None:
    response = await post(gateway, with_member(value, field.encode()))
    check_refusal(response, 400, "invalid_type")
    assert response.error["param"] == field
    assert gateway.upstream.requests == []


@one_loop
@pytest.mark.parametrize("field", ["model", "messages"])
async def test_J04_a_field_that_has_to_be_there_is_missed_by_name(field: str, gateway: RunningGateway) -> None:
    body = orjson.loads(chat_bytes())
    del body[field]
    response = await post(gateway, orjson.dumps(body))
    check_refusal(response, 400, "missing_field")
    assert response.error["param"] == field


@one_loop
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 1),
        ("temperature", 0),
        ("temperature", 2),
        ("temperature", 0.5),
        ("stream", False),
        ("tools", []),
        ("max_tokens", None),
    ],
)
async def test_J04_the_ends_of_what_is_allowed_are_allowed(field: str, value: Any, gateway: RunningGateway) -> None:
    assert (await post(gateway, chat_bytes(**{field: value}))).status == 200
    assert gateway.upstream.last.json()[field] == value


# ── J05: what a body cannot change ──────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = [
    "api_base", "base_url", "api_key", "api_version", "user_config", "extra_headers", "extra_body", "extra_query",
    "custom_llm_provider", "organization", "headers", "proxy", "proxies",
    "litellm_params", "litellm_credential_name", "model_list", "fallbacks", "mock_response", "target_url", "endpoint", "url",
    "host", "path", "provider", "region", "aws_session_token",
    "azure_ad_token", "vertex_credentials", "vertex_project", "hf_model_name", "no-log", "turn_off_message_logging",
    "guardrails", "tags", "deployment_id", "timeout", "callbacks",
]  # fmt: skip


@one_loop
@pytest.mark.parametrize("depth", range(5))
async def test_J05_no_member_of_a_body_changes_where_it_goes_or_with_which_key(depth: int, gateway: RunningGateway) -> None:
    evil = {
        name: {"url": "http://evil.example/", "Authorization": f"Bearer {CANARY}"} if number % 2 else "http://evil.example/"
        for number, name in enumerate(HOSTILE)
    }
    nested: dict[str, Any] = evil
    for _ in range(depth):
        nested = {"extra_body": nested, "metadata": nested}
    response = await post(gateway, orjson.dumps({**orjson.loads(chat_bytes("Hello")), **nested}))
    assert response.status == 200
    [sent] = gateway.upstream.requests
    assert sent.target == PATH
    assert sent.header("host") == f"127.0.0.1:{gateway.upstream.port}"
    assert sent.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert not [value for _, value in sent.headers if "evil" in value or CANARY in value]
    assert sent.json() == {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **nested}


@one_loop
@pytest.mark.parametrize(
    "model",
    [
        "x/../../",
        "openai/../../admin",
        "openai/x?y=z",
        "openai/x#y",
        "openai/%2e%2e",
        "openai/@evil",
        "openai///evil/x",
        "openai/x y",
    ],
)
async def test_J05_a_model_is_a_name_and_never_part_of_a_url(model: str, gateway: RunningGateway) -> None:
    response = await gateway.chat(model=model)
    if response.status == 200:
        [sent] = gateway.upstream.requests
        assert sent.target == PATH
        assert sent.header("host") == f"127.0.0.1:{gateway.upstream.port}"
        assert sent.json()["model"] == model.removeprefix("openai/")
    else:
        assert (response.status, error_code(response)) == (404, "model_not_found")


@one_loop
@pytest.mark.parametrize(
    "model",
    ["gpt-4o\r\nX-Evil: 1", "gpt-4o\n", "gpt\x004o", "\x1b[31m", "gpt-4o\x85", "x" * 257, "x" * 10_240, "openai/" + "x" * 10_240],
)
async def test_J05_a_model_with_control_characters_or_without_end_is_refused(model: str, gateway: RunningGateway) -> None:
    response = await gateway.chat(model=model)
    check_refusal(response, 400, "invalid_type")
    assert response.error["param"] == "model"
    assert gateway.upstream.requests == []


# ── J06: size and encoding ──────────────────────────────────────────────────────────────────────────────────────────────────


@one_loop
@pytest.mark.parametrize(
    "coding", ["gzip", "br", "zstd", "deflate", "foo", "identity, gzip", "GZIP", "x-gzip", "*", "aws-chunked"]
)
async def test_J06_an_encoded_body_is_refused_without_being_looked_at(coding: str, gateway: RunningGateway) -> None:
    response = await post(gateway, b"\x1f\x8b" + b"\x00" * 20, f"Content-Encoding: {coding}")
    check_refusal(response, 415, "unsupported_content_encoding")


@one_loop
@pytest.mark.parametrize("lines", [("identity", "gzip"), ("gzip", "identity")])
async def test_J06_every_line_of_the_encoding_counts(lines: tuple[str, str], gateway: RunningGateway) -> None:
    response = await post(gateway, chat_bytes(), *(f"Content-Encoding: {line}" for line in lines))
    check_refusal(response, 415, "unsupported_content_encoding")


@one_loop
async def test_J06_no_encoding_is_an_encoding_too(gateway: RunningGateway) -> None:
    assert (await post(gateway, chat_bytes(), "Content-Encoding: identity")).status == 200


@one_loop
@pytest.mark.parametrize("length", [2**20 + 1, 99 * 10**9, 2**63 - 1])
async def test_J06_a_length_beyond_the_limit_is_refused_before_any_of_it_comes(length: int, gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(request(f"Content-Length: {length}", body=b"").replace(b"<KEY>", gateway.key.encode()))
        check_refusal(await client.read_response(), 413, "request_too_large")


@one_loop
async def test_J06_chunks_without_end_are_refused_at_the_limit(gateway: RunningGateway) -> None:
    async with await gateway.connect() as client:
        await client.send(request(CHUNKED, "X-Muxx-User-Id: endless", body=b"").replace(b"<KEY>", gateway.key.encode()))
        chunk, sent = b"10000\r\n" + b" " * 2**16 + b"\r\n", 0
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(10):
                while sent < 8 * 2**20:
                    await client.send(chunk)
                    sent += 2**16
        response = await next_response(client)
    if response is not None:
        check_refusal(response, 413, "request_too_large")
    assert gateway.upstream.requests == []
    deadline = time.monotonic() + 5
    while not (rows := (await gateway.get("/v1/logs?status=413&user_id=endless")).json()["data"]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert [row["error_code"] for row in rows] == ["request_too_large"]


@one_loop
async def test_J06_twenty_thousand_one_byte_chunks_are_one_body(gateway: RunningGateway) -> None:
    body = chat_bytes("x" * 20_000)
    started = time.process_time()
    told = await say(gateway, request(CHUNKED, body=b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"), most=1)
    assert told.responses[0].status == 200
    assert gateway.upstream.last.json() == orjson.loads(body)
    assert time.process_time() - started < 5


async def test_J06_the_default_limit_is_ten_mebibytes() -> None:
    def body_of(size: int) -> bytes:
        empty = chat_bytes("")
        return chat_bytes("x" * (size - len(empty)))

    async with serving() as gateway:
        assert (await post(gateway, body_of(10 * 2**20))).status == 200
        async with await gateway.connect() as client:
            with suppress(ConnectionError):
                await client.send(plain(body=body_of(10 * 2**20 + 1)).replace(b"<KEY>", gateway.key.encode()))
            response = await next_response(client)
        assert response is not None
        check_refusal(response, 413, "request_too_large")
        assert len(gateway.upstream.requests) == 1


@one_loop
@pytest.mark.parametrize("depth", [65, 252, 300, 2000])
async def test_J02_metadata_nested_too_deep_is_refused_and_has_its_row(depth: int, gateway: RunningGateway) -> None:
    """What is written into rows goes no deeper than what is read from bodies: a row that cannot be written is none."""
    refused = await gateway.chat(headers={"X-Muxx-Metadata": '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"})
    assert (refused.status, refused.json()["error"]["code"]) == (400, "invalid_metadata")
    assert (await gateway.get_row(refused.request_id))["status"] == 400


@one_loop
async def test_J04_metadata_with_integers_beyond_64_bits_is_refused(gateway: RunningGateway) -> None:
    refused = await gateway.chat(headers={"X-Muxx-Metadata": '{"a": 12345678901234567890123}'})
    assert (refused.status, refused.json()["error"]["code"]) == (400, "invalid_metadata")
