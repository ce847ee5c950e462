"""The mock's Responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from .answer import CREATED, Answer, Asked, Choice, Used, last_said, objects, text_of, tokens, tool_tokens

REPEATED: dict[str, Any] = {
    "background": False, "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None}, "safety_identifier": None, "service_tier": "default", "store": True,
    "temperature": 1.0, "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [],
    "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "user": None,
}  # fmt: skip
"""Members of a request that its answer repeats, with what stands there when the request does not say."""

Told = Iterator[tuple[str, dict[str, Any]]]
"""Events: their types and members, but for the numbers."""


def asked(body: Mapping[str, Any]) -> Asked:
    given, instructions = body.get("input"), body.get("instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given)
    functions = [tool for tool in objects(body.get("tools")) if tool.get("type") == "function"]
    answered = bool(items) and items[-1].get("type") == "function_call_output"
    limit = body.get("max_output_tokens")
    read = (text_of(item.get(key)) for item in items for key in ("content", "arguments", "output"))
    return Asked(
        model=str(body.get("model", "mock")),
        echoes=[last_said(items)],
        input_tokens=tokens(text_of(instructions), *read) + tool_tokens(body),
        tool_result=text_of(items[-1].get("output")) if answered else None,
        function=functions[0] if functions else None,
        limit=limit if isinstance(limit, int) else None,
        thinks=True,
    )


def plain(answer: Answer, body: Mapping[str, Any]) -> bytes:
    """The answer as one `response` object."""
    return orjson.dumps(ended_as(answer, body))


def begun_as(answer: Answer, body: Mapping[str, Any]) -> dict[str, Any]:
    """The response object before there is any answer."""
    repeated = {name: usual if body.get(name) is None else body[name] for name, usual in REPEATED.items()}
    start = {"id": f"resp_mock{answer.digest}", "object": "response", "created_at": CREATED, "status": "in_progress"}
    open_ended: dict[str, Any] = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
    return {**start, "model": answer.model, **open_ended, **repeated}


def ended_as(answer: Answer, body: Mapping[str, Any]) -> dict[str, Any]:
    """The response object with all of the answer."""
    [choice] = answer.choices
    whole = begun_as(answer, body) | {"status": status_of(choice), "output": items_of(answer, choice)}
    if choice.finish == "length":
        whole["incomplete_details"] = {"reason": "max_output_tokens"}
    else:
        whole["completed_at"] = CREATED
    return whole | ({"usage": usage_of(answer.used)} if answer.used else {})


def status_of(choice: Choice) -> str:
    return "incomplete" if choice.finish == "length" else "completed"


def usage_of(used: Used) -> dict[str, Any]:
    return {
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }


def items_of(answer: Answer, choice: Choice) -> list[dict[str, Any]]:
    """The answer's items as they are in the end: reasoning, if there is any, and then a message or a call."""
    items: list[dict[str, Any]] = []
    if choice.reasoning:
        items.append({"id": f"rs_{answer.digest}", "type": "reasoning", "summary": [summary_part("".join(choice.reasoning))]})
    if choice.call:
        names = {"id": f"fc_{answer.digest}", "type": "function_call", "call_id": f"call_{answer.digest}"}
        items.append({**names, "status": "completed", **choice.call})
    else:
        names = {"id": f"msg_{answer.digest}", "type": "message", "role": "assistant"}
        items.append({**names, "status": status_of(choice), "content": [text_part(choice.text)]})
    return items


def summary_part(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def events(answer: Answer, body: Mapping[str, Any], ended: bool) -> Iterator[bytes]:
    """The answer as a stream of numbered events; the last one, unless left out, repeats all of the answer."""
    for number, (kind, members) in enumerate(told(answer, body, ended)):
        data = orjson.dumps({"type": kind, "sequence_number": number, **members})
        yield b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def told(answer: Answer, body: Mapping[str, Any], ended: bool) -> Told:
    [choice] = answer.choices
    for kind in ("response.created", "response.in_progress"):
        yield kind, {"response": begun_as(answer, body)}
    for at, item in enumerate(items_of(answer, choice)):
        where = {"item_id": item["id"], "output_index": at}
        yield "response.output_item.added", {"output_index": at, "item": blank(item)}
        if item["type"] == "reasoning":
            yield from told_of_reasoning(choice, where)
        elif item["type"] == "message":
            yield from told_of_message(choice, where)
        else:
            yield from told_of_call(choice, where)
        yield "response.output_item.done", {"output_index": at, "item": item}
    if ended:
        yield f"response.{status_of(choice)}", {"response": ended_as(answer, body)}


def events_before(choice: Choice) -> int:
    """How many events come before a choice's first piece: two of the answer, one of its first item, one of that one's part."""
    return 3 if choice.call and not choice.reasoning else 4


def blank(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it begins."""
    empty: dict[str, Any] = {"status": "in_progress", "content": [], "summary": [], "arguments": ""}
    return {name: empty.get(name, value) for name, value in item.items()}


def told_of_reasoning(choice: Choice, where: Mapping[str, Any]) -> Told:
    place, whole = {**where, "summary_index": 0}, "".join(choice.reasoning)
    yield "response.reasoning_summary_part.added", {**place, "part": summary_part("")}
    for piece in choice.reasoning:
        yield "response.reasoning_summary_text.delta", {**place, "delta": piece}
    yield "response.reasoning_summary_text.done", {**place, "text": whole}
    yield "response.reasoning_summary_part.done", {**place, "part": summary_part(whole)}


def told_of_message(choice: Choice, where: Mapping[str, Any]) -> Told:
    place = {**where, "content_index": 0}
    yield "response.content_part.added", {**place, "part": text_part("")}
    for word in choice.words:
        yield "response.output_text.delta", {**place, "delta": word, "logprobs": []}
    yield "response.output_text.done", {**place, "text": choice.text, "logprobs": []}
    yield "response.content_part.done", {**place, "part": text_part(choice.text)}


def told_of_call(choice: Choice, where: Mapping[str, Any]) -> Told:
    for piece in choice.fragments:
        yield "response.function_call_arguments.delta", {**where, "delta": piece}
    yield "response.function_call_arguments.done", {**where, "arguments": "".join(choice.fragments)}
