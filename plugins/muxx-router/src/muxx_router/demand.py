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
    "image": "vision",
    "input_audio": "audio",
    "file": "files",
    "input_file": "files",
    "document": "files",
}
"""Types of content, of chat completions, responses and messages, and what a model needs for them."""

INLINE = ("inlineData", "inline_data", "fileData", "file_data")
"""Where a part of Google's holds what is no text, or says where that is."""
KINDS = {"image": "vision", "audio": "audio"}
"""What its type says is needed; anything else is a file."""

WITHIN = ("content", "output", "source", "parts", "functionResponse", "function_response")
"""Members of an item in which pieces stand, those of tools' results among them."""
DEPTH = 4
"""How far down they stand: in a message, in a tool's result, in a document of pieces."""

LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "maxOutputTokens")
"""Where a request says how long the answer may get."""
CHOICES = ("n", "candidateCount", "candidate_count")

GENERATION = ("generationConfig", "generation_config")
"""Where Google's requests say such things, and which format they want."""
SCHEMAS = ("responseSchema", "response_schema", "responseJsonSchema", "response_json_schema")
MIME_TYPES = ("responseMimeType", "response_mime_type")

DEFINITIONS = ("tools", "functions", "response_format", "text", "output_config", "output_format")
"""Members that the model reads besides the texts. In `text` responses have the format."""

TRANSLATED = ("chat", "responses", "messages", "generate_content")
"""Endpoints at which any model that chats answers: where its provider has another one, muxx translates."""
UNANSWERED = ("embeddings", "count_tokens", "count_content")
"""Endpoints at which a model writes nothing."""


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
    generation = next((value for name in GENERATION if isinstance(value := body.get(name), dict)), {})
    read = [body[name] for name in DEFINITIONS if _is_read(operation, body, name)] + _of(generation, SCHEMAS)
    size = sum(map(_bytes, texts)) + sum(len(orjson.dumps(value)) for value in read)
    limit = next((value for value in _of(body, LIMITS) + _of(generation, LIMITS) if _is_count(value)), None)
    output = 0 if operation in UNANSWERED else limit or expected_output
    choices = next((value for value in _of(body, CHOICES) + _of(generation, CHOICES) if _is_count(value)), 1)
    tokens = math.ceil(size / bytes_per_token) + len(media) * media_tokens + _token_ids(body)
    return Demand(tokens, output, choices, limit, frozenset(_needs(operation, body, generation, media)))


def _needs(operation: str, body: Mapping[str, Any], generation: Mapping[str, Any], media: Iterable[str]) -> Iterator[str]:
    if operation not in TRANSLATED:
        yield operation
    if body.get("tools") or body.get("functions"):
        yield "tools"
    if _wants_json(body, generation):
        yield "json"
    yield from media


def _wants_json(body: Mapping[str, Any], generation: Mapping[str, Any]) -> bool:
    inner = (_member(body.get(name), "format") for name in ("text", "output_config"))
    formats = (body.get("response_format"), body.get("output_format"), *inner)
    if any(_member(form, "type") in ("json_object", "json_schema") for form in formats):
        return True
    return bool(_of(generation, SCHEMAS)) or "application/json" in _of(generation, MIME_TYPES)


def _media(body: Mapping[str, Any]) -> Iterator[str]:
    """What each piece that is no text needs."""
    for field in ("messages", "input", "contents"):
        yield from _media_in(body.get(field), DEPTH)


def _media_in(items: Any, depth: int) -> Iterator[str]:
    for item in items if isinstance(items, list) else (items,):
        kind = _need_of(item)
        if kind is not None:
            yield kind
        elif depth and isinstance(item, dict):
            for name in WITHIN:
                yield from _media_in(item.get(name), depth - 1)


def _need_of(piece: Any) -> str | None:
    kind = _member(piece, "type")
    if kind == "document" and _member(_member(piece, "source"), "type") in ("text", "content"):
        return None  # made of others, or a text
    if isinstance(kind, str) and kind in MEDIA:
        return MEDIA[kind]
    for held in (_member(piece, name) for name in INLINE):
        if isinstance(held, dict):
            said = next((value for name in ("mimeType", "mime_type") if isinstance(value := held.get(name), str)), "")
            return KINDS.get(said.partition("/")[0].lower(), "files")
    return None


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


def _of(holder: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """The values of these members, of those that say something."""
    return [value for name in names if (value := holder.get(name))]


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
