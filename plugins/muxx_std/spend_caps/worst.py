"""The most a request may cost, before anybody knows what it does.

Input: a token is a byte at least, so there are no more than bytes in the body, nor than the model's context holds, once for each
text that is read by itself; where the provider adds what the body only names (a picture by its address, a stored conversation,
what a search finds), the whole context.
Output: what the request allows, else what the model can, for each answer asked for. Each is priced as the dearest kind of token
it could turn out to be.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from muxx import Usage, asked_output

from .sizes import Sizes, sizes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxx import Attempt, Cost, Target

FREE = ("count_tokens", "count_content")
"""Operations that only count cost nothing."""

_TEXTS = {"embeddings": "input", "text_completion": "prompt"}
"""Operations that take several texts at once, and where those stand: each is read by itself, and may fill a context."""

_ADDED = (
    b'"file_id":', b'"fileUri":', b'"file_uri":', b'"cachedContent":', b'"cached_content":', b'"previous_response_id":"',
    b'"conversation":', b'"prompt":{', b'"type":"file"', b'"type":"continue"', b'"container":',
)  # fmt: skip
"""What names something that the provider adds. In a text, JSON writes a quotation mark with a backslash before it."""

_HOLDS_ADDRESS = (b"url", b"image_url", b"file_url", b"file_data")
_ADDRESS = re.compile(rb'"(?:%b)":" *(?i:https?:|gs:)' % b"|".join(_HOLDS_ADDRESS))
"""So does an address, where it is none of data. To whoever fetches it, HTTP: is http:."""

_WORDS = frozenset({*_HOLDS_ADDRESS, *(mark.split(b'"')[3 if mark.startswith(b'"type":') else 1] for mark in _ADDED)})
"""Without any of these between quotation marks there is none of those. To look for each of them takes many times as long."""

_RESEARCHES = "sonar-deep-research"
"""Perplexity's model that searches unasked, and whose thoughts no `max_tokens` bounds."""

_FOR_AN_HOUR = b'"ttl":"1h"'
"""How Anthropic is asked to keep what it caches for longer, which costs more."""

_MEDIUM = re.compile(rb'"(?<!\\")(?:data:|input_)?(?i:(audio|image|video))(?:_url)?["/]')
"""How media are named in every format: a part's type or its media type, and what an answer is to be."""
_SAYS_WHAT = (b'"mimeType":', b'"mime_type":')

MEDIA = frozenset({"audio", "image", "video"})
"""Kinds of tokens that some models price apart, as `Usage` names them."""

_OWN_TOOLS = ("function", "custom", None)
_DECLARATIONS = frozenset({"functionDeclarations", "function_declarations"})


class Most(NamedTuple):
    """Tokens."""

    input: int
    output: int
    for_an_hour: int = 0
    """Those of the input that may be written to a cache that keeps them for so long."""
    media: frozenset[str] = frozenset()
    """What they may be of beside text."""


def most_of(attempt: Attempt, operation: str) -> Most:
    """The most tokens of an attempt."""
    if operation in FREE:
        return Most(0, 0)
    body, sizes = attempt.body, sizes_of(attempt.target.provider.vendor, attempt.target.model)
    payload = orjson.dumps(body)
    adds = _adds(payload)
    media = _media_in(payload, adds)
    if _RESEARCHES in attempt.target.model.lower():
        return Most(sizes.context, max(_most_output(body, sizes), sizes.output), media=media)
    room = sizes.context * _texts(body.get(_TEXTS.get(operation, "")))
    most_input = room if adds or _has_provider_tools(body) else min(len(payload), room)
    most_output = 0 if operation == "embeddings" else _most_output(body, sizes)
    return Most(most_input, most_output, most_input if _FOR_AN_HOUR in payload else 0, media)


def _texts(value: Any) -> int:
    """How many texts there are; a list of numbers is one, in tokens."""
    return len(value) if type(value) is list and value and type(value[0]) is not int else 1


