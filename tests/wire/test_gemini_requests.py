"""Requests in Google's format: where the model stands, what is checked, what plugins see and change, what is sent up; and the rest
that is said around answers: errors, counts, and the array for clients without events."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxx.errors import (
    AuthenticationError,
    InvalidRequest,
    MuxxError,
    NotFound,
    PermissionDenied,
    RateLimited,
    SpendCapExceeded,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from muxx.money import Usage
from muxx.reply import Chunk
from muxx.testing.cutting import every_cut
from muxx.wire.counts import assembled_count
from muxx.wire.gemini import (
    ArrayFraming,
    checked_in_generate,
    count_bytes,
    count_parts,
    count_payload,
    count_url,
    decode_count,
    encode_count,
    encode_plain_count,
    error_body,
    error_event,
    input_bytes,
    path_of,
    payload,
    read_count,
    read_count_answer,
    request_parts,
    upstream_url,
    validate_count,
    validate_generate,
)
from muxx.wire.wire import AnswerHead

from .gemini_kit import OWN, TEXT, accepted, accepted_plain
from .passing import objects, strings
from .recordings import cuts, recordings

USER = {"role": "user", "parts": [{"text": "hi"}]}

# The path.


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/models/gemini-2.5-pro:generateContent", ("gemini-2.5-pro", "generateContent")),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", ("gemini-2.5-pro", "streamGenerateContent")),
        ("/v1beta/models/openai/gpt-4o:countTokens", ("openai/gpt-4o", "countTokens")),
        ("/v1/models/openai%2Fgpt-4o:generateContent", ("openai/gpt-4o", "generateContent")),
        ("/v1/models/a%252Fb:generateContent", ("a%2Fb", "generateContent")),
        ("/v1/models/llama3:8b:generateContent", ("llama3:8b", "generateContent")),
        ("/v1/models/models/gemini:generateContent", ("gemini", "generateContent")),
        ("/v1/models/gr%C3%BC%C3%9F:generateContent", ("grüß", "generateContent")),
    ],
)
def test_the_model_and_the_action_stand_in_the_path(path: str, found: tuple[str, str]) -> None:
    assert path_of(path) == found


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models/m:generateContent", "/v1/models/:generateContent", "/v1/models/m", "/v1/models/m:embedContent",
        "/V1/models/m:generateContent", "/v1/Models/m:generateContent", "/v1/models/m:generatecontent", "/v2/models/m:generateContent",
        "/v1/models/m:generateContent/", "/v1/models/m:generateContent.", "/v1/models/m;x:generateContent",
        "/v1/models/m%3AgenerateContent", "/v1/models/../admin:generateContent", "/v1/models/%2e%2e/x:generateContent",
        "/v1/models/a//b:generateContent", "/v1/models/a/:generateContent", "/v1/models/.:generateContent",
        "/v1/models/m%00:generateContent", "/v1/models/m%0d%0a:generateContent", "/v1/models/m%:generateContent",
        "/v1/models/m%zz:generateContent", "/v1/models/m%ff:generateContent", "/v1/models/m#x:generateContent",
        "/v1/models/m:generateContent?alt=sse", "/v1/tunedModels/m:generateContent", "/v1%2fmodels/m:generateContent",
        "/v1/models/models/:generateContent", "/v1/models/m\n:generateContent", "/v1/models/m:generateContent\n", "",
    ],
)  # fmt: skip
def test_any_other_path_is_none_of_this_format(path: str) -> None:
    assert path_of(path) is None


MODELS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(MODELS)
def test_a_model_that_is_found_in_a_path_is_the_one_that_was_put_there(model: str) -> None:
    found = path_of(f"/v1/models/{quote(model, safe='')}:generateContent")
    assert found in (None, (model.removeprefix("models/"), "generateContent"))


HOSTILE = [
    "x/../../",
    "../..",
    "..",
    ".",
    "x?key=1",
    "x#y",
    "x\r\nHost: evil",
    "x:generateContent?",
    "%2e%2e",
    "http://evil/",
    "a b",
]


@given(MODELS | st.sampled_from(HOSTILE), st.booleans())
def test_whatever_the_model_is_called_it_stays_one_segment_of_the_providers_path(model: str, stream: bool) -> None:
    base = "https://generativelanguage.googleapis.com/v1beta"
    for url, action in (
        (upstream_url(base, model, stream), "streamGenerateContent" if stream else "generateContent"),
        (count_url(base, model, stream), "countTokens"),
    ):
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "generativelanguage.googleapis.com", "")
        assert parts.query == ("alt=sse" if action == "streamGenerateContent" else "")
        *before, segment = parts.path.split("/")
        assert before == ["", "v1beta", "models"]
        assert segment.endswith(f":{action}")
        assert segment not in (".", "..")
        assert url.isascii()
        assert url.isprintable()


def test_the_url_of_an_ordinary_model_is_googles() -> None:
    assert upstream_url("https://g/v1beta", "gemini-2.5-pro", False) == "https://g/v1beta/models/gemini-2.5-pro:generateContent"
    assert upstream_url("https://g/v1beta", "models/m", True) == "https://g/v1beta/models/m:streamGenerateContent?alt=sse"


# The body.


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "stream": False, "contents": [USER], **more}


def test_what_stands_in_the_path_is_not_sent_in_the_body() -> None:
    whole = body(generationConfig={"temperature": 1}, unknown=[1])
    assert json.loads(payload(whole)) == {"contents": [USER], "generationConfig": {"temperature": 1}, "unknown": [1]}
    assert whole["model"] == "m"
    inner = {"model": "m", "stream": False, "generateContentRequest": {"model": "models/other", "contents": [USER]}}
    assert json.loads(count_payload(inner)) == {"generateContentRequest": {"model": "models/m", "contents": [USER]}}
    assert inner["generateContentRequest"]["model"] == "models/other"  # type: ignore[index]
    assert json.loads(count_payload(body())) == {"contents": [USER]}


@pytest.mark.parametrize(
    "more",
    [
        {}, {"generationConfig": None}, {"generationConfig": {"temperature": 0, "maxOutputTokens": 1, "topP": "odd"}},
        {"generation_config": {"temperature": 2.0, "max_output_tokens": 5}}, {"tools": [{"googleSearch": {}}]},
        {"contents": USER}, {"systemInstruction": {"parts": {"text": "x"}}}, {"unknown": 1},
    ],
)  # fmt: skip
def test_what_the_api_does_not_fix_passes(more: dict[str, Any]) -> None:
    validate_generate(body(**more))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"contents": []}, "contents"),
        ({"contents": "hi"}, "contents"),
        ({"contents": None}, "contents"),
        ({"model": ""}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"generationConfig": []}, "generationConfig"),
        ({"generation_config": "x"}, "generation_config"),
        ({"generationConfig": {"temperature": 2.1}}, "generationConfig.temperature"),
        ({"generationConfig": {"temperature": True}}, "generationConfig.temperature"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"max_output_tokens": 1.0}}, "generationConfig.max_output_tokens"),
        ({"generation_config": {"maxOutputTokens": "5"}}, "generation_config.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_generate(body(**more))
    assert (caught.value.param, caught.value.code) == (param, "invalid_type")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_generate({"model": "m"})
    assert (caught.value.param, caught.value.code) == ("contents", "missing_field")


@pytest.mark.parametrize(
    ("given_body", "param"),
    [
        (body(), None),
        ({"model": "m", "generateContentRequest": {"contents": [USER]}}, None),
        ({"model": "m", "generate_content_request": {"contents": [USER]}}, None),
        ({"model": "m"}, "contents"),
        ({"model": "m", "generateContentRequest": []}, "generateContentRequest"),
        ({"model": "m", "generateContentRequest": {}}, "generateContentRequest.contents"),
        (
            {"model": "m", "generateContentRequest": {"contents": [USER], "generationConfig": {"temperature": 3}}},
            "generateContentRequest.generationConfig.temperature",
        ),
    ],
)
def test_a_request_to_count_holds_contents_or_a_whole_request(given_body: dict[str, Any], param: str | None) -> None:
    if param is None:
        validate_count(given_body)
        return
    with pytest.raises(InvalidRequest) as caught:
        validate_count(given_body)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(model=""),
        lambda value: value.update(stream="x"),
        lambda value: value.update(tools={}),
        lambda value: value.update(contents=[]),
        lambda value: value["contents"].clear(),
        lambda value: value["generationConfig"].update(temperature=9),
        lambda value: value["generationConfig"].update(max_output_tokens=0),
        lambda value: value.update(generation_config={"temperature": 9}),
    ],
)
def test_a_change_that_makes_a_request_wrong_changes_what_is_looked_at(change: Any) -> None:
    whole = body(generationConfig={"temperature": 1})
    before = checked_in_generate(whole)
    assert checked_in_generate(whole) == before
    change(whole)
    with pytest.raises(InvalidRequest):
        validate_generate(whole)
    assert checked_in_generate(whole) != before


WHOLE: dict[str, Any] = {
    "model": "m",
    "systemInstruction": {"parts": {"text": "sys"}},
    "contents": [
        {"role": "user", "parts": [{"text": "question"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
        {
            "role": "model",
            "parts": [
                {"text": "thinking", "thought": True},
                {"functionCall": {"name": "f", "args": {"city": "Graz", "list": ["a", {"deep": "b"}], "n": 1}}},
                {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
                {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
            ],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "warm", "more": ["x"]}}}]},
        {"parts": {"text": "alone"}},
    ],
}


def test_every_text_of_a_request_is_a_part() -> None:
    assert [(part.role, part.kind, part.path, part.text) for part in request_parts(WHOLE)] == [
        ("system", "text", "systemInstruction.parts.text", "sys"),
        ("user", "text", "contents[0].parts[0].text", "question"),
        ("assistant", "text", "contents[1].parts[0].text", "thinking"),
        ("assistant", "tool_arguments", "contents[1].parts[1].functionCall.args.city", "Graz"),
        ("assistant", "tool_arguments", "contents[1].parts[1].functionCall.args.list[0]", "a"),
        ("assistant", "tool_arguments", "contents[1].parts[1].functionCall.args.list[1].deep", "b"),
        ("assistant", "tool_arguments", "contents[1].parts[2].executableCode.code", "print(1)"),
        ("tool", "tool_result", "contents[1].parts[3].codeExecutionResult.output", "1"),
        ("tool", "tool_result", "contents[2].parts[0].functionResponse.response.output", "warm"),
        ("tool", "tool_result", "contents[2].parts[0].functionResponse.response.more[0]", "x"),
        ("user", "text", "contents[3].parts.text", "alone"),
    ]


def test_what_googles_own_tools_were_asked_and_returned_are_parts_too() -> None:
    call = {"toolCall": {"id": "t", "toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["sky"]}}}
    result = {"tool_response": {"id": "t", "tool_type": "GOOGLE_SEARCH_WEB", "response": {"found": "blue"}}}
    body = {"model": "m", "contents": [{"role": "model", "parts": [call, result]}]}
    assert [(part.role, part.kind, part.path, part.text) for part in request_parts(body)] == [
        ("assistant", "tool_arguments", "contents[0].parts[0].toolCall.args.queries[0]", "sky"),
        ("tool", "tool_result", "contents[0].parts[1].tool_response.response.found", "blue"),
    ]


def test_texts_are_found_in_both_spellings_at_once() -> None:
    both = {
        "systemInstruction": {"parts": [{"text": "a"}]},
        "system_instruction": "b",
        "contents": [{"role": "model", "parts": [{"function_call": {"args": {"x": "c"}}, "functionCall": {"args": {"x": "d"}}}]}],
    }
    assert sorted(part.text for part in request_parts(both)) == ["a", "b", "c", "d"]


def test_a_changed_part_is_changed_in_the_body() -> None:
    whole = json.loads(json.dumps(WHOLE))
    for part in request_parts(whole):
        part.text = "***"
    left = set(strings(json.loads(payload(whole))))
    assert left == {"***", "user", "model", "f", "image/png", "aGk=", "PYTHON", "OUTCOME_OK"}


def test_strange_requests_have_the_texts_that_can_be_found() -> None:
    for strange in (
        {"contents": [1, {"parts": "x"}, {"parts": [2, {"text": 3, "functionCall": "f"}]}]},
        {"systemInstruction": 4},
    ):
        assert list(request_parts(strange)) == []
        assert input_bytes(strange) == 0


def test_the_bytes_of_the_input_are_those_of_texts_and_tools() -> None:
    assert input_bytes(body()) == 2
    assert input_bytes(body(tools=[{"a": 1}])) == 2 + len('[{"a":1}]')
    assert input_bytes(WHOLE) == sum(len(part.text) for part in request_parts(WHOLE))


def test_a_request_to_count_has_the_same_texts() -> None:
    inner = {"model": "m", "generateContentRequest": {**WHOLE, "tools": [{"a": 1}]}}
    assert [part.text for part in count_parts(inner)] == [part.text for part in request_parts(WHOLE)]
    assert next(iter(count_parts(inner))).path == "generateContentRequest.systemInstruction.parts.text"
    assert count_bytes(inner) == input_bytes(WHOLE) + len('[{"a":1}]')
    assert count_bytes(body()) == input_bytes(body())


# Errors.


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (InvalidRequest("x"), 400, "INVALID_ARGUMENT"),
        (AuthenticationError(), 401, "UNAUTHENTICATED"),
        (SpendCapExceeded("x"), 402, "FAILED_PRECONDITION"),
        (PermissionDenied("x"), 403, "PERMISSION_DENIED"),
        (NotFound(), 404, "NOT_FOUND"),
        (InvalidRequest("x", status=413), 413, "INVALID_ARGUMENT"),
        (RateLimited("x"), 429, "RESOURCE_EXHAUSTED"),
        (MuxxError(), 500, "INTERNAL"),
        (MuxxError(status=505), 505, "INTERNAL"),
        (UpstreamError(), 502, "UNAVAILABLE"),
        (Unavailable(), 503, "UNAVAILABLE"),
        (UpstreamTimeout(), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_are_googles_to_its_sdk(error: MuxxError, code: int, status: str) -> None:
    from google.genai.errors import APIError

    assert json.loads(error_body(error, "req_1")) == {"error": {"code": code, "message": error.message, "status": status}}
    with pytest.raises(APIError) as plain:
        accepted_plain(error_body(error), code)
    with pytest.raises(APIError) as streamed:
        accepted(TEXT + error_event(error, "req_1", None))
    for caught in (plain.value, streamed.value):
        assert (caught.code, caught.status, caught.message) == (code, status, error.message)


# Counts.


def test_a_count_costs_nothing_and_is_passed_on() -> None:
    count = b'{\n  "totalTokens": 31,\n  "promptTokensDetails": []\n}'
    facts = read_count(count)
    assert (facts.usage, facts.finish_reasons, facts.text, facts.output_bytes) == (Usage(), {}, "", 0)
    assert assembled_count(facts)["totalTokens"] == 31
    chunks = decode_count(count)
    assert chunks == [Chunk("end", usage=Usage(31), raw=count)]
    assert encode_plain_count(count, chunks) is count
    changed = encode_plain_count(count, [Chunk("end", usage=Usage(40))])
    assert json.loads(changed) == {"totalTokens": 40, "promptTokensDetails": []}


def test_a_count_crosses_formats() -> None:
    assert read_count_answer(b'{"totalTokens": 31}') == ([Chunk("end", usage=Usage(31))], set())
    assert json.loads(encode_count([Chunk("end", usage=Usage(31))], AnswerHead(None, None, None))) == {"totalTokens": 31}
    with pytest.raises(UpstreamError):
        read_count_answer(b'{"error": {"code": 500}}')


# The array.


def framed(pieces: list[bytes]) -> bytes:
    framing = ArrayFraming()
    return b"".join([*map(framing.feed, pieces), framing.end()])


@pytest.mark.parametrize("name", OWN)
def test_a_stream_is_one_array_wherever_it_is_cut(name: str) -> None:
    whole = framed([OWN[name]])
    assert json.loads(whole) == objects(OWN[name])
    for pair in every_cut(OWN[name]):
        assert framed(list(pair)) == whole


def test_every_recording_is_one_array() -> None:
    for path in recordings("gemini-generate"):
        data = path.read_bytes()
        for seed in range(5):
            assert json.loads(framed(list(cuts(data, seed)))) == objects(data)


def test_an_array_is_sent_piece_by_piece_as_google_sends_it() -> None:
    framing = ArrayFraming()
    assert framing.feed(b'data: {"a":1}\r\n\r\ndata: {"b"') == b'[{"a":1}\r\n'
    assert framing.feed(b":2}\r\n\r\n") == b',\r\n{"b":2}\r\n'
    assert framing.end() == b"]"


@pytest.mark.parametrize("data", [b"", b": comment\n\n", b"data:\n\n", b"event: x\n\n\n\n", b"data: [DONE]\n\n"])
def test_what_says_nothing_is_no_element(data: bytes) -> None:
    assert framed([data]) == b"[]"
    assert json.loads(framed([data, b'data: {"a":1}\n\n', data])) == [{"a": 1}]


def test_an_event_that_only_the_end_completes_is_an_element() -> None:
    assert framed([b'data: {"a":1}\n\ndata: {"b":2}']) == b'[{"a":1}\r\n,\r\n{"b":2}\r\n]'


def test_an_error_is_the_last_element() -> None:
    *_, last = json.loads(framed([TEXT, error_event(Unavailable(), "req_1", None)]))
    assert last["error"]["code"] == 503
