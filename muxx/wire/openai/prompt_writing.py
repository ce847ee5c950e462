"""A `Prompt` as a request of chat completions, in the words that OpenAI's compatible servers know too.

A message that is nothing but text goes as one string, its texts as paragraphs: some servers take no parts there. System prompts
are role `system` and the most of tokens is `max_tokens`, but for the models that only take `max_completion_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..prompt import Block, Call, Losses, Media, Output, Prompt, Reasoning, Refusal, Result, Text, Thought, Tool, Turn
from ..seals import opened
from .content import Part, audio_part, joined, tell_marks, text_of_document, url_of
from .thoughts import extra_of, put_thought

_REASONS = re.compile(r"(?:.*/)?(?:gpt-(?:[5-9]|[1-9]\d)|o\d)")
"""Names of OpenAI's models that reason: o1, o3-mini, gpt-5 and later."""

_LEAST_EFFORTS = (
    (re.compile(r"(?:ft:|.*/)?(?:gpt-[34]|chatgpt-|gpt-5[\d.]*-chat)"), False, None),
    (re.compile(r"(?:ft:|.*/)?(?:o1-mini|o1-preview|gpt-5[\d.]*-pro)"), True, None),
    (re.compile(r"(?:ft:|.*/)?(?:o\d|gpt-oss|gpt-5[\d.]*-codex)"), True, "low"),
    (re.compile(r"(?:ft:|.*/)?gpt-5(?![\d.])"), True, "minimal"),
)
"""OpenAI's models that refuse the effort `none`, which GPT-5.1 brought: whether they reason, and the least effort they take."""

_LONGEST_USER = 64
"""Characters; OpenAI refuses longer names of end users."""

_EFFORTS = ((1, "none"), (2048, "low"), (8192, "medium"))
"""Budgets below these are these efforts; a larger one is high. Each effort's own budget (low 1024, medium 4096, high 16384
tokens) comes back as that effort."""

_SILENCE = {"role": "assistant", "content": ""}

_AS_THEY_ARE = ("temperature", "top_p", "n", "seed", "frequency_penalty", "presence_penalty", "verbosity")


