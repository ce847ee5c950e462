"""Requests of Google's format and prompts, there and back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from muxx.errors import InvalidRequest
from muxx.wire.gemini import read_prompt, write_prompt
from muxx.wire.prompt import Losses, Prompt, Text, Turn

USER = {"role": "user", "parts": [{"text": "hi"}]}


def read(**more: Any) -> tuple[Prompt, Losses]:
    """A request with these members, and what of it others cannot say."""
    losses = Losses("openai")
    return read_prompt({"model": "m", "stream": False, "contents": [USER], **more}, losses), losses


def written(prompt: Prompt) -> tuple[dict[str, Any], Losses]:
    """A prompt as a request, and what of it Google's format cannot say."""
    losses = Losses("gemini")
    return write_prompt(prompt, losses), losses


def refused(losses: Losses) -> str | None:
    """The first place that cannot be carried."""
    try:
        losses.check()
    except InvalidRequest as error:
        return error.param
    return None


def asking(*blocks: Any, **more: Any) -> Prompt:
    return Prompt("gemini-2.5-flash", turns=[Turn("user", list(blocks) or [Text("hi")])], **more)


def bare(value: Any) -> Any:
    """A value without the places it came from."""
    if is_dataclass(value) and not isinstance(value, type):
        names = [entry.name for entry in fields(value)]
        return type(value).__name__, {name: bare(getattr(value, name)) for name in names if name not in ("path", "places")}
    if isinstance(value, list | tuple):
        return [bare(entry) for entry in value]
    return value
