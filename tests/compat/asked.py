"""What a provider is asked, read by the book of each vendor and without muxx's own readers.

A provider refuses what it does not know, so that a field of one format that slips through into another is seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muxx.testing import PROVIDER_KEY, RecordedRequest

from .schemas import not_closed, not_googles, not_json_schema, not_strict


class Refused(Exception):
    """The request is answered with this status and message, in the format of its endpoint."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Asked:
    """A request in no vendor's words."""

    endpoint: str
    model: str
    stream: bool = False
    usage: bool = True
    """Whether the stream is to tell its usage."""
    text: str = ""
    """What the user said last."""
    results: list[str] = field(default_factory=list)
    """What tools returned since."""
    tools: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Names and schemas."""
    forced: str | None = None
    """The name of the tool that has to be called; empty for any."""
    schema: Mapping[str, Any] | None = None
    """Of the text, which then is JSON."""


_CHAT = """
    model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens presence_penalty
    frequency_penalty logit_bias user seed tools tool_choice parallel_tool_calls response_format logprobs top_logprobs
    service_tier store metadata reasoning_effort modalities audio prediction verbosity prompt_cache_key prompt_cache_retention
    safety_identifier web_search_options functions function_call
"""
_RESPONSES = """
    model input instructions stream stream_options temperature top_p max_output_tokens max_tool_calls tools tool_choice
    parallel_tool_calls text reasoning include store metadata previous_response_id conversation background truncation user
    service_tier prompt prompt_cache_key prompt_cache_retention safety_identifier top_logprobs
"""
_COMPLETION = """
    model prompt stream stream_options temperature top_p n stop max_tokens presence_penalty frequency_penalty logit_bias user seed
    best_of echo logprobs suffix
"""
_MESSAGES = """
    model messages max_tokens system stream stop_sequences temperature top_p top_k tools tool_choice metadata thinking
    service_tier container mcp_servers context_management output_config output_format cache_control inference_geo
"""
_CONTENT = "contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent labels"
_FIELDS = {
    "chat": frozenset(_CHAT.split()),
    "responses": frozenset(_RESPONSES.split()),
    "text_completion": frozenset(_COMPLETION.split()),
    "messages": frozenset(_MESSAGES.split()),
    "generate_content": frozenset(_CONTENT.split()),
}
_ID = {"chat": r".{1,40}", "responses": r".{1,64}", "messages": r"[a-zA-Z0-9_-]+"}
"""What a call's id may look like."""
_WITHOUT_SAMPLING = "2026-10-21"
"""The version of Anthropic's API that no longer takes sampling parameters."""


def asked(request: RecordedRequest) -> Asked:
    """Raises `Refused` for what the vendor would refuse."""
    endpoint = endpoint_of(request.target)
    if endpoint is None:
        raise Refused(404, f"No such path: {request.target}")
    _check_key(request, endpoint)
    body = request.json()
    if unknown := sorted(set(body) - _FIELDS[endpoint]):
        raise Refused(400, f"Unknown fields: {', '.join(unknown)}")
    return _READERS[endpoint](body, request)


def endpoint_of(target: str) -> str | None:
    """The format of the vendor's endpoint at this target."""
    path = target.partition("?")[0]
    ends = {
        "/chat/completions": "chat",
        "/completions": "text_completion",
        "/responses": "responses",
        "/messages": "messages",
        ":generateContent": "generate_content",
        ":streamGenerateContent": "generate_content",
    }
    return next((endpoint for end, endpoint in ends.items() if path.endswith(end)), None)


def _check_key(request: RecordedRequest, endpoint: str) -> None:
    """A vendor's key stands in its own header; no muxx key ever reaches a vendor."""
    if any("muxx_sk_" in value for _, value in request.headers):
        raise Refused(401, "A muxx key came through")
    bearer = (request.header("authorization") or "").removeprefix("Bearer ")
    sent = {
        "messages": request.header("x-api-key") or bearer,
        "generate_content": request.header("x-goog-api-key"),
    }.get(endpoint, bearer)
    if sent != PROVIDER_KEY:
        raise Refused(401, "Incorrect API key provided")


def _text(content: Any) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    if not isinstance(content, list):
        return content or ""
    return "".join(part.get("text") or "" for part in content)