def write_prompt(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The request's body. What it cannot say is told to `losses`."""
    tell_marks(prompt.system, losses)
    messages = [{"role": "system", "content": _text(prompt.system, losses)}] if prompt.system else []
    messages += [message for turn in prompt.turns for message in _messages(turn, losses)]
    body: dict[str, Any] = {"model": prompt.model, "messages": messages}
    if prompt.stream:
        body["stream"] = True
    if prompt.max_tokens is not None:
        body["max_completion_tokens" if reasons(prompt.model) else "max_tokens"] = prompt.max_tokens
    body |= {name: value for name in _AS_THEY_ARE if (value := getattr(prompt, name)) is not None}
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.tools:
        body["tools"] = [_tool(tool, losses) for tool in prompt.tools]
    if (choice := prompt.choice(losses)) is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        body["tool_choice"] = named if choice.mode == "named" else choice.mode
    if prompt.parallel_tool_calls is not None and prompt.tools:
        body["parallel_tool_calls"] = prompt.parallel_tool_calls
    if prompt.output is not None:
        body["response_format"] = _format(prompt.output)
    if (effort := effort_of(prompt, losses)) is not None:
        body["reasoning_effort"] = effort
    body |= write_hints(prompt, losses)
    tell_unsayable(prompt, losses)
    return body


def reasons(model: str) -> bool:
    """By its name the model is one of OpenAI's that reason."""
    return _REASONS.match(model) is not None


def effort_of(prompt: Prompt, losses: Losses) -> str | None:
    """How much to think, in OpenAI's words; None where nothing was said of it, or nothing need or can be said to the model."""
    effort = asked_effort(prompt.reasoning or Reasoning())
    if effort != "none":
        return effort
    for names, thinks, least in _LEAST_EFFORTS:
        if names.match(prompt.model):
            if thinks:
                losses.hint(prompt.place("reasoning"))
            return least
    return effort


def asked_effort(reasoning: Reasoning) -> str | None:
    """How much the request asks to think, in those words, whatever the model takes."""
    if reasoning.effort is not None or reasoning.budget is None:
        return reasoning.effort
    return next((effort for below, effort in _EFFORTS if reasoning.budget < below), "high")


def write_hints(prompt: Prompt, losses: Losses) -> dict[str, Any]:
    """The members that do not change the answer, as far as OpenAI takes them."""
    body: dict[str, Any] = {}
    if prompt.user is not None:
        if len(prompt.user) <= _LONGEST_USER:
            body["user"] = prompt.user
        else:
            losses.hint(prompt.place("user"))
    if prompt.service_tier in ("auto", "default", "flex", "scale", "priority"):
        body["service_tier"] = prompt.service_tier
    elif prompt.service_tier is not None:
        losses.hint(prompt.place("service_tier"))
    return body


def tell_unsayable(prompt: Prompt, losses: Losses, names: Sequence[str] = ()) -> None:
    """Tell of members that the format has no words for: those of these names, and what none of OpenAI's has."""
    for name in ("top_k", "logprobs", "top_logprobs", *names):
        if getattr(prompt, name):
            losses.cannot(prompt.place(name))


# ── messages ──


def _messages(turn: Turn, losses: Losses) -> Iterator[dict[str, Any]]:
    tell_marks(turn.blocks, losses)
    if turn.role == "assistant":
        message = _said(turn, losses)
        if message != _SILENCE or not all(isinstance(block, Thought) for block in turn.blocks):
            yield _named(turn, message)  # but for a turn of nothing but thoughts that cannot be told
        return
    results = [block for block in turn.blocks if isinstance(block, Result)]
    rest = [block for block in turn.blocks if not isinstance(block, Result)]
    for result in results:  # they have to stand right behind the calls
        yield {"role": "tool", "tool_call_id": result.id, "content": _returned(result, losses)}
    if turn.role == "system":
        yield {"role": "system", "content": _text(rest, losses)}
    elif rest or not results:
        yield _named(turn, {"role": "user", "content": _content(rest, losses)})


def _named(turn: Turn, message: dict[str, Any]) -> dict[str, Any]:
    return message if turn.name is None else {**message, "name": turn.name}


def _said(turn: Turn, losses: Losses) -> dict[str, Any]:
    """The assistant's turn. The format has text before calls: a text that stood behind one moves up."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    text: list[str] = []
    for block in turn.blocks:
        if isinstance(block, Text):
            text.append(block.text)
            if "tool_calls" in message:
                losses.hint(block.path)
            if block.signature is not None:
                message |= _extra(block, losses)
        elif isinstance(block, Refusal):
            message["refusal"] = message.get("refusal", "") + block.text
        elif isinstance(block, Thought):
            put_thought(message, block, losses)
        elif isinstance(block, Call):
            function = {"name": block.name, "arguments": block.arguments}
            call = {"id": block.id, "type": "function", "function": function, **_extra(block, losses)}
            message.setdefault("tool_calls", []).append(call)
        else:
            losses.cannot(block.path)
    if text or not message.keys() & {"refusal", "tool_calls"}:
        message["content"] = "".join(text)
    return message


def _extra(block: Text | Call, losses: Losses) -> dict[str, Any]:
    """A signature that this provider gave; another's it would not know."""
    value = opened("openai", block.signature)
    if value is not None:
        return {"extra_content": extra_of(value)}
    if block.signature is not None:
        losses.hint(f"{block.path}.signature")
    return {}


def _returned(result: Result, losses: Losses) -> str:
    """What a tool returned, which is text only; that it failed is for the text to say."""
    tell_marks(result.content, losses)
    if result.is_error:
        losses.hint(f"{result.path}.is_error")
    return _text(result.content, losses)


def _text(blocks: Sequence[Block], losses: Losses) -> str:
    """Content that may hold nothing but text."""
    texts: list[str] = []
    for block in blocks:
        if isinstance(block, Text):
            texts.append(block.text)
        elif isinstance(block, Media) and block.text is not None:
            texts.append(text_of_document(block))
        else:
            losses.cannot(block.path)
    return joined(texts)


def _content(blocks: Sequence[Block], losses: Losses) -> str | list[Part]:
    if not any(isinstance(block, Media) and block.text is None for block in blocks):
        return _text(blocks, losses)
    return [part for block in blocks if (part := _part(block, losses)) is not None] or ""


def _part(block: Block, losses: Losses) -> Part | None:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    if isinstance(block, Media):
        if block.text is not None:
            return {"type": "text", "text": text_of_document(block)}
        if block.kind == "audio":
            return audio_part(block, losses)
        if block.kind == "image" and block.file_id is None:
            image = {"url": url_of(block, "image/png")}
            return {"type": "image_url", "image_url": {**image, "detail": block.detail} if block.detail else image}
        if block.kind == "document" and block.url is None:
            return {"type": "file", "file": file_members(block)}
    losses.cannot(block.path)
    return None


def file_members(media: Media) -> dict[str, Any]:
    """A document: its id, or its data under a name, which OpenAI wants."""
    if media.file_id is not None:
        return {"file_id": media.file_id}
    return {"file_data": url_of(media, "application/pdf"), "filename": media.name or "document.pdf"}


# ── tools and the answer's form ──


def _tool(tool: Tool, losses: Losses) -> dict[str, Any]:
    if tool.cache:
        losses.hint(f"{tool.path}.cache_control")
    members = {"description": tool.description, "parameters": arguments_schema(tool), "strict": tool.strict}
    function = {"name": tool.name, **{name: value for name, value in members.items() if value is not None}}
    return {"type": "function", "function": function}


def arguments_schema(tool: Tool) -> dict[str, Any] | None:
    """OpenAI takes no object that says nothing of its properties, as Anthropic, Google and MCP have it for tools without any."""
    schema = tool.parameters
    if schema is None or schema.get("type") != "object" or "properties" in schema:
        return schema
    return {**schema, "properties": {}}


def _format(output: Output) -> dict[str, Any]:
    if output.kind == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": schema_members(output)}


def schema_members(output: Output) -> dict[str, Any]:
    """A schema and its name, which OpenAI wants."""
    members = {"description": output.description, "schema": output.schema, "strict": output.strict}
    return {"name": output.name or "answer", **{name: value for name, value in members.items() if value is not None}}
