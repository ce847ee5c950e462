"""A request of chat completions as a `Prompt`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..members import Read, cannot, cannot_unless, expect, member, number, optional, passed_over, read_fields, tell_others, wrong
from ..prompt import Block, Call, Losses, Prompt, Reasoning, Refusal, Result, Text, Thought, Tool, ToolChoice, Turn
from .content import cache_of, read_content, read_texts
from .members import COMMON, LOGPROBS, read_output
from .thoughts import TEXT_FIELDS, read_thoughts, signature_in

_USE_TOOLS = "Use tools and tool_choice, which have replaced functions and function_call."
_FUNCTIONS_ONLY = "Only tools of type function can be."


def read_prompt(body: dict[str, Any], losses: Losses) -> Prompt:
    """The prompt of a request. Raises `InvalidRequest` for what is none."""
    prompt = Prompt(expect(body.get("model"), str, "model"), stream=body.get("stream") is True)
    before = None
    for number_, message in enumerate(expect(body.get("messages"), list, "messages")):
        path = f"messages[{number_}]"
        role = expect(message, dict, path).get("role")
        _read_message(prompt, message, path, role == before == "tool", losses)
        before = role
    read_fields(prompt, body, _FIELDS, losses)
    return prompt


def _read_message(prompt: Prompt, message: dict[str, Any], path: str, goes_on: bool, losses: Losses) -> None:
    """`goes_on`: it is one more result of the tools that were called together."""
    role = message.get("role")
    if role in ("system", "developer"):
        texts = read_texts(message, path, losses)
        _mark(texts, message, path, losses)
        if optional(message, "name", str, path):
            losses.hint(f"{path}.name")
        if prompt.turns:
            prompt.turns.append(Turn("system", [*texts], path=path))
        else:
            prompt.system += texts
    elif role == "user":
        blocks: list[Block] = [*read_content(message, path, losses)]
        _mark(blocks, message, path, losses)
        prompt.turns.append(Turn("user", blocks, optional(message, "name", str, path), path))
    elif role == "assistant":
        blocks = [*_said(message, path, losses)]
        _mark(blocks, message, path, losses)
        prompt.turns.append(Turn("assistant", blocks, optional(message, "name", str, path), path))
    elif role == "tool":
        if not goes_on:
            prompt.turns.append(Turn("user", [], path=path))
        prompt.turns[-1].blocks.append(_result(message, path, losses))
    elif role == "function":
        losses.cannot(path, _USE_TOOLS)
    else:
        raise wrong(f"{path}.role", "Give system, developer, user, assistant or tool.")
    tell_others(message, _MESSAGE, path, losses)


def _mark(blocks: Sequence[Block], message: dict[str, Any], path: str, losses: Losses) -> None:
    """A prompt-cache marker of a whole message, as some SDKs write it, stands behind its last block that can have one."""
    if (marker := cache_of(message, path)) is None:
        return
    last = next((block for block in reversed(blocks) if not isinstance(block, Refusal | Thought)), None)
    if last is None:
        losses.hint(f"{path}.cache_control")
    else:
        last.cache = last.cache or marker


def _said(message: dict[str, Any], path: str, losses: Losses) -> Iterable[Block]:
    """What the assistant said: its thoughts, its words, its calls."""
    yield from read_thoughts(message, path)
    words = [block for block in read_content(message, path, losses) if not isinstance(block, Text) or block.text]
    if (refusal := optional(message, "refusal", str, path)) is not None:
        words.append(Refusal(refusal, f"{path}.refusal"))
    if (signature := signature_in(message)) is not None:
        texts = [block for block in words if isinstance(block, Text)]
        if not texts:
            words.append(text := Text("", path=path))
            texts = [text]
        texts[-1].signature = signature
    yield from words
    for place, call in enumerate(optional(message, "tool_calls", list, path) or ()):
        where = f"{path}.tool_calls[{place}]"
        if (function := expect(call, dict, where).get("function")) is None:
            losses.cannot(where, _FUNCTIONS_ONLY)
        else:
            tell_others(call, _CALL, where, losses)
            tell_others(expect(function, dict, f"{where}.function"), _CALLED, f"{where}.function", losses)
            yield _call(call, function, where)
    if message.get("function_call") is not None:
        losses.cannot(f"{path}.function_call", _USE_TOOLS)
    if message.get("audio") is not None:
        losses.cannot(f"{path}.audio")


_MESSAGE = {
    "role", "name", "content", "refusal", "tool_calls", "tool_call_id", "function_call", "audio", "extra_content",
    "reasoning_details", "cache_control", "prompt_cache_breakpoint", *TEXT_FIELDS,
}  # fmt: skip
_TOOL = {"type", "function", "cache_control", "prompt_cache_breakpoint"}
_FUNCTION = {"name", "description", "parameters", "strict"}
_CALL = {*_TOOL, "id", "index", "extra_content"}
_CALLED = {"name", "arguments", "parsed_arguments"}
"""The last is what OpenAI's SDK made of the one before it."""


