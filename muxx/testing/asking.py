"""Requests as clients write them: the endpoints, where each is called, and the least that each takes.

Google's endpoints have the model, and whether a stream is wanted, in their path. In muxx both are members of the parsed body as
everywhere else, so here a request is such a body until it is sent: `request_target` and `sent` say what stands on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

ENDPOINTS = {
    "chat": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "generate_content": "/v1beta/models/{model}:generateContent",
    "count_content": "/v1beta/models/{model}:countTokens",
}
"""Each endpoint by its name in rows and in `exchange.operation`, and the path at which clients call it; `request_target` puts a
model's name for `{model}`."""

MODELS = {
    "messages": "claude-3-5-haiku",
    "count_tokens": "claude-3-5-haiku",
    "generate_content": "gemini-1.5-flash",
    "count_content": "gemini-1.5-flash",
}
"""Models whose provider speaks the format of an endpoint, so that nothing is translated; all others: `MODEL`."""
MODEL = "gpt-4o"

PLAIN_ONLY = frozenset({"embeddings", "count_tokens", "count_content"})
"""Endpoints that do not stream."""

_STREAMING = ":streamGenerateContent"
_SUFFIXES = {
    **{path.removeprefix("/v1"): name for name, path in ENDPOINTS.items() if "{model}" not in path},
    ":generateContent": "generate_content",
    _STREAMING: "generate_content",
    ":countTokens": "count_content",
}


def model_for(endpoint: str) -> str:
    """A model that this endpoint reaches without a translation."""
    return MODELS.get(endpoint, MODEL)


def request_target(endpoint: str, model: str | None = None, *, stream: bool = False) -> str:
    """Path and query at which a client asks for an answer of this endpoint in this form."""
    path = ENDPOINTS[endpoint]
    if "{model}" not in path:
        return path
    if stream:
        path = path.replace(":generateContent", _STREAMING) + "?alt=sse"
    return path.replace("{model}", quote(model or model_for(endpoint), safe=""))


def endpoint_at(target: str) -> str:
    """The endpoint that a URL or request target leads to, at a provider or at muxx; `chat` for any other."""
    path = target.partition("?")[0]
    return next((name for suffix, name in _SUFFIXES.items() if path.endswith(suffix)), "chat")


def asks_for_stream(target: str, body: Mapping[str, Any]) -> bool:
    """Whether a request to this URL or target with this body wants its answer as a stream."""
    endpoint = endpoint_at(target)
    if endpoint == "generate_content":
        return target.partition("?")[0].endswith(_STREAMING)
    return body.get("stream") is True and endpoint not in PLAIN_ONLY


def model_asked(target: str, body: Mapping[str, Any]) -> str | None:
    """The model that a request to this URL or target with this body names."""
    found = re.search(r"/models/([^/:?]+):", target)
    named = unquote(found[1]) if found is not None else body.get("model")
    return named if isinstance(named, str) else None


def request_body(endpoint: str = "chat", content: str = "Hello", *, model: str | None = None, **members: Any) -> dict[str, Any]:
    """A request that an endpoint takes, as plugins see it; keyword arguments are further members of it, or take the place of
    these. Without a `model` it is one whose provider speaks the endpoint's format."""
    user = [{"role": "user", "content": content}]
    contents = [{"role": "user", "parts": [{"text": content}]}]
    asked: dict[str, dict[str, Any]] = {
        "chat": {"messages": user},
        "text_completion": {"prompt": content},
        "embeddings": {"input": content},
        "responses": {"input": content},
        "messages": {"max_tokens": 1024, "messages": user},
        "count_tokens": {"messages": user},
        "generate_content": {"contents": contents},
        "count_content": {"contents": contents},
    }
    return {"model": model or model_for(endpoint), **asked[endpoint], **members}


def sent(endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it stands on the wire: without what its path says."""
    in_path = ("model", "stream") if "{model}" in ENDPOINTS[endpoint] else ()
    return {name: value for name, value in body.items() if name not in in_path}
