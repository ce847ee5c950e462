"""Answers of OpenAI's Responses."""

from __future__ import annotations

from typing import Any

from ..said import Pieces, Said
from .framing import event

Told = tuple[str, dict[str, Any]]
"""An event before it is written: its type and its members."""

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of answers that are not whole, and what Responses calls them."""


def response(said: Said, model: str) -> dict[str, Any]:
    given, made = said.input_tokens or 0, said.output_tokens or 0
    usage = {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": said.cached_tokens},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + made,
    }
    incomplete = {"reason": INCOMPLETE[said.finish_reason]} if said.finish_reason in INCOMPLETE else None
    ending = {"status": "incomplete" if incomplete else "completed", "incomplete_details": incomplete, "usage": usage}
    return _head(model) | ending | {"output": _items(said)}


def _head(model: str) -> dict[str, Any]:
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


def response_stream(said: Said, model: str, usage: bool, pieces: Pieces) -> list[bytes]:
    head, whole = _head(model), response(said, model)
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


def failed(message: str, code: str | None) -> bytes:
    """The event that ends a broken stream."""
    return event({"type": "error", "sequence_number": 999, "message": message, "param": None, "code": code}, "error")