def _call(call: dict[str, Any], function: dict[str, Any], path: str) -> Call:
    return Call(
        id=expect(call.get("id"), str, f"{path}.id"),
        name=expect(function.get("name"), str, f"{path}.function.name"),
        arguments=expect(function.get("arguments"), str, f"{path}.function.arguments"),
        signature=signature_in(call),
        cache=cache_of(call, path),
        path=path,
    )


def _result(message: dict[str, Any], path: str, losses: Losses) -> Result:
    content: list[Any] = []
    for block in read_content(message, path, losses):
        if isinstance(block, Refusal):
            losses.cannot(block.path)
        elif not isinstance(block, Text) or block.text:
            content.append(block)
    call_id = expect(message.get("tool_call_id"), str, f"{path}.tool_call_id")
    name = optional(message, "name", str, path)
    return Result(call_id, content, name=name, cache=cache_of(message, path), path=path)


# ── the other fields ──


def _read_tools(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    for place, tool in enumerate(expect(value, list, field)):
        path = f"{field}[{place}]"
        if expect(tool, dict, path).get("type") == "function":
            function = expect(tool.get("function"), dict, f"{path}.function")
            tell_others(tool, _TOOL, path, losses)
            tell_others(function, _FUNCTION, f"{path}.function", losses)
            prompt.tools.append(read_tool(tool, function, path))
        else:
            losses.cannot(path, _FUNCTIONS_ONLY)


def read_tool(tool: dict[str, Any], function: dict[str, Any], path: str) -> Tool:
    """The definition of a function, whose members stand in `function`."""
    return Tool(
        name=expect(function.get("name"), str, f"{path}.name"),
        description=optional(function, "description", str, path),
        parameters=optional(function, "parameters", dict, path),
        strict=optional(function, "strict", bool, path),
        cache=cache_of(tool, path),
        path=path,
    )


def _read_choice(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    named = value.get("function") if type(value) is dict and value.get("type") == "function" else None
    read_choice(prompt, field, value, named, losses)


def read_choice(prompt: Prompt, field: str, value: Any, named: Any, losses: Losses) -> None:
    """`named`: the object that names a function, where the choice is one."""
    prompt.places["tool_choice"] = field
    if value in ("auto", "none", "required"):
        prompt.tool_choice = ToolChoice(value)
    elif type(named) is dict:
        prompt.tool_choice = ToolChoice("named", expect(named.get("name"), str, f"{field}.name"))
    elif type(value) is dict:
        losses.cannot(field, "Let it be auto, none, required or one function.")
    else:
        raise wrong(field, "Give auto, none, required or an object.")


def _read_format(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    form = expect(value, dict, field)
    schema = optional(form, "json_schema", dict, field) or {}
    prompt.output = read_output(form, schema, f"{field}.json_schema" if schema else field, losses)
    prompt.places["output"] = field


def _read_stop(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    stops = [value] if type(value) is str else expect(value, list, field)
    prompt.stop = [expect(stop, str, f"{field}[{place}]") for place, stop in enumerate(stops)]
    prompt.places["stop"] = field


def _read_max_tokens(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    """Under its newer name where it is there under both."""
    value = expect(value, int, field)
    if prompt.places.get("max_tokens") != "max_completion_tokens":
        prompt.max_tokens = value
        prompt.places["max_tokens"] = field


def _read_effort(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    prompt.reasoning = Reasoning(effort=expect(value, str, field))
    prompt.places["reasoning"] = field


_FIELDS: dict[str, Read] = {
    **COMMON,
    "messages": passed_over,
    "max_tokens": _read_max_tokens,
    "max_completion_tokens": _read_max_tokens,
    "stop": _read_stop,
    "n": member("n", int, default=1),
    "seed": member("seed", int),
    "frequency_penalty": number("frequency_penalty", default=0),
    "presence_penalty": number("presence_penalty", default=0),
    "logprobs": cannot_unless(False, advice=LOGPROBS),
    "logit_bias": cannot_unless({}),
    "tools": _read_tools,
    "tool_choice": _read_choice,
    "response_format": _read_format,
    "reasoning_effort": _read_effort,
    "verbosity": member("verbosity", str),
    "modalities": cannot_unless(["text"], advice="Answers are text only."),
    "functions": cannot_unless([], advice=_USE_TOOLS),
    "function_call": cannot_unless("auto", "none", advice=_USE_TOOLS),
    "audio": cannot,
    "prediction": cannot,
    "web_search_options": cannot,
}
