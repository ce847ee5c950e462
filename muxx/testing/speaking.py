"""Answers as a provider of OpenAI's format writes them: each endpoint, plain and as the events of a stream.

Written by the book and on purpose without muxx's own writers: the kit must be able to disagree with the code under test.
"""

from __future__ import annotations

from typing import Any

import orjson

from .said import Pieces, Said, Tool, words

Told = tuple[str, dict[str, Any]]
"""An event of Responses before it is written: its type and its members."""

DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event: JSON, or text as it is. `name` is for formats that name their events."""
    named = f"event: {name}\n".encode() if name else b""
    return named + b"data: %b\n\n" % (data.encode() if isinstance(data, str) else orjson.dumps(data))


def plain(endpoint: str, said: Said, model: str) -> bytes:
    """The answer in one piece."""
    return orjson.dumps(_PLAIN[endpoint](said, model))


def streamed(endpoint: str, said: Said, model: str, *, usage: bool = True, pieces: Pieces = words) -> list[bytes]:
    """The answer as the events of a stream, in order. `usage`: whether the client asked for it, where that has to be asked."""
    return _STREAMED[endpoint](said, model, usage, pieces)


# ── chat completions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _usage(said: Said) -> dict[str, int]:
    given, made = said.input_tokens or 0, said.output_tokens or 0
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _chat(said: Said, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text or (None if said.tools else "")}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.tools:
        called = [(tool.id, {"name": tool.name, "arguments": tool.arguments}) for tool in said.tools]
        message["tool_calls"] = [{"id": id, "type": "function", "function": function} for id, function in called]
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return head | {"choices": [choice], "usage": _usage(said)}


def _chat_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in pieces(said.reasoning)]
    deltas += [{"content": piece} for piece in pieces(said.text)]
    deltas += [{"tool_calls": [fragment]} for at, tool in enumerate(said.tools) for fragment in _fragments(at, tool, pieces)]
    choices: list[Any] = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": said.finish_reason}])
    events = [event(head | {"choices": choice}) for choice in choices]
    return [*events, *([event(head | {"choices": [], "usage": _usage(said)})] if usage else []), DONE]


def _fragments(at: int, tool: Tool, pieces: Pieces) -> list[dict[str, Any]]:
    first = {"index": at, "id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": ""}}
    return [first, *({"index": at, "function": {"arguments": piece}} for piece in pieces(tool.arguments))]


# ── completions and embeddings ──────────────────────────────────────────────────────────────────────────────────────────────


def _completion(said: Said, model: str) -> dict[str, Any]:
    _only_text(said)
    choice = {"text": said.text, "index": 0, "logprobs": None, "finish_reason": said.finish_reason}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}
    return head | {"choices": [choice], "usage": _usage(said)}


def _completion_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    _only_text(said)
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}
    told: list[tuple[str, str | None]] = [*((piece, None) for piece in pieces(said.text)), ("", said.finish_reason)]
    events = [
        event(head | {"choices": [{"text": piece, "index": 0, "logprobs": None, "finish_reason": reason}]})
        for piece, reason in told
    ]
    return [*events, *([event(head | {"choices": [], "usage": _usage(said)})] if usage else []), DONE]


def _only_text(said: Said) -> None:
    if said.reasoning or said.tools:
        raise ValueError("a completion says text and nothing else")


def _embeddings(said: Said, model: str) -> dict[str, Any]:
    data = [{"object": "embedding", "index": at, "embedding": list(vector)} for at, vector in enumerate(said.vectors)]
    given = said.input_tokens or 0
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": given, "total_tokens": given}}


def _no_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    raise ValueError("embeddings are not streamed")


# ── Responses ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _response(said: Said, model: str) -> dict[str, Any]:
    given, made = said.input_tokens or 0, said.output_tokens or 0
    usage = {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }
    incomplete = {"reason": "max_output_tokens"} if said.finish_reason == "length" else None
    ending = {"status": "incomplete" if incomplete else "completed", "incomplete_details": incomplete, "usage": usage}
    return _response_head(model) | ending | {"output": _items(said)}


def _response_head(model: str) -> dict[str, Any]:
    head = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "error": None, "model": model}
    return head | {"incomplete_details": None, "output": [], "usage": None, "metadata": {}}


def _items(said: Said) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if said.reasoning:
        items.append({"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": said.reasoning}]})
    if said.text or not said.tools:
        content = [{"type": "output_text", "annotations": [], "logprobs": [], "text": said.text}]
        items.append({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content})
    for at, tool in enumerate(said.tools):
        call = {"call_id": tool.id, "name": tool.name, "arguments": tool.arguments}
        items.append({"id": f"fc_{at}", "type": "function_call", "status": "completed", **call})
    return items


def _response_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    head, whole = _response_head(model), _response(said, model)
    told: list[Told] = [
        ("response.created", {"response": head}),
        ("response.in_progress", {"response": head}),
    ]
    for at, item in enumerate(whole["output"]):
        told.append(("response.output_item.added", {"output_index": at, "item": _begun(item)}))
        told += _ITEM_EVENTS[item["type"]](at, item, pieces)
        told.append(("response.output_item.done", {"output_index": at, "item": item}))
    told.append((f"response.{whole['status']}", {"response": whole}))
    return [event({"type": kind, "sequence_number": at} | members, kind) for at, (kind, members) in enumerate(told)]


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    empty = {"summary": [], "content": [], "arguments": "", "status": "in_progress"}
    return item | {name: value for name, value in empty.items() if name in item}


def _texts(stem: str, part: str, where: dict[str, Any], whole: dict[str, Any], pieces: Pieces) -> list[Told]:
    """The events of one text and of the part it stands in."""
    text = whole["text"]
    return [
        (f"{part}.added", {**where, "part": whole | {"text": ""}}),
        *((f"{stem}.delta", {**where, "delta": piece}) for piece in pieces(text)),
        (f"{stem}.done", {**where, "text": text}),
        (f"{part}.done", {**where, "part": whole}),
    ]


def _message_events(at: int, item: dict[str, Any], pieces: Pieces) -> list[Told]:
    where = {"item_id": item["id"], "output_index": at, "content_index": 0}
    return _texts("response.output_text", "response.content_part", where, item["content"][0], pieces)


def _reasoning_events(at: int, item: dict[str, Any], pieces: Pieces) -> list[Told]:
    where = {"item_id": item["id"], "output_index": at, "summary_index": 0}
    stem, part = "response.reasoning_summary_text", "response.reasoning_summary_part"
    return _texts(stem, part, where, item["summary"][0], pieces)


def _call_events(at: int, item: dict[str, Any], pieces: Pieces) -> list[Told]:
    where, stem = {"item_id": item["id"], "output_index": at}, "response.function_call_arguments"
    deltas = [(f"{stem}.delta", {**where, "delta": piece}) for piece in pieces(item["arguments"])]
    return [*deltas, (f"{stem}.done", {**where, "arguments": item["arguments"]})]


_ITEM_EVENTS = {"message": _message_events, "reasoning": _reasoning_events, "function_call": _call_events}
_PLAIN = {"chat": _chat, "text_completion": _completion, "embeddings": _embeddings, "responses": _response}
_STREAMED = {
    "chat": _chat_stream,
    "text_completion": _completion_stream,
    "embeddings": _no_stream,
    "responses": _response_stream,
}
