"""A `Prompt` as a request of Messages.

Turns of one role that follow each other become one, what tools returned stands first in its turn, and texts without a word in
them are left out: Anthropic refuses all that is not so. `max_tokens`, which it wants, is made up where the caller gave none.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator, Mapping
from typing import Any

from orjson import JSONDecodeError, loads

from ..prompt import Block, Call, Losses, Media, Output, Prompt, Refusal, Result, Text, Thought, Tool, Turn
from .thinking import decides_itself, own_thought, write_thinking

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_SYSTEM_FIRST = "Give instructions before everything else."
_OWN_FILES = "Send the file itself: Anthropic does not have another provider's files."
_ADAPTIVE = "This model takes no sampling parameters."
_THINKING = "Where Claude thinks, it is 1."

_UNSAYABLE = ("n", "seed", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs")
_TIERS = {"auto": "auto", "default": "standard_only"}


def write_prompt(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The request's body. What it cannot say is told to `losses`."""
    messages = _Messages(losses)
    system = [block for text in prompt.system for block in messages.block(text)]
    for turn in prompt.turns:
        if turn.role == "system":
            losses.cannot(turn.path, _SYSTEM_FIRST)
            system += [block for text in turn.blocks for block in messages.block(text)]
        else:
            messages.add(turn)
    if not messages.written:
        losses.refuse(prompt.place("messages"), "Give at least one user turn.")
    body: dict[str, Any] = {"model": prompt.model, **write_thinking(prompt, losses)}
    if system:
        body["system"] = _brief(system)
    body["messages"] = [{**message, "content": _brief(message["content"])} for message in messages.written]
    if prompt.stream:
        body["stream"] = True
    body |= _tools(prompt, losses)
    if prompt.output is not None:
        _write_output(body, prompt.output, prompt.place("output"), losses)
    body |= _sampling(prompt, losses, thinks="budget_tokens" in body.get("thinking", ()))
    body |= _hints(prompt, losses)
    for name in _UNSAYABLE:
        value = getattr(prompt, name)
        if value and (name, value) != ("n", 1):
            losses.cannot(prompt.place(name))
    if prompt.verbosity not in (None, "medium"):
        losses.cannot(prompt.place("verbosity"))
    return body


# ── messages ──


