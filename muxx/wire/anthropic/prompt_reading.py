"""A request of Messages as a `Prompt`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orjson import dumps

from ..members import (
    Read,
    cannot,
    cannot_unless,
    expect,
    hint,
    member,
    number,
    optional,
    passed_over,
    read_fields,
    tell_others,
    wrong,
)
from ..prompt import Block, Call, Losses, Media, MediaKind, Output, Prompt, Result, Text, Thought, Tool, ToolChoice, Turn
from .thinking import read_thinking

_PREFILL = "Only Anthropic goes on with what the assistant has begun to say: end with a user turn."
_OWN_TOOLS = "Only tools of the caller's own can be: custom ones."
_WHOLE = "Send all of the conversation in 'messages': only Anthropic keeps threads."


def read_prompt(body: dict[str, Any], losses: Losses) -> Prompt:
    """The prompt of a request. Raises `InvalidRequest` for what is none."""
    prompt = Prompt(expect(body.get("model"), str, "model"), stream=body.get("stream") is True)
    prompt.system = _texts(body.get("system"), "system", losses)
    messages = expect(body.get("messages"), list, "messages")
    for place, message in enumerate(messages):
        _read_message(prompt, expect(message, dict, f"messages[{place}]"), f"messages[{place}]", losses)
    if prompt.turns and prompt.turns[-1].role == "assistant":
        losses.cannot(prompt.turns.pop().path, _PREFILL)
    read_thinking(prompt, body, losses)
    read_fields(prompt, body, _FIELDS, losses)
    return prompt


# ── messages ──


def _read_message(prompt: Prompt, message: dict[str, Any], path: str, losses: Losses) -> None:
    role, place = message.get("role"), f"{path}.content"
    tell_others(message, {"role", "content"}, path, losses)
    if role == "user" or role == "assistant":
        prompt.turns.append(Turn(role, _content(message.get("content"), place, losses), path=path))
    elif role != "system":
        raise wrong(f"{path}.role", "Give user, assistant or system.")
    elif prompt.turns:
        prompt.turns.append(Turn("system", [*_texts(message.get("content"), place, losses)], path=path))
    else:
        prompt.system += _texts(message.get("content"), place, losses)


def _content(content: Any, path: str, losses: Losses) -> list[Block]:
    """The blocks of a content; of a type that nobody else has, none."""
    if content is None:
        return []
    if type(content) is str:
        return [Text(content, path=path)]
    blocks: list[Block] = []
    for place, block in enumerate(expect(content, list, path)):
        where = f"{path}[{place}]"
        read = _BLOCKS.get(str(expect(block, dict, where).get("type")))
        if read is None:
            losses.cannot(where)
        else:
            blocks.append(read(block, where, losses))
    return blocks


def _texts(content: Any, path: str, losses: Losses) -> list[Text]:
    """A content that may hold nothing but text."""
    texts = []
    for block in _content(content, path, losses):
        if isinstance(block, Text):
            texts.append(block)
        else:
            losses.cannot(block.path)
    return texts


def _tell_rest(block: Mapping[str, Any], known: frozenset[str], path: str, losses: Losses) -> None:
    """Members that cannot be carried."""
    for name, value in block.items():
        if value and name not in known:
            losses.cannot(f"{path}.{name}")


def _known(*names: str) -> frozenset[str]:
    return frozenset({"type", "cache_control", *names})


_TEXT, _IMAGE, _THINKING = _known("text", "citations"), _known("source"), _known("thinking", "signature")
_DOCUMENT, _SEARCHED = _known("source", "title", "citations"), ({"enabled": False}, None)
_CALL, _RESULT = _known("id", "name", "input", "signature", "caller"), _known("tool_use_id", "content", "is_error")
_CHOICE = frozenset({"type", "name", "disable_parallel_tool_use"})
_TOOL = _known("name", "description", "input_schema", "strict", "eager_input_streaming", "allowed_callers")


def _cache(block: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    return optional(block, "cache_control", dict, path)


def _text(block: dict[str, Any], path: str, losses: Losses) -> Text:
    _tell_rest(block, _TEXT, path, losses)
    if block.get("citations"):
        losses.hint(f"{path}.citations")  # of an earlier answer
    return Text(expect(block.get("text"), str, f"{path}.text"), _cache(block, path), path)


def _thinking(block: dict[str, Any], path: str, losses: Losses) -> Thought:
    _tell_rest(block, _THINKING, path, losses)
    text = expect(block.get("thinking"), str, f"{path}.thinking")
    return Thought(text, optional(block, "signature", str, path) or None, path=path)


def _redacted(block: dict[str, Any], path: str, losses: Losses) -> Thought:
    return Thought("", redacted=expect(block.get("data"), str, f"{path}.data"), path=path)


def _image(block: dict[str, Any], path: str, losses: Losses) -> Media:
    _tell_rest(block, _IMAGE, path, losses)
    return _media("image", block, path, losses)


def _document(block: dict[str, Any], path: str, losses: Losses) -> Media:
    _tell_rest(block, _DOCUMENT, path, losses)
    if block.get("citations") not in _SEARCHED:
        losses.cannot(f"{path}.citations")
    media = _media("document", block, path, losses)
    media.name = optional(block, "title", str, path)
    return media


def _media(kind: MediaKind, block: dict[str, Any], path: str, losses: Losses) -> Media:
    source, place = expect(block.get("source"), dict, f"{path}.source"), f"{path}.source"
    media = Media(kind, name_at="title", cache=_cache(block, path), path=path)
    how = source.get("type")
    if how == "base64":
        media.mime = expect(source.get("media_type"), str, f"{place}.media_type")
        media.data = expect(source.get("data"), str, f"{place}.data")
    elif how == "url":
        media.url = expect(source.get("url"), str, f"{place}.url")
    elif how == "file":
        media.file_id = expect(source.get("file_id"), str, f"{place}.file_id")
    elif how == "text" and kind == "document":
        media.mime, media.text = "text/plain", expect(source.get("data"), str, f"{place}.data")
    elif how == "content" and kind == "document":
        texts = _texts(source.get("content"), f"{place}.content", losses)
        media.mime, media.text = "text/plain", "\n\n".join(text.text for text in texts)
    else:
        raise wrong(f"{place}.type", "Give base64, url, file, or for a document text or content.")
    return media


def _tool_use(block: dict[str, Any], path: str, losses: Losses) -> Call:
    _tell_rest(block, _CALL, path, losses)
    called_with = block.get("input")
    return Call(
        id=expect(block.get("id"), str, f"{path}.id"),
        name=expect(block.get("name"), str, f"{path}.name"),
        arguments="{}" if called_with is None else dumps(expect(called_with, dict, f"{path}.input")).decode(),
        signature=optional(block, "signature", str, path),
        cache=_cache(block, path),
        path=path,
    )


def _tool_result(block: dict[str, Any], path: str, losses: Losses) -> Result:
    _tell_rest(block, _RESULT, path, losses)
    content: list[Text | Media] = []
    for inner in _content(block.get("content"), f"{path}.content", losses):
        if isinstance(inner, Text | Media):
            content.append(inner)
        else:
            losses.cannot(inner.path)
    failed = optional(block, "is_error", bool, path) or False
    call_id = expect(block.get("tool_use_id"), str, f"{path}.tool_use_id")
    return Result(call_id, content, failed, cache=_cache(block, path), path=path)


_BLOCKS: dict[str, Callable[[dict[str, Any], str, Losses], Block]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}


# ── the other fields ──


def _read_tools(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    prompt.tools = list(_tools(expect(value, list, field), field, losses))


def _tools(tools: list[Any], field: str, losses: Losses) -> Iterator[Tool]:
    for place, tool in enumerate(tools):
        path = f"{field}[{place}]"
        if expect(tool, dict, path).get("type") not in (None, "custom"):
            losses.cannot(path, _OWN_TOOLS)
            continue
        _tell_rest(tool, _TOOL, path, losses)
        if (tool.get("allowed_callers") or ["direct"]) != ["direct"]:
            losses.cannot(f"{path}.allowed_callers")
        yield Tool(
            name=expect(tool.get("name"), str, f"{path}.name"),
            description=optional(tool, "description", str, path),
            parameters=optional(tool, "input_schema", dict, path),
            strict=optional(tool, "strict", bool, path),
            cache=_cache(tool, path),
            path=path,
        )


def _read_choice(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    choice = expect(value, dict, field)
    prompt.places["tool_choice"] = field
    kind = choice.get("type")
    if kind == "tool":
        prompt.tool_choice = ToolChoice("named", expect(choice.get("name"), str, f"{field}.name"))
    elif kind == "any":
        prompt.tool_choice = ToolChoice("required")
    elif kind == "auto" or kind == "none":
        prompt.tool_choice = ToolChoice(kind)
    else:
        raise wrong(f"{field}.type", "Give auto, any, tool or none.")
    _tell_rest(choice, _CHOICE, field, losses)
    if optional(choice, "disable_parallel_tool_use", bool, field):
        prompt.parallel_tool_calls = False
        prompt.places["parallel_tool_calls"] = f"{field}.disable_parallel_tool_use"


def _read_config(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    for name, inner in expect(value, dict, field).items():
        if inner is not None and name == "format":
            _read_format(prompt, f"{field}.format", inner, losses)
        elif inner is not None and name != "effort":
            losses.cannot(f"{field}.{name}")


def _read_format(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    form = expect(value, dict, field)
    if form.get("type") != "json_schema":
        losses.cannot(field, "Let it be json_schema.")
        return
    prompt.output = Output("schema", expect(form.get("schema"), dict, f"{field}.schema"))
    prompt.places["output"] = field


def _read_stop(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    stops = expect(value, list, field)
    prompt.stop = [expect(stop, str, f"{field}[{place}]") for place, stop in enumerate(stops)]
    prompt.places["stop"] = field


def _read_metadata(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    metadata = expect(value, dict, field)
    prompt.user = optional(metadata, "user_id", str, field)
    prompt.places["user"] = f"{field}.user_id"
    for name in metadata.keys() - {"user_id"}:
        losses.hint(f"{field}.{name}")


def _read_thread(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    """Whoever is given one sends only what is new from then on."""
    losses.refuse(field, _WHOLE)


def _read_tier(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    """`auto` is what holds without it."""
    if expect(value, str, field) != "auto":
        prompt.service_tier = "default" if value == "standard_only" else value
        prompt.places["service_tier"] = field


_FIELDS: dict[str, Read] = {
    "model": passed_over,
    "stream": passed_over,
    "system": passed_over,
    "messages": passed_over,
    "thinking": passed_over,
    "max_tokens": member("max_tokens", int),
    "temperature": number("temperature"),
    "top_p": number("top_p"),
    "top_k": member("top_k", int),
    "stop_sequences": _read_stop,
    "tools": _read_tools,
    "tool_choice": _read_choice,
    "output_config": _read_config,
    "output_format": _read_format,
    "metadata": _read_metadata,
    "service_tier": _read_tier,
    "cache_control": hint,
    "diagnostics": hint,
    "user_profile_id": hint,
    "workspace_id": hint,
    "speed": hint,
    "mcp_servers": cannot_unless([], advice="Only Anthropic asks MCP servers itself."),
    "container": cannot,
    "context_management": cannot,
    "inference_geo": cannot,
    "thread": _read_thread,
}
