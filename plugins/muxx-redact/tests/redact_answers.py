"""Answers of a provider on the endpoints beside chat, in which every kind of text says the same, cut as a test wants it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from muxx.testing import DONE, event

# ── completions ──


def piece(text: str, index: int = 0, finish: str | None = None, logprobs: Any = None) -> bytes:
    choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
    return event({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o", "choices": [choice]})


def completion_stream(pieces: Sequence[str], choices: int = 1) -> bytes:
    """Every choice says these pieces; the choices take turns."""
    said = b"".join(piece(text, index) for text in pieces for index in range(choices))
    return said + b"".join(piece("", index, "stop") for index in range(choices)) + DONE


def completion(text: str, choices: int = 1) -> dict[str, Any]:
    said = [{"text": text, "index": index, "logprobs": None, "finish_reason": "stop"} for index in range(choices)]
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-4o", "choices": said}


# ── Responses ──


@dataclass(frozen=True)
class Kind:
    """A kind of text: the item it stands in, the events that bring it, and where they and the item hold it."""

    item: dict[str, Any]
    stem: str
    member: str
    list_name: str = ""
    """The list of the item's parts it is in, if it is in one."""
    part: str = ""
    """The type of such a part."""
    number: str = ""
    is_json: bool = False

    @property
    def name(self) -> str:
        return self.stem.removeprefix("response.")

    def where(self, at: int) -> dict[str, Any]:
        numbered = {self.number: 0} if self.number else {}
        return {"item_id": f"item_{at}", "output_index": at, **numbered}

    def held(self, text: str) -> dict[str, Any]:
        """The members of the item that hold the text."""
        if self.item["type"] == "shell_call":
            return {"action": {"commands": [text]}}
        return {self.list_name: [self.part_of(text)]} if self.list_name else {self.member: text}

    def part_of(self, text: str) -> dict[str, Any]:
        more = {"annotations": [], "logprobs": []} if self.part == "output_text" else {}
        return {"type": self.part, self.member: text, **more}

    def whole(self, at: int, text: str) -> dict[str, Any]:
        return {"id": f"item_{at}", "status": "completed", **self.item, **self.held(text)}

    @property
    def part_stem(self) -> str:
        return "response.reasoning_summary_part" if self.list_name == "summary" else "response.content_part"


_MESSAGE = {"type": "message", "role": "assistant"}
_CALL = {"call_id": "call_1", "name": "send"}

KINDS = [
    Kind({"type": "reasoning"}, "response.reasoning_summary_text", "text", "summary", "summary_text", "summary_index"),
    Kind({"type": "reasoning", "summary": []}, "response.reasoning_text", "text", "content", "reasoning_text", "content_index"),
    Kind(_MESSAGE, "response.output_text", "text", "content", "output_text", "content_index"),
    Kind(_MESSAGE, "response.refusal", "refusal", "content", "refusal", "content_index"),
    Kind({"type": "function_call", **_CALL}, "response.function_call_arguments", "arguments", is_json=True),
    Kind({"type": "custom_tool_call", **_CALL}, "response.custom_tool_call_input", "input"),
    Kind({"type": "mcp_call", "name": "send", "server_label": "s"}, "response.mcp_call_arguments", "arguments", is_json=True),
    Kind({"type": "code_interpreter_call", "container_id": "c"}, "response.code_interpreter_call_code", "code"),
    Kind({"type": "shell_call", "call_id": "call_2"}, "response.shell_call_command", "command", number="command_index"),
]


def spoken(kind: Kind, text: str) -> str:
    """The text as this kind says it: arguments are JSON."""
    return json.dumps({"to": text}) if kind.is_json else text


Events = list[tuple[str, dict[str, Any]]]

HEAD = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": "gpt-4o", "output": []}