class _Messages:
    """Writes the turns of one prompt. The ids of calls become such as Anthropic takes, the same for a call and its result."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._ids: dict[str, str] = {}
        self.written: list[dict[str, Any]] = []

    def add(self, turn: Turn) -> None:
        if turn.name is not None:
            self._losses.hint(f"{turn.path}.name")
        blocks = [written for block in turn.blocks for written in self.block(block)]
        if not blocks:
            return
        if self.written and self.written[-1]["role"] == turn.role:
            blocks = [*self.written.pop()["content"], *blocks]
        if turn.role == "user":
            blocks.sort(key=lambda block: block["type"] != "tool_result")
        self.written.append({"role": turn.role, "content": blocks})

    def block(self, block: Block) -> Iterator[dict[str, Any]]:
        """The block as it is written; nothing for one that cannot be."""
        if isinstance(block, Text):
            if block.signature is not None:
                self._losses.hint(f"{block.path}.signature")
            if block.text.strip():
                yield _marked({"type": "text", "text": block.text}, block.cache)
        elif isinstance(block, Refusal):
            if block.text.strip():
                yield {"type": "text", "text": block.text}
        elif isinstance(block, Media):
            yield from _media(block, self._losses)
        elif isinstance(block, Call):
            yield self._call(block)
        elif isinstance(block, Result):
            yield self._result(block)
        else:
            yield from self._thought(block)

    def _thought(self, thought: Thought) -> Iterator[dict[str, Any]]:
        written = own_thought(thought)
        if written is None:
            self._losses.hint(thought.path)
        else:
            yield written

    def _call(self, call: Call) -> dict[str, Any]:
        if call.signature is not None:
            self._losses.hint(f"{call.path}.signature")  # Anthropic signs no calls
        called_with = _object(call.arguments)
        if called_with is None:
            self._losses.cannot(call.path, "Send arguments of a call that are a JSON object.")
        written = {"type": "tool_use", "id": self._id(call.id), "name": call.name, "input": called_with or {}}
        return _marked(written, call.cache)

    def _result(self, result: Result) -> dict[str, Any]:
        written: dict[str, Any] = {"type": "tool_result", "tool_use_id": self._id(result.id)}
        if content := [block for inner in result.content for block in self.block(inner)]:
            written["content"] = _brief(content)
        if result.is_error:
            written["is_error"] = True
        return _marked(written, result.cache)

    def _id(self, call_id: str) -> str:
        known = self._ids.get(call_id)
        if known is None:
            clean = base = _NOT_IN_ID.sub("_", call_id) or "toolu"
            while clean in self._ids.values():
                clean = f"{base}_{len(self._ids)}"
            known = self._ids[call_id] = clean
        return known


def _brief(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A content that is one plain text, as a string."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


def _marked(block: dict[str, Any], cache: Mapping[str, Any] | None) -> dict[str, Any]:
    return block if cache is None else {**block, "cache_control": dict(cache)}


def _object(arguments: str) -> dict[str, Any] | None:
    """What a tool was called with; None for what is no object. Nothing is the empty one."""
    if not arguments.strip():
        return {}
    try:
        value = loads(arguments)
    except JSONDecodeError:
        return None
    return value if type(value) is dict else None


def _media(media: Media, losses: Losses) -> Iterator[dict[str, Any]]:
    if media.detail not in (None, "auto"):
        losses.hint(f"{media.path}.{media.detail_at}")
    source = _source(media, losses) if media.kind in ("image", "document") else None
    if source is None:
        losses.cannot(media.path)
        return
    block: dict[str, Any] = {"type": media.kind, "source": source}
    if media.kind == "document" and media.name:
        block["title"] = media.name
    yield _marked(block, media.cache)


def _source(media: Media, losses: Losses) -> dict[str, Any] | None:
    """Where media come from; None for what Anthropic does not read."""
    mime = (media.mime or "").partition(";")[0].strip().lower()
    if media.file_id is not None:
        if media.file_id.startswith("file_"):
            return {"type": "file", "file_id": media.file_id}
        losses.cannot(media.path, _OWN_FILES)
        return None
    if media.url is not None:
        return {"type": "url", "url": media.url}
    if media.text is not None:
        return {"type": "text", "media_type": "text/plain", "data": media.text}
    if media.kind == "image":
        mime = "image/jpeg" if mime == "image/jpg" else mime
        return {"type": "base64", "media_type": mime, "data": media.data} if mime in _IMAGES else None
    if mime == "application/pdf":
        return {"type": "base64", "media_type": mime, "data": media.data}
    text = _decoded(media.data or "") if mime.startswith("text/") else None
    return {"type": "text", "media_type": "text/plain", "data": text} if text is not None else None


def _decoded(data: str) -> str | None:
    try:
        return b64decode(data, validate=True).decode()
    except (NotBase64, ValueError):
        return None


# ── tools and the answer's form ──


def _tools(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    choice = prompt.choice(losses)
    if not prompt.tools:
        return {}
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in prompt.tools]}
    mode = choice.mode if choice is not None else "auto"
    written: dict[str, Any] = {"type": {"required": "any", "named": "tool"}.get(mode, mode)}
    if choice is not None and mode == "named":
        written["name"] = choice.name
    if prompt.parallel_tool_calls is False and mode != "none":
        written["disable_parallel_tool_use"] = True
    if choice is not None or len(written) > 1:
        body["tool_choice"] = written
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object", **(tool.parameters or {"properties": {}})}
    members = {"description": tool.description, "input_schema": schema, "strict": tool.strict}
    written = {"name": tool.name, **{name: value for name, value in members.items() if value is not None}}
    return _marked(written, tool.cache)


def _write_output(body: dict[str, Any], output: Output, place: str, losses: Losses) -> None:
    if output.schema is None:
        losses.cannot(place, "Give a JSON schema: Claude cannot be held to JSON without one.")
        return
    schema = _closed(output.schema)
    if output.description is not None:
        schema = {"description": output.description, **schema}
    body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}


def _closed(schema: Any) -> Any:
    """The schema with objects that have no other members than it names, where it leaves that open: Anthropic wants them so, and
    what fits the closed one fits the open one."""
    if type(schema) is list:
        return [_closed(entry) for entry in schema]
    if type(schema) is not dict:
        return schema
    closed = {name: _closed_member(name, value) for name, value in schema.items()}
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


def _closed_member(name: str, value: Any) -> Any:
    if name in _VALUES:
        return value
    if name in _NAMED and type(value) is dict:
        return {key: _closed(schema) for key, schema in value.items()}
    return _closed(value)


_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
"""Members of a schema that hold values, and no schemas."""

_NAMED = frozenset({"properties", "$defs", "definitions"})
"""Members that hold schemas by names of the caller's."""


# ── the rest ──


def _sampling(prompt: Prompt, losses: Losses, *, thinks: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    given = {name: value for name in ("temperature", "top_p", "top_k") if (value := getattr(prompt, name)) is not None}
    for name, value in given.items():
        place, default = prompt.place(name), value == 1 and name != "top_k"
        if decides_itself(prompt.model) and not default:
            losses.cannot(place, _ADAPTIVE)
        elif name == "temperature" and value > 1:
            losses.cannot(place, "Give a temperature from 0 to 1.")
        elif thinks and not default and (name != "top_p" or value < 0.95):
            losses.cannot(place, _THINKING if name == "temperature" else f"Where Claude thinks, it takes no such {name}.")
        elif not (default and len(given) > 1):
            body[name] = value
    body |= _stops(prompt, losses)
    return body


def _stops(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    stops = [stop for stop in prompt.stop if stop.strip()]
    if len(stops) < len(prompt.stop):
        losses.cannot(prompt.place("stop"), "Give stop sequences that are more than white space.")
    return {"stop_sequences": stops} if stops else {}


def _hints(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The members that do not change the answer."""
    body: dict[str, Any] = {}
    if prompt.user is not None:
        body["metadata"] = {"user_id": prompt.user}
    if prompt.service_tier in _TIERS:
        body["service_tier"] = _TIERS[prompt.service_tier]
    elif prompt.service_tier is not None:
        losses.hint(prompt.place("service_tier"))
    return body