def _trailing(items: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The items at the end that are wanted."""
    at = len(items)
    while at and wanted(items[at - 1]):
        at -= 1
    return items[at:]


def _known(endpoint: str, results: Iterable[str], called: Iterable[str]) -> None:
    """Results answer calls that were made, under ids (at Google: names) the vendor takes."""
    calls = set(called)
    for call in calls:
        if not re.fullmatch(_ID.get(endpoint, ".+"), call):
            raise Refused(400, f"Invalid id of a call: {call!r}")
    for result in results:
        if result not in calls:
            raise Refused(400, f"No tool call found for the result of {result!r}")


def _checked(schema: Mapping[str, Any], *checks: Callable[[Mapping[str, Any]], str | None]) -> Mapping[str, Any]:
    """The schema, unless the vendor refuses it."""
    problem = next(filter(None, (check(schema) for check in checks)), None)
    if problem:
        raise Refused(400, f"Invalid schema: {problem}")
    return schema


def _openais(form: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a function or of an answer, which may say that it is strict."""
    return _checked(schema, not_json_schema, *((not_strict,) if form.get("strict") else ()))


def _chat(body: dict[str, Any], request: RecordedRequest) -> Asked:
    messages = body["messages"]
    results = _trailing(messages, lambda message: message["role"] == "tool")
    calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    _known("chat", (result["tool_call_id"] for result in results), calls)
    users = [message for message in messages if message["role"] == "user"]
    choice, form = body.get("tool_choice"), (body.get("response_format") or {}).get("json_schema")
    functions = [tool["function"] for tool in body.get("tools") or ()]
    return Asked(
        "chat",
        body["model"],
        bool(body.get("stream")),
        bool((body.get("stream_options") or {}).get("include_usage")),
        _text(users[-1]["content"]) if users else "",
        [_text(result["content"]) for result in results],
        [(function["name"], _openais(function, function.get("parameters") or {})) for function in functions],
        choice["function"]["name"] if isinstance(choice, dict) else "" if choice == "required" else None,
        _openais(form, form["schema"]) if form else None,
    )


def _responses(body: dict[str, Any], request: RecordedRequest) -> Asked:
    items = [{"role": "user", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]
    results = _trailing(items, lambda item: item.get("type") == "function_call_output")
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    _known("responses", (result["call_id"] for result in results), calls)
    users = [item for item in items if item.get("role") == "user"]
    choice, form = body.get("tool_choice"), (body.get("text") or {}).get("format") or {}
    return Asked(
        "responses",
        body["model"],
        bool(body.get("stream")),
        True,
        _text(users[-1]["content"]) if users else "",
        [_text(result["output"]) for result in results],
        [(tool["name"], _openais(tool, tool.get("parameters") or {})) for tool in body.get("tools") or ()],
        choice["name"] if isinstance(choice, dict) else "" if choice == "required" else None,
        _openais(form, form["schema"]) if form.get("type") == "json_schema" else None,
    )


def _completion(body: dict[str, Any], request: RecordedRequest) -> Asked:
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return Asked("text_completion", body["model"], bool(body.get("stream")), usage, body["prompt"])


def _messages(body: dict[str, Any], request: RecordedRequest) -> Asked:
    version = request.header("anthropic-version")
    if version is None or "max_tokens" not in body:
        raise Refused(400, "anthropic-version and max_tokens are required")
    sampling = sorted({"temperature", "top_p", "top_k"} & set(body))
    if sampling and version >= _WITHOUT_SAMPLING:
        raise Refused(400, f"{', '.join(sampling)}: not supported in version {version}")
    turns = [
        (turn["role"], [{"type": "text", "text": turn["content"]}] if isinstance(turn["content"], str) else turn["content"])
        for turn in body["messages"]
    ]
    blocks = [block for _, content in turns for block in content]
    last_role, last = turns[-1]
    results = [block for block in last if block["type"] == "tool_result"]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    _known("messages", (result["tool_use_id"] for result in results), calls)
    choice = body.get("tool_choice") or {}
    form = body.get("output_format") or (body.get("output_config") or {}).get("format") or {}
    if last_role != "user" or not all(block.get("text", "-") for block in blocks):
        raise Refused(400, "Texts must not be empty, and the conversation must end with a user message")
    return Asked(
        "messages",
        body["model"],
        bool(body.get("stream")),
        True,
        _text([block for block in last if block["type"] == "text"]),
        [_text(result.get("content")) for result in results],
        [(tool["name"], _checked(tool["input_schema"], not_json_schema)) for tool in body.get("tools") or ()],
        {"tool": choice.get("name"), "any": ""}.get(choice.get("type", "")),
        _checked(form["schema"], not_json_schema, not_closed) if form else None,
    )


def _content(body: dict[str, Any], request: RecordedRequest) -> Asked:
    path, _, query = request.target.partition("?")
    model, _, method = path.rpartition("/")[2].partition(":")
    streams = method == "streamGenerateContent"
    if streams and "alt=sse" not in query.split("&"):
        raise Refused(400, "This provider streams server-sent events only")
    contents = body["contents"]
    parts = [part for content in contents for part in content["parts"]]
    last = contents[-1]["parts"]
    results = [part["functionResponse"] for part in last if "functionResponse" in part]
    _known(
        "generate_content",
        (result["name"] for result in results),
        (part["functionCall"]["name"] for part in parts if "functionCall" in part),
    )
    generation = body.get("generationConfig") or {}
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    declared = [tool for tools in body.get("tools") or () for tool in tools.get("functionDeclarations") or ()]
    if any(content.get("role", "user") not in ("user", "model") for content in contents):
        raise Refused(400, "Please use a valid role: user, model.")
    return Asked(
        "generate_content",
        model,
        streams,
        True,
        _text([part for part in last if "text" in part]),
        [json.dumps(result["response"], ensure_ascii=False) for result in results],
        [(tool["name"], _googles(tool, "parameters", "parametersJsonSchema") or {}) for tool in declared],
        (calling.get("allowedFunctionNames") or [""])[0] if calling.get("mode") == "ANY" else None,
        _googles(generation, "responseSchema", "responseJsonSchema"),
    )


def _googles(given: Mapping[str, Any], own: str, json_schema: str) -> Mapping[str, Any] | None:
    """A schema in Google's words, or as JSON Schema."""
    return _checked(given[own], not_googles) if own in given else given.get(json_schema)


_READERS: dict[str, Callable[[dict[str, Any], RecordedRequest], Asked]] = {
    "chat": _chat,
    "responses": _responses,
    "text_completion": _completion,
    "messages": _messages,
    "generate_content": _content,
}
