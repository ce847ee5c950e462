"""Base64 as Google's SDKs send it, and files that only Google can read."""

from __future__ import annotations

import re
from typing import Any

from ..prompt import MediaKind

_KINDS: dict[str, MediaKind] = {"image": "image", "audio": "audio", "video": "video"}
_FOR_URLS = str.maketrans("-_", "+/")
_GOOGLES = re.compile(r"gs://|https?://(?:[\w-]+\.)*googleapis\.com/|(?:https?://)?(?:www\.)?(?:youtube\.com|youtu\.be)/|files/")


def base64(text: str) -> str:
    """Base64 in the usual alphabet and with its padding; Google also takes that for URLs, which its Python SDK sends."""
    usual = text.translate(_FOR_URLS).rstrip("=")
    return usual + "=" * (-len(usual) % 4)


def kind_of(mime: Any) -> MediaKind:
    """The kind of media of a MIME type. What is neither image nor sound nor moving pictures is a document."""
    return _KINDS.get(mime.partition("/")[0].lower(), "document") if type(mime) is str else "document"


def is_googles(uri: str) -> bool:
    """A file of Google's storages, or a video on YouTube: nobody else can read the one, or knows what to do with the other."""
    return _GOOGLES.match(uri) is not None
