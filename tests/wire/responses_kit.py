"""Small Responses streams of our own making."""

from __future__ import annotations

import json
from typing import Any

ID = "resp_1"
HEAD: dict[str, Any] = {
    "id": ID, "object": "response", "created_at": 1700000000, "status": "in_progress", "error": None, "incomplete_details": None,
    "instructions": None, "model": "gpt-5", "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    "usage": None, "metadata": {},
}  # fmt: skip
USAGE = {
    "input_tokens": 20, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 7}, "total_tokens": 50,
}  # fmt: skip


def event(kind: str, number: int | None = None, named: bool = True, **members: Any) -> bytes:
    value = {"type": kind, **({} if number is None else {"sequence_number": number}), **members}
    return (f"event: {kind}\n".encode() if named else b"") + b"data: " + json.dumps(value).encode() + b"\n\n"


def stream(*events: tuple[str, dict[str, Any]], numbered: bool = True, named: bool = True) -> bytes:
    pieces = [event(kind, at if numbered else None, named, **members) for at, (kind, members) in enumerate(events)]
    return b"".join(pieces)


Events = list[tuple[str, dict[str, Any]]]


def begun() -> Events:
    return [("response.created", {"response": HEAD}), ("response.in_progress", {"response": HEAD})]


def ended(*items: dict[str, Any], kind: str = "response.completed", **members: Any) -> Events:
    status = kind.removeprefix("response.")
    return [(kind, {"response": {**HEAD, "status": status, "output": list(items), "usage": USAGE, **members}})]


