"""The endpoints the mock has, each as one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from . import chat, completions, embeddings, responses
from .answer import Answer, Asked, Choice


@dataclass(frozen=True, slots=True)
class Stream:
    """How an endpoint streams."""

    events: Callable[[Answer, Mapping[str, Any], bool], Iterator[bytes]]
    """The flag says whether the event that ends the stream is among them."""
    before: Callable[[Choice], int]
    """How many events come before the first piece of the first choice."""


@dataclass(frozen=True, slots=True)
class Format:
    """How an endpoint is asked, and how it answers. `stream` is None where it does not."""

    asked: Callable[[Mapping[str, Any]], Asked]
    """Raises `CannotAnswer` for what no provider would answer, as `plain` does."""
    plain: Callable[[Answer, Mapping[str, Any]], bytes]
    stream: Stream | None = None


FORMATS = {
    "/chat/completions": Format(chat.asked, chat.plain, Stream(chat.events, chat.events_before)),
    "/completions": Format(completions.asked, completions.plain, Stream(completions.events, completions.events_before)),
    "/embeddings": Format(embeddings.asked, embeddings.plain),
    "/responses": Format(responses.asked, responses.plain, Stream(responses.events, responses.events_before)),
}
"""By the path below a base URL; the longer of two that fit stands first."""


def format_at(url: str) -> Format | None:
    """The format of the endpoint at a URL, which a provider reads off the path as well. None for one there is not."""
    path = urlsplit(url).path
    return next((found for end, found in FORMATS.items() if path.endswith(end)), None)