def item_events(kind: Kind, at: int, pieces: Iterable[str]) -> Events:
    """The events of one item whose text comes in these pieces; each repeat says all of it."""
    pieces = list(pieces)
    text, where = "".join(pieces), kind.where(at)
    begun = kind.whole(at, "") | {"status": "in_progress"} | ({kind.list_name: []} if kind.list_name else {})
    events: Events = [("response.output_item.added", {"output_index": at, "item": begun})]
    if kind.list_name:
        events.append((f"{kind.part_stem}.added", {**where, "part": kind.part_of("")}))
    if kind.item["type"] == "shell_call":
        events.append((f"{kind.stem}.added", {**where, kind.member: ""}))
    logprobs = kind.part == "output_text"
    for said in pieces:
        more = {"logprobs": [{"token": said, "logprob": -1}]} if logprobs else {}
        events.append((f"{kind.stem}.delta", {**where, "delta": said, **more}))
    events.append((f"{kind.stem}.done", {**where, kind.member: text}))
    if kind.list_name:
        events.append((f"{kind.part_stem}.done", {**where, "part": kind.part_of(text)}))
    return [*events, ("response.output_item.done", {"output_index": at, "item": kind.whole(at, text)})]


def response(texts: Iterable[str], status: str = "completed") -> dict[str, Any]:
    """The plain answer: an item of each kind, with its text."""
    items = [kind.whole(at, text) for at, (kind, text) in enumerate(zip(KINDS, texts, strict=True))]
    details = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {**HEAD, "status": status, "output": items, "incomplete_details": details}


def response_stream(
    cuts: Iterable[Sequence[str]], status: str = "completed", *, deltas: bool = True, items: bool = True
) -> bytes:
    """The stream of that answer, each text in pieces. Without `deltas` they come whole at their end; without `items` only the
    last event has them."""
    cuts = list(cuts)
    events: Events = [("response.created", {"response": HEAD}), ("response.in_progress", {"response": HEAD})]
    for at, (kind, pieces) in enumerate(zip(KINDS, cuts, strict=True)):
        if items:
            events += [found for found in item_events(kind, at, pieces) if deltas or not found[0].endswith(".delta")]
    events.append((f"response.{status}", {"response": response(map("".join, cuts), status)}))
    return as_stream(events)


def as_stream(events: Events) -> bytes:
    numbered = [{"type": kind, "sequence_number": number, **members} for number, (kind, members) in enumerate(events)]
    return b"".join(f"event: {value['type']}\n".encode() + event(value) for value in numbered)


def values_of(stream: bytes) -> list[dict[str, Any]]:
    """The data of every event that has some."""
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def told(stream: bytes) -> Iterator[tuple[int, str, str]]:
    """(item, what tells it, the text) for the pieces of every text joined, and for each of its repeats that says something."""
    pieces: dict[int, str] = {}
    for value in values_of(stream):
        kind, at = value["type"], value.get("output_index", -1)
        known = next((known for known in KINDS if kind.startswith(known.stem + ".")), None)
        if kind.endswith(".delta"):
            pieces[at] = pieces.get(at, "") + value["delta"]
        elif known is not None and value[known.member]:
            yield at, kind, value[known.member]
        elif "part" in value:
            yield from ((at, kind, text) for text in _of_part(value["part"]) if text)
        elif "item" in value:
            yield from ((at, kind, text) for text in of_item(value["item"]) if text)
        elif "response" in value:
            items = enumerate(value["response"]["output"])
            yield from ((number, kind, text) for number, item in items for text in of_item(item) if text)
    yield from ((at, "pieces", text) for at, text in pieces.items())


def of_item(item: dict[str, Any]) -> Iterator[str]:
    """The texts of an item that are among `KINDS`."""
    yield from (item[name] for name in ("arguments", "input", "code") if name in item)
    yield from item.get("action", {}).get("commands", ())
    for part in [*(item.get("summary") or ()), *(item.get("content") or ())]:
        yield from _of_part(part)


def _of_part(part: dict[str, Any]) -> Iterator[str]:
    yield from (part[name] for name in ("text", "refusal") if name in part)