def message(at: int, *pieces: str) -> tuple[Events, dict[str, Any]]:
    """The events of a message of one text, and the item it is in the end."""
    text = "".join(pieces)
    where = {"item_id": f"msg_{at}", "output_index": at, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    item = {"id": f"msg_{at}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    done = {**item, "status": "completed", "content": [{**part, "text": text}]}
    return [
        ("response.output_item.added", {"output_index": at, "item": item}),
        ("response.content_part.added", {**where, "part": {**part, "text": ""}}),
        *[
            ("response.output_text.delta", {**where, "delta": piece, "logprobs": [{"token": piece, "logprob": -1}]})
            for piece in pieces
        ],
        ("response.output_text.done", {**where, "text": text, "logprobs": [{"token": text, "logprob": -1}]}),
        ("response.content_part.done", {**where, "part": {**part, "text": text}}),
        ("response.output_item.done", {"output_index": at, "item": done}),
    ], done


def reasoning(at: int, *pieces: str) -> tuple[Events, dict[str, Any]]:
    text = "".join(pieces)
    where = {"item_id": f"rs_{at}", "output_index": at, "summary_index": 0}
    item: dict[str, Any] = {"id": f"rs_{at}", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    done = {**item, "summary": [{"type": "summary_text", "text": text}]}
    return [
        ("response.output_item.added", {"output_index": at, "item": item}),
        ("response.reasoning_summary_part.added", {**where, "part": {"type": "summary_text", "text": ""}}),
        *[("response.reasoning_summary_text.delta", {**where, "delta": piece}) for piece in pieces],
        ("response.reasoning_summary_text.done", {**where, "text": text}),
        ("response.reasoning_summary_part.done", {**where, "part": {"type": "summary_text", "text": text}}),
        ("response.output_item.done", {"output_index": at, "item": done}),
    ], done


def call(at: int, *pieces: str, kind: str = "function_call") -> tuple[Events, dict[str, Any]]:
    """The events of a call of a tool."""
    text = "".join(pieces)
    stem, member = {
        "function_call": ("response.function_call_arguments", "arguments"),
        "custom_tool_call": ("response.custom_tool_call_input", "input"),
        "mcp_call": ("response.mcp_call_arguments", "arguments"),
        "code_interpreter_call": ("response.code_interpreter_call_code", "code"),
    }[kind]
    where = {"item_id": f"fc_{at}", "output_index": at}
    item = {"id": f"fc_{at}", "type": kind, "status": "in_progress", "call_id": f"call_{at}", "name": "weather", member: ""}
    done = {**item, "status": "completed", member: text}
    return [
        ("response.output_item.added", {"output_index": at, "item": item}),
        *[(f"{stem}.delta", {**where, "delta": piece}) for piece in pieces],
        (f"{stem}.done", {**where, member: text}),
        ("response.output_item.done", {"output_index": at, "item": done}),
    ], done


def shell(at: int, *commands: str) -> tuple[Events, dict[str, Any]]:
    """The events of a call of a shell, each command in two pieces."""
    item = {"id": f"sh_{at}", "type": "shell_call", "status": "in_progress", "call_id": f"call_{at}", "action": {"commands": []}}
    events: Events = [("response.output_item.added", {"output_index": at, "item": item})]
    for number, command in enumerate(commands):
        where = {"output_index": at, "command_index": number}
        events += [
            ("response.shell_call_command.added", {**where, "command": ""}),
            ("response.shell_call_command.delta", {**where, "delta": command[:2]}),
            ("response.shell_call_command.delta", {**where, "delta": command[2:]}),
            ("response.shell_call_command.done", {**where, "command": command}),
        ]
    done = {**item, "status": "completed", "action": {"commands": list(commands)}}
    return [*events, ("response.output_item.done", {"output_index": at, "item": done})], done


def refusal(at: int, *pieces: str) -> tuple[Events, dict[str, Any]]:
    text = "".join(pieces)
    where = {"item_id": f"msg_{at}", "output_index": at, "content_index": 0}
    item = {"id": f"msg_{at}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    done = {**item, "status": "completed", "content": [{"type": "refusal", "refusal": text}]}
    return [
        ("response.output_item.added", {"output_index": at, "item": item}),
        ("response.content_part.added", {**where, "part": {"type": "refusal", "refusal": ""}}),
        *[("response.refusal.delta", {**where, "delta": piece}) for piece in pieces],
        ("response.refusal.done", {**where, "refusal": text}),
        ("response.content_part.done", {**where, "part": {"type": "refusal", "refusal": text}}),
        ("response.output_item.done", {"output_index": at, "item": done}),
    ], done


def answer(*built: tuple[Events, dict[str, Any]]) -> Events:
    """A whole answer of these items."""
    return [*begun(), *[entry for events, _ in built for entry in events], *ended(*[item for _, item in built])]


TEXT = stream(*answer(message(0, "Grüß ", "Gott ", "👋")))
MANY = stream(
    *answer(
        reasoning(0, "Let me ", "think."),
        message(1, "It is ", "warm."),
        call(2, '{"city":', '"Graz"}'),
        call(3, "print(", "1)", kind="custom_tool_call"),
        call(4, "x = ", "1", kind="code_interpreter_call"),
        call(5, '{"q":', "1}", kind="mcp_call"),
        refusal(6, "I ", "cannot."),
        shell(7, "ls -la", "cat *"),
    )
)
"""Every kind of text there is."""

OWN = {
    "text": TEXT,
    "many": MANY,
    "unnamed": stream(*answer(message(0, "a", "b")), named=False),
    "unnumbered": stream(*answer(message(0, "a", "b")), numbered=False),
    "incomplete": stream(
        *begun(),
        *message(0, "cut ", "off")[0],
        *ended(message(0, "cut ", "off")[1], kind="response.incomplete", incomplete_details={"reason": "max_output_tokens"}),
    ),
    "failed": stream(*begun(), *ended(kind="response.failed", error={"code": "server_error", "message": "Sorry."}, usage=None)),
    "whole": stream(
        *begun(),
        *[entry for entry in message(0, "all at once")[0] if "delta" not in entry[0]],
        *ended(message(0, "all at once")[1]),
    ),
    "only_the_end": stream(*begun(), *ended(message(0, "nothing before")[1], call(1, "{}")[1])),
    "unknown": stream(*begun(), ("response.hologram.delta", {"delta": "?", "output_index": 0}), *ended()),
}


def plain(name: str) -> bytes:
    """The same answer, not streamed."""
    last = OWN[name].rstrip(b"\n").rpartition(b"data: ")[2]
    return json.dumps(json.loads(last)["response"]).encode()
