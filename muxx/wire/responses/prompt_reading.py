"""A request of Responses as a `Prompt`.

The items of the assistant that stand together are one turn of it, and the outputs that stand together one turn of results.
`instructions` and the system messages before all others are the prompt's system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..members import Read, cannot, cannot_unless, expect, hint, member, optional, passed_over, read_fields, tell_others, wrong
from ..openai.content import PARAGRAPH, joined, read_content, read_parts, read_texts
from ..openai.members import COMMON, LOGPROBS, read_output
from ..openai.prompt_reading import read_choice, read_tool
from ..prompt import Block, Call, Losses, Prompt, Reasoning, Refusal, Result, Text, Thought, Turn

_WHOLE = "Send all of the conversation in 'input': only the provider that stored the rest could add it."
_FUNCTIONS_ONLY = "Only tools of type function can be, and what was called of them."

Item = dict[str, Any]


def read_prompt(body: dict[str, Any], losses: Losses) -> Prompt:
    """The prompt of a request. Raises `InvalidRequest` for what is none."""
    prompt = Prompt(expect(body.get("model"), str, "model"), stream=body.get("stream") is True)
    if (instructions := body.get("instructions")) is not None:
        prompt.system.append(Text(expect(instructions, str, "instructions"), path="instructions"))
        prompt.places["system"] = "instructions"
    source, prompt.places["messages"] = body.get("input"), "input"
    if type(source) is str:
        prompt.turns.append(Turn("user", [Text(source, path="input")], path="input"))
    elif source is not None:
        for number, item in enumerate(expect(source, list, "input")):
            path = f"input[{number}]"
            _read_item(prompt, expect(item, dict, path), path, losses)
    read_fields(prompt, body, _FIELDS, losses)
    return prompt


def _read_item(prompt: Prompt, item: Item, path: str, losses: Losses) -> None:
    kind = item.get("type")
    if kind == "message" or (kind is None and "role" in item):
        _read_message(prompt, item, path, losses)
    elif kind == "function_call_output":
        _add(prompt, "user", [_result(item, path, losses)], path)
    elif type(kind) is str and (read := _SAID.get(kind)) is not None:
        _add(prompt, "assistant", [read(item, path)], path)
    else:
        losses.cannot(path, _WHOLE if kind == "item_reference" or (kind is None and "id" in item) else _FUNCTIONS_ONLY)
        return
    tell_others(item, _ITEM, path, losses)


_ITEM = {
    "type", "id", "status", "role", "content", "encrypted_content", "call_id", "name", "arguments", "parsed_arguments", "output",
    "summary",
}  # fmt: skip
"""Members of items that are read, that only the provider of an answer made them with, or that OpenAI's SDK added."""


def _add(prompt: Prompt, role: Any, blocks: Iterable[Block], path: str) -> None:
    """Go on with the turn before: the assistant's, or one of results."""
    last = prompt.turns[-1] if prompt.turns else None
    if last is None or last.role != role or (role == "user" and not all(isinstance(block, Result) for block in last.blocks)):
        prompt.turns.append(last := Turn(role, [], path=path))
    last.blocks += blocks


def _read_message(prompt: Prompt, item: Item, path: str, losses: Losses) -> None:
    role = item.get("role")
    if role in ("system", "developer"):
        texts = read_texts(item, path, losses)
        if prompt.turns:
            prompt.turns.append(Turn("system", [*texts], path=path))
        else:
            prompt.system += texts
    elif role == "user":
        prompt.turns.append(Turn("user", [*read_content(item, path, losses)], path=path))
    elif role == "assistant":
        blocks = read_content(item, path, losses)
        if (signature := optional(item, "encrypted_content", str, path)) is not None:
            texts = [block for block in blocks if isinstance(block, Text)]
            if not texts:
                texts = [Text("", path=path)]
                blocks += texts
            texts[-1].signature = signature
        _add(prompt, "assistant", blocks, path)
    else:
        raise wrong(f"{path}.role", "Give system, developer, user or assistant.")


def _call(item: Item, path: str) -> Call:
    return Call(
        id=expect(item.get("call_id"), str, f"{path}.call_id"),
        name=expect(item.get("name"), str, f"{path}.name"),
        arguments=expect(item.get("arguments"), str, f"{path}.arguments"),
        signature=optional(item, "encrypted_content", str, path),
        path=path,
    )


