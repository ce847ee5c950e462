"""What a request asks of a model: how many tokens it has, how many it wants, and what the model has to be able to do. Pure.

Tokens are estimated from bytes, for counting them exactly takes each model's own tokenizer. That is good enough to compare
prices, and the operator can make it cautious enough to compare with a context window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from muxx import Usage

MEDIA = {
    "image_url": "vision",
    "input_image": "vision",
    "input_audio": "audio",
    "file": "files",
    "input_file": "files",
}
"""Types of content, of chat completions and of responses, and what a model needs for them."""

LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""Where a request says how long the answer may get."""

DEFINITIONS = ("tools", "functions", "response_format", "text")
"""Members that the model reads besides the texts. In `text` responses have the format."""


@dataclass(frozen=True, slots=True)
class Demand:
    """`output_tokens` are of one choice. `limit` is what the request itself says of them."""

    input_tokens: int
    output_tokens: int
    choices: int
    limit: int | None
    needs: frozenset[str]

    @property
    def usage(self) -> Usage:
        """What it would be charged for."""
        return Usage(self.input_tokens, self.output_tokens * self.choices, source="estimated")


def demand_of(
    operation: str,
    body: Mapping[str, Any],
    texts: Iterable[str],
    *,
    expected_output: int,
    bytes_per_token: float,
    media_tokens: int,
) -> Demand:
    """The demand of a request with these texts. A limit that is no positive integer is the provider's to refuse."""
    media = list(_media(body))
    size = sum(map(_bytes, texts)) + sum(len(orjson.dumps(body[name])) for name in DEFINITIONS if _is_read(operation, body, name))
    limit = next((body[name] for name in LIMITS if _is_count(body.get(name))), None)
    output = 0 if operation == "embeddings" else limit or expected_output
    choices = body["n"] if _is_count(body.get("n")) else 1
    tokens = math.ceil(size / bytes_per_token) + len(media) * media_tokens + _token_ids(body)
    return Demand(tokens, output, choices, limit, frozenset(_needs(operation, body, media)))


def _needs(operation: str, body: Mapping[str, Any], media: Iterable[str]) -> Iterator[str]:
    if operation != "chat":
        yield operation
    if body.get("tools") or body.get("functions"):
        yield "tools"
    formats = (body.get("response_format"), _member(body.get("text"), "format"))
    if any(_member(form, "type") in ("json_object", "json_schema") for form in formats):
        yield "json"
    yield from media


def _media(body: Mapping[str, Any]) -> Iterator[str]:
    """What each piece that is no text needs."""
    for field in ("messages", "input"):
        items = body.get(field)
        for item in items if isinstance(items, list) else ():
            content = _member(item, "content")
            for piece in (item, *(content if isinstance(content, list) else ())):
                kind = _member(piece, "type")
                if isinstance(kind, str) and kind in MEDIA:
                    yield MEDIA[kind]


def _is_read(operation: str, body: Mapping[str, Any], name: str) -> bool:
    return bool(body.get(name)) and (name != "text" or operation == "responses")


def _token_ids(body: Mapping[str, Any]) -> int:
    """Prompts of completions and embeddings may be numbers: then they are tokens already."""
    count = 0
    for field in ("prompt", "input"):
        value = body.get(field)
        for entry in value if isinstance(value, list) else ():
            count += len(entry) if isinstance(entry, list) else type(entry) is int
    return count


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
