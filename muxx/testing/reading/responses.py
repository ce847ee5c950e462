"""Answers of OpenAI's Responses."""

from __future__ import annotations

from typing import Any

from ..said import Said, Tool
from .events import Unreadable, events_of, object_of, tokens

_ENDINGS = {"response.completed", "response.incomplete"}
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}


def read_response(value: dict[str, Any]) -> Said:
    if value.get("object") != "response" or value.get("status") not in ("completed", "incomplete"):
        raise Unreadable(f"this is no finished response: {value!r:.200}")
    text = reasoning = signature = ""
    tools = []
    for item in value["output"]:
        if item["type"] == "message":
            text += "".join(part.get("text", "") for part in item["content"])
        elif item["type"] == "reasoning":
            reasoning += "".join(part["text"] for part in item["summary"])
            signature = item.get("encrypted_content") or signature
        elif item["type"] == "function_call":
            tools.append(Tool(item["name"], item["arguments"], item["call_id"]))
    counts = tokens(value.get("usage"), "input_tokens", "output_tokens", "input_tokens_details")
    return Said(text, reasoning, tuple(tools), finish_reason=_finish(value, bool(tools)), signature=signature, **counts)


def _finish(value: dict[str, Any], called: bool) -> str:
    if value["status"] != "incomplete":
        return "tool_calls" if called else "stop"
    reason = (value.get("incomplete_details") or {}).get("reason")
    if reason not in _INCOMPLETE:
        raise Unreadable(f"nobody says why the response is incomplete: {value.get('incomplete_details')!r:.200}")
    return _INCOMPLETE[reason]


def read_response_stream(body: bytes) -> Said:
    events = [(name, object_of(data)) for name, data in events_of(body)]
    kinds = [value.get("type") for _, value in events]
    if not events or kinds[-1] not in _ENDINGS or _ENDINGS.intersection(kinds[:-1]):
        raise Unreadable(f"the stream does not end with the one event that ends it: {body[-200:]!r}")
    if any(name and name != value.get("type") for name, value in events):
        raise Unreadable("an event is named after another type than its own")
    numbers = [value["sequence_number"] for _, value in events if "sequence_number" in value]
    if numbers != sorted(numbers):
        raise Unreadable(f"the sequence numbers fall: {numbers}")
    said = read_response(events[-1][1]["response"])
    deltas = {
        stem: "".join(value["delta"] for _, value in events if value.get("type") == f"response.{stem}.delta")
        for stem in ("output_text", "reasoning_summary_text", "function_call_arguments")
    }
    told = (said.text, said.reasoning, "".join(tool.arguments for tool in said.tools))
    if tuple(deltas.values()) != told:
        raise Unreadable(f"the pieces of the stream say {tuple(deltas.values())!r:.200}, its end says {told!r:.200}")
    return said


def tells_error(value: dict[str, Any]) -> bool:
    """An event of a stream does: it is the error itself."""
    return value.get("type") in ("error", "response.failed")