def _thought(item: Item, path: str) -> Thought:
    """What was shown of a reasoning, its parts as paragraphs, and what only the provider can read of it."""
    parts = [
        part.get("text")
        for field in ("summary", "content")
        for part in optional(item, field, list, path) or ()
        if type(part) is dict
    ]
    text = joined([part for part in parts if type(part) is str], PARAGRAPH)
    return Thought(text, optional(item, "encrypted_content", str, path), path=path)


_SAID: dict[str, Callable[[Item, str], Block]] = {"function_call": _call, "reasoning": _thought}
"""Items of the assistant besides its messages."""


def _result(item: Item, path: str, losses: Losses) -> Result:
    content: list[Any] = []
    for block in read_parts(item.get("output"), f"{path}.output", losses):
        if isinstance(block, Refusal):
            losses.cannot(block.path)
        elif not isinstance(block, Text) or block.text:
            content.append(block)
    return Result(expect(item.get("call_id"), str, f"{path}.call_id"), content, name=optional(item, "name", str, path), path=path)


# ── the other fields ──


def _read_tools(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    for place, tool in enumerate(expect(value, list, field)):
        path = f"{field}[{place}]"
        if expect(tool, dict, path).get("type") == "function":
            if tool.get("defer_loading"):
                losses.cannot(f"{path}.defer_loading")
            if (tool.get("allowed_callers") or ["direct"]) != ["direct"]:
                losses.cannot(f"{path}.allowed_callers")
            tell_others(tool, _TOOL, path, losses)
            prompt.tools.append(read_tool(tool, tool, path))
        else:
            losses.cannot(path, _FUNCTIONS_ONLY)


_TOOL = {
    "type", "name", "description", "parameters", "strict", "defer_loading", "allowed_callers", "cache_control",
    "prompt_cache_breakpoint",
}  # fmt: skip


def _read_choice(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    named = value if type(value) is dict and value.get("type") == "function" else None
    read_choice(prompt, field, value, named, losses)


def _read_text(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    for name, inner in expect(value, dict, field).items():
        if inner is None:
            continue
        if name == "format":
            form = expect(inner, dict, "text.format")
            prompt.output = read_output(form, form, "text.format", losses)
            prompt.places["output"] = "text.format"
        elif name == "verbosity":
            prompt.verbosity = expect(inner, str, "text.verbosity")
            prompt.places["verbosity"] = "text.verbosity"
        else:
            losses.cannot(f"text.{name}")


def _read_reasoning(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    value = expect(value, dict, field)
    summary = optional(value, "summary", str, field) or optional(value, "generate_summary", str, field)
    prompt.reasoning = Reasoning(effort=optional(value, "effort", str, field), show=True if summary else None)
    prompt.places["reasoning"] = field
    for name in value.keys() - {"effort", "summary", "generate_summary"}:
        if value[name] is not None:
            (losses.cannot if name == "mode" and value[name] != "standard" else losses.hint)(f"{field}.{name}")


_SATISFIED = "reasoning.encrypted_content"
_OF_TOOLS = {
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
}  # fmt: skip
"""They say more of items that a translated answer does not have."""


def _read_include(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    for place, name in enumerate(expect(value, list, field)):
        if expect(name, str, f"{field}[{place}]") in _OF_TOOLS:
            losses.hint(f"{field}[{place}]")
        elif name != _SATISFIED:
            losses.cannot(f"{field}[{place}]", LOGPROBS if name == "message.output_text.logprobs" else "")


def _read_truncation(prompt: Prompt, field: str, value: Any, losses: Losses) -> None:
    """Only a prompt that is too long is answered otherwise: with a refusal."""
    if value != "disabled":
        losses.hint(field)


_FIELDS: dict[str, Read] = {
    **COMMON,
    "input": passed_over,
    "instructions": passed_over,
    "max_output_tokens": member("max_tokens", int),
    "tools": _read_tools,
    "tool_choice": _read_choice,
    "text": _read_text,
    "reasoning": _read_reasoning,
    "include": _read_include,
    "truncation": _read_truncation,
    "previous_response_id": cannot_unless(advice=_WHOLE),
    "conversation": cannot_unless(advice=_WHOLE),
    "prompt": cannot_unless(advice="Send the prompt itself: only the provider that stored it knows it."),
    "background": cannot_unless(False, advice="Ask for the answer itself, streamed or not."),
    "max_tool_calls": cannot,
    "client_metadata": hint,
}