def _adds(payload: bytes) -> bool:
    """Whether it names something that the provider adds."""
    if _WORDS.isdisjoint(payload.split(b'"')):
        return False
    return any(mark in payload for mark in _ADDED) or _ADDRESS.search(payload) is not None


def _most_output(body: dict[str, Any], sizes: Sizes) -> int:
    asked = asked_output(body)
    return (asked.tokens or sizes.output) * asked.choices


def _has_provider_tools(body: dict[str, Any]) -> bool:
    """Whether it offers tools that the provider runs itself, and reads the results of."""
    if body.get("web_search_options") is not None or body.get("plugins"):
        return True
    tools = body.get("tools")
    return isinstance(tools, list) and any(isinstance(tool, dict) and not _is_own(tool) for tool in tools)


def _is_own(tool: dict[str, Any]) -> bool:
    """A tool that the caller runs: OpenAI's functions, Anthropic's with a schema, Google's declarations."""
    if "input_schema" in tool or tool.keys() & _DECLARATIONS:
        return not tool.keys() - _DECLARATIONS - {"name", "description", "input_schema", "cache_control", "type", "strict"}
    return "type" in tool and tool["type"] in _OWN_TOOLS


def worst_case(price: Callable[[Target, Usage], Cost | None], attempt: Attempt, operation: str) -> int | None:
    """The most an attempt may cost, in pico-dollars; None when the model's price is unknown."""
    tokens = most_of(attempt, operation)
    if not any(tokens):
        return 0
    kinds = _in_tiers([*_as_text(tokens), *_as_media(tokens)], attempt.body)
    return _dearest([price(attempt.target, usage) for usage in kinds])


def _dearest(costs: list[Cost | None]) -> int | None:
    """The most that input and output come to, each as the kind of token that costs most there."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    return max(cost.input_pico for cost in known) + max(cost.output_pico for cost in known)


def _as_text(tokens: Most) -> list[Usage]:
    """All that the tokens of a text could turn out to be, plain, or read from a cache, or written to one, and those of its
    answer: plain, thought, or of a picture or a video, for who makes those does so unasked."""
    read, made = tokens.input, tokens.output
    kinds = [
        Usage(read, made),
        Usage(read, made, cache_write_tokens=read, reasoning_tokens=made),
        Usage(read, made, cache_read_tokens=read, output_image_tokens=made),
        Usage(read, made, output_video_tokens=made),
    ]
    if tokens.for_an_hour:
        kinds.append(Usage(read, made, cache_write_tokens=read, cache_write_1h_tokens=tokens.for_an_hour))
    return kinds


def _as_media(tokens: Most) -> list[Usage]:
    """What they could turn out to be where a medium is given, or asked for: nobody speaks unasked."""
    if not tokens.media:
        return []
    read, made = tokens.input, tokens.output
    kinds = {
        "audio": Usage(read, made, input_audio_tokens=read, output_audio_tokens=made),
        "image": Usage(read, made, input_image_tokens=read),
        "video": Usage(read, made, input_video_tokens=read),
    }
    return [kinds[medium] for medium in tokens.media]


def _media_in(payload: bytes, adds: bool) -> frozenset[str]:
    """The media that the body holds or asks for; all, where it only names something and does not say what that is. A video has
    sound too."""
    if adds and not any(member in payload for member in _SAYS_WHAT):
        return MEDIA
    named = frozenset(medium.decode().lower() for medium in _MEDIUM.findall(payload))
    return named | {"audio"} if "video" in named else named


def _in_tiers(kinds: list[Usage], body: dict[str, Any]) -> list[Usage]:
    """The same in the service tier that is asked for too."""
    for tier in (body.get("service_tier"), body.get("serviceTier"), body.get("speed")):
        if isinstance(tier, str):
            named = "priority" if tier == "auto" else tier.lower()
            kinds = kinds + [usage._replace(service_tier=named) for usage in kinds]
    return kinds
