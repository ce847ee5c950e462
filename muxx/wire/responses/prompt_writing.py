"""A `Prompt` as a request of Responses: stateless, for what the provider would store nobody could refer to.

A model that reasons is asked for its encrypted reasoning, which its client sends back with the next turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..openai.content import Part, joined, tell_marks, text_of_document, url_of
from ..openai.prompt_writing import (
    arguments_schema,
    effort_of,
    file_members,
    reasons,
    schema_members,
    tell_unsayable,
    write_hints,
)
from ..openai.thoughts import is_mark
from ..prompt import Block, Call, Losses, Media, Output, Prompt, Reasoning, Refusal, Result, Text, Thought, Tool, Turn
from ..seals import opened

Item = dict[str, Any]

_UNSAYABLE = ("stop", "seed", "frequency_penalty", "presence_penalty")


def write_prompt(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The request's body. What it cannot say is told to `losses`."""
    items = [item for turn in prompt.turns for item in _items(turn, losses)]
    body: dict[str, Any] = {"model": prompt.model, "input": items, "store": False}
    if prompt.stream:
        body["stream"] = True
    if prompt.system:
        tell_marks(prompt.system, losses)
        body["instructions"] = joined(text.text for text in prompt.system)
    if prompt.max_tokens is not None:
        body["max_output_tokens"] = prompt.max_tokens
    body |= {name: value for name in ("temperature", "top_p") if (value := getattr(prompt, name)) is not None}
    if prompt.tools:
        body["tools"] = [_tool(tool, losses) for tool in prompt.tools]
    if (choice := prompt.choice(losses)) is not None:
        body["tool_choice"] = {"type": "function", "name": choice.name} if choice.mode == "named" else choice.mode
    if prompt.parallel_tool_calls is not None and prompt.tools:
        body["parallel_tool_calls"] = prompt.parallel_tool_calls
    if text := _text_form(prompt):
        body["text"] = text
    if prompt.reasoning is not None and (reasoning := _reasoning(prompt, prompt.reasoning, losses)):
        body["reasoning"] = reasoning
    if reasons(prompt.model):
        body["include"] = ["reasoning.encrypted_content"]
    body |= write_hints(prompt, losses)
    tell_unsayable(prompt, losses, _UNSAYABLE)
    if prompt.n is not None and prompt.n != 1:
        losses.cannot(prompt.place("n"))
    return body


# ── items ──


def _items(turn: Turn, losses: Losses) -> Iterator[Item]:
    tell_marks(turn.blocks, losses)
    if turn.name is not None:
        losses.hint(f"{turn.path}.name")
    if turn.role == "assistant":
        yield from _said(turn.blocks, losses)
        return
    results = [block for block in turn.blocks if isinstance(block, Result)]
    rest = [block for block in turn.blocks if not isinstance(block, Result)]
    for result in results:
        yield {"type": "function_call_output", "call_id": result.id, "output": _returned(result, losses)}
    if rest or not results:
        yield {"type": "message", "role": turn.role, "content": _parts(rest, losses)}


def _said(blocks: Sequence[Block], losses: Losses) -> Iterator[Item]:
    """The items of an assistant's turn, in its order."""
    for block in blocks:
        if isinstance(block, Text | Call) and block.signature is not None:
            losses.hint(f"{block.path}.signature")
        if isinstance(block, Text):
            yield {"type": "message", "role": "assistant", "content": block.text}
        elif isinstance(block, Refusal):
            yield {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": block.text}]}
        elif isinstance(block, Call):
            yield {"type": "function_call", "call_id": block.id, "name": block.name, "arguments": block.arguments}
        elif isinstance(block, Thought):
            yield from _thought(block, losses)
        else:
            losses.cannot(block.path)


def _thought(thought: Thought, losses: Losses) -> Iterator[Item]:
    """Reasoning that this provider signed; it would not know another's."""
    signature = opened("openai", thought.signature or thought.redacted)
    if signature is None or is_mark(signature):
        losses.hint(thought.path)
    else:
        summary = [{"type": "summary_text", "text": thought.text}] if thought.text else []
        yield {"type": "reasoning", "summary": summary, "encrypted_content": signature}


def _returned(result: Result, losses: Losses) -> str | list[Part]:
    """What a tool returned; that it failed is for the text to say."""
    tell_marks(result.content, losses)
    if result.is_error:
        losses.hint(f"{result.path}.is_error")
    if len(result.content) == 1 and isinstance(text := result.content[0], Text):
        return text.text
    return _parts(result.content, losses) or ""


def _parts(blocks: Sequence[Block], losses: Losses) -> list[Part]:
    return [part for block in blocks if (part := _part(block, losses)) is not None]


def _part(block: Block, losses: Losses) -> Part | None:
    if isinstance(block, Text):
        return {"type": "input_text", "text": block.text}
    if isinstance(block, Media):
        if block.text is not None:
            return {"type": "input_text", "text": text_of_document(block)}
        if block.kind == "image":
            place = {"image_url": url_of(block, "image/png")} if block.file_id is None else {"file_id": block.file_id}
            return {"type": "input_image", **place, **({"detail": block.detail} if block.detail else {})}
        if block.kind == "document":
            place = {"file_url": block.url} if block.url is not None else file_members(block)
            return {"type": "input_file", **place}
    losses.cannot(block.path)
    return None


# ── the other members ──


def _tool(tool: Tool, losses: Losses) -> dict[str, Any]:
    """A function. What is not said to be strict is not: here, silence would make it so."""
    if tool.cache:
        losses.hint(f"{tool.path}.cache_control")
    described = {} if tool.description is None else {"description": tool.description}
    strict = tool.strict or False
    return {"type": "function", "name": tool.name, **described, "parameters": arguments_schema(tool), "strict": strict}


def _text_form(prompt: Prompt) -> dict[str, Any]:
    text: dict[str, Any] = {}
    if prompt.output is not None:
        text["format"] = _format(prompt.output)
    if prompt.verbosity is not None:
        text["verbosity"] = prompt.verbosity
    return text


def _format(output: Output) -> dict[str, Any]:
    return {"type": "json_object"} if output.kind == "json" else {"type": "json_schema", "schema": {}, **schema_members(output)}


def _reasoning(prompt: Prompt, reasoning: Reasoning, losses: Losses) -> dict[str, Any]:
    members = {"effort": effort_of(prompt, losses), "summary": "auto" if reasoning.show else None}
    return {name: value for name, value in members.items() if value is not None}
