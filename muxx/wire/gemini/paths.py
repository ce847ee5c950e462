"""Where the model and what is asked of it stand in a path, and how they get into a provider's. And the body, without them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from orjson import dumps

from ..fields import CONTROL

ACTIONS = frozenset({"generateContent", "streamGenerateContent", "countTokens"})

_PATH = re.compile(r"/v1(?:beta)?/models/((?:[A-Za-z0-9\-._~!$&'()*+,=:@/]|%[0-9A-Fa-f]{2})+):([A-Za-z]+)")
_NAMES = "models/"
_IN_THE_PATH = ("model", "stream")


def path_of(path: str) -> tuple[str, str] | None:
    """The model and the action of a raw path without query; None for any other path.

    Escapes are decoded once, and only in the model, which may hold slashes. A name with an empty segment, `.`, `..` or control
    characters is no model's: whoever sends one means another path.
    """
    found = _PATH.fullmatch(path)
    if found is None or found[2] not in ACTIONS:
        return None
    try:
        model = unquote(found[1], errors="strict").removeprefix(_NAMES)
    except UnicodeDecodeError:
        return None
    if CONTROL.search(model) or not {"", ".", ".."}.isdisjoint(model.split("/")):
        return None
    return model, found[2]


def upstream_url(base_url: str, model: str, stream: bool) -> str:
    """Where a provider generates content. Whatever the model's name is, it stays one segment of the path."""
    action = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"{base_url}/models/{_segment(model)}:{action}"


def count_url(base_url: str, model: str, stream: bool = False) -> str:
    """Where a provider counts tokens."""
    return f"{base_url}/models/{_segment(model)}:countTokens"


def _segment(model: str) -> str:
    return quote(model.removeprefix(_NAMES), safe="")


def payload(body: dict[str, Any]) -> bytes:
    """The body as it is sent up: without what stands in the path."""
    return dumps({name: value for name, value in body.items() if name not in _IN_THE_PATH})


def count_payload(body: dict[str, Any]) -> bytes:
    """As `payload`. A whole request whose tokens are to be counted names its model once more: it is the one in the path."""
    inner = "generateContentRequest" if "generateContentRequest" in body else "generate_content_request"
    request = body.get(inner)
    if type(request) is dict:
        body = {**body, inner: {**request, "model": f"{_NAMES}{body.get('model')}"}}
    return payload(body)
