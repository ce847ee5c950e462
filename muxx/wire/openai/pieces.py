"""The pieces of an answer's JSON: where each stands, how it is read as a Chunk, how a changed one is put back.

One event of a stream and one plain answer differ in a single name: their texts are in `delta` or in `message`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...reply import Chunk, ToolCall
from .answer import text_of
from .usage import read_usage

Slot = tuple[str, int, int]
"""Where a Chunk's content stands: what it is, of which choice, and which tool call."""

_TEXT_FIELDS = {"text": ("content",), "reasoning": ("reasoning_content", "reasoning"), "refusal": ("refusal",)}


def slot_of(chunk: Chunk) -> Slot:
    if chunk.tool_call is not None:
        return "tool_call", chunk.index, chunk.tool_call.index
    if chunk.kind != "other":
        return chunk.kind, chunk.index, 0
    return "refusal" if chunk.text else "finish" if chunk.finish_reason else "other", chunk.index, 0


def decode(answer: dict[str, Any], field: str, raw: bytes) -> list[Chunk]:
    """One Chunk per piece, at least one; the last one tells the usage."""
    plain = _plain_text(answer, field, raw)
    if plain is not None:
        return [plain]
    chunks = [chunk for index, choice in choices_of(answer).items() for chunk in _pieces(index, choice, field, raw)]
    chunks = chunks or [Chunk("other", raw=raw)]
    if answer.get("usage") is not None:
        chunks[-1].usage, _ = read_usage(answer["usage"], answer.get("service_tier"))
    return chunks


def _plain_text(answer: dict[str, Any], field: str, raw: bytes) -> Chunk | None:
    """The Chunk of what nearly every event is, a piece of one choice's text and nothing else, at a tenth of the cost; None for
    any other."""
    try:
        [choice] = answer["choices"]
        holder, index = choice[field], choice["index"]
        text = holder["content"]
        if (
            text
            and type(text) is str
            and type(index) is int
            and (len(holder) == 1 or (len(holder) == 2 and "role" in holder))
            and choice.get("finish_reason") is None
            and answer.get("usage") is None
        ):
            return Chunk("text", text, index, raw=raw)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # another shape
    return None


def choices_of(answer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The choices by their index; what names no index is the first."""
    choices = answer.get("choices")
    return {index_of(choice): choice for choice in (choices if type(choices) is list else ()) if type(choice) is dict}


def index_of(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if type(index) is int else 0


def _pieces(index: int, choice: dict[str, Any], field: str, raw: bytes) -> Iterator[Chunk]:
    holder = choice.get(field)
    holder = holder if type(holder) is dict else {}
    empty = True
    for kind in ("reasoning", "text", "refusal"):
        if text := next((text for name in _TEXT_FIELDS[kind] if (text := text_of(holder.get(name)))), ""):
            yield Chunk("other" if kind == "refusal" else kind, text, index, raw=raw)  # type: ignore[arg-type]
            empty = False
    for number, call in calls_of(holder):
        function, key = _function_of(call)
        arguments = function.get(key)
        tool = ToolCall(number, call.get("id"), function.get("name"), arguments if type(arguments) is str else "")
        yield Chunk("tool_call", index=index, tool_call=tool, raw=raw)
        empty = False
    reason = choice.get("finish_reason")
    if empty or (type(reason) is str and reason):
        yield Chunk("other", index=index, finish_reason=reason or None, raw=raw)


def calls_of(holder: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Tool call fragments and their numbers. In one list no number comes twice: some providers number every call 0."""
    calls: dict[int, dict[str, Any]] = {}
    entries = holder.get("tool_calls")
    for position, call in enumerate(entries if type(entries) is list else ()):
        if type(call) is dict:
            number = call.get("index")
            calls[number if type(number) is int and number not in calls else position] = call
    return list(calls.items())


def _function_of(call: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The object that holds a call's name and arguments, and the name its arguments have there."""
    for name, key in (("function", "arguments"), ("custom", "input")):
        if type(function := call.get(name)) is dict:
            return function, key
    return {}, "arguments"


def distinct(chunks: Iterable[Chunk]) -> Iterator[dict[Slot, Chunk]]:
    """Cut Chunks into runs in which no slot comes twice: each run fits into one event."""
    run: dict[Slot, Chunk] = {}
    for chunk in chunks:
        slot = slot_of(chunk)
        if slot in run:
            yield run
            run = {}
        run[slot] = chunk
    if run:
        yield run


def copied(chunk: Chunk) -> Chunk:
    """The same, for somebody who may change the other. (`dataclasses.replace` takes several times as long.)"""
    tool = chunk.tool_call
    if tool is not None:
        tool = ToolCall(tool.index, tool.id, tool.name, tool.arguments)
    return Chunk(chunk.kind, chunk.text, chunk.index, tool, chunk.finish_reason, chunk.usage, chunk.raw, chunk.signature)


def joined(chunks: Iterable[Chunk]) -> dict[Slot, Chunk]:
    """All Chunks of a slot as one: in a plain answer each piece stands once."""
    whole: dict[Slot, Chunk] = {}
    for chunk in chunks:
        slot = slot_of(chunk)
        if (before := whole.get(slot)) is None:
            whole[slot] = copied(chunk)
            continue
        before.text += chunk.text
        before.finish_reason = chunk.finish_reason or before.finish_reason
        if before.tool_call and chunk.tool_call:
            before.tool_call.arguments += chunk.tool_call.arguments
    return whole


def rebuild(answer: dict[str, Any], field: str, originals: Iterable[Chunk], wanted: dict[Slot, Chunk]) -> None:
    """Replace in `answer` what differs from the original Chunks, and take out what is no longer wanted."""
    choices = choices_of(answer)
    calls: dict[int, dict[int, dict[str, Any]]] = {}
    """The calls of each choice by their numbers, which those without an `index` have by their places before any is taken out."""
    for original in originals:
        if original.kind == "end" or original.index not in choices:
            continue
        choice = choices[original.index]
        slot = slot_of(original)
        chunk = wanted.get(slot)
        if slot[0] in _TEXT_FIELDS:
            _put_text(choice, choice[field], slot[0], original.text, chunk.text if chunk else None)
        elif original.tool_call is not None:
            if original.index not in calls:
                calls[original.index] = dict(calls_of(choice[field]))
            call = calls[original.index][original.tool_call.index]
            _put_call(choice[field], call, original.tool_call, chunk.tool_call if chunk else None)
        reason = chunk.finish_reason if chunk else None
        if reason != original.finish_reason:
            choice["finish_reason"] = reason


def _put_text(choice: dict[str, Any], holder: dict[str, Any], kind: str, old: str, new: str | None) -> None:
    """Write a changed text; where the provider repeats the text in another form, the repeat must not give the old one away."""
    if new == old:
        return
    for name in _TEXT_FIELDS[kind]:
        if holder.get(name) is not None:
            holder[name] = new
    if choice.get("logprobs") is not None:
        choice["logprobs"] = None
    if kind == "text" and type(choice.get("text")) is str:
        choice["text"] = new or ""
    if kind == "reasoning":
        holder.pop("reasoning_details", None)


def _put_call(holder: dict[str, Any], call: dict[str, Any], old: ToolCall, new: ToolCall | None) -> None:
    if new is None:
        holder["tool_calls"].remove(call)
        if not holder["tool_calls"]:
            del holder["tool_calls"]
    elif new != old:
        function, key = _function_of(call)
        function[key] = new.arguments
        if new.name != old.name:
            function["name"] = new.name
        if new.id != old.id:
            call["id"] = new.id


def put(holder: dict[str, Any], field: str, chunk: Chunk) -> None:
    """Write a Chunk's content into a `delta` or `message` that has none of its kind."""
    if (tool := chunk.tool_call) is not None:
        call: dict[str, Any] = {"index": tool.index} if field == "delta" else {}
        if tool.id is not None:
            call |= {"id": tool.id, "type": "function"}
        call["function"] = (
            {"arguments": tool.arguments} if tool.name is None else {"name": tool.name, "arguments": tool.arguments}
        )
        holder.setdefault("tool_calls", []).append(call)
    elif chunk.text:
        kind = "refusal" if chunk.kind == "other" else chunk.kind
        holder[_TEXT_FIELDS[kind][0]] = chunk.text
