"""The content of messages: a string or parts, read into blocks. The two formats of OpenAI name their parts differently and mean
the same, so each part is read in either; what they write is their own.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from mimetypes import guess_type
from typing import Any
from urllib.parse import unquote_to_bytes

from ..members import expect, optional, wrong
from ..prompt import Block, Losses, Media, Refusal, Text

Part = dict[str, Any]

_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
PARAGRAPH = "\n\n"
"""Between texts that become one: a format's pieces of a message are paragraphs of it."""


def read_content(holder: Mapping[str, Any], path: str, losses: Losses) -> list[Text | Refusal | Media]:
    """The blocks of a `content`; none where it is null or absent. A part of an unknown type cannot be carried."""
    content = holder.get("content")
    return [] if content is None else read_parts(content, f"{path}.content", losses)


def read_parts(content: Any, path: str, losses: Losses) -> list[Text | Refusal | Media]:
    if type(content) is str:
        return [Text(content, path=path)]
    blocks: list[Text | Refusal | Media] = []
    for number, part in enumerate(expect(content, list, path)):
        place = f"{path}[{number}]"
        read = _PARTS.get(str(expect(part, dict, place).get("type")))
        if read is None:
            losses.cannot(place)
            continue
        blocks.append(read(part, place, losses))
        for name in sorted(part.keys() - _MEMBERS):
            if part[name]:
                losses.hint(f"{place}.{name}")
    return blocks


def read_texts(holder: Mapping[str, Any], path: str, losses: Losses) -> list[Text]:
    """The blocks of a `content` that may hold nothing but text."""
    texts: list[Text] = []
    for block in read_content(holder, path, losses):
        if isinstance(block, Text):
            texts.append(block)
        else:
            losses.cannot(block.path)
    return texts


def cache_of(holder: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """A prompt-cache marker: in Anthropic's words, as OpenRouter's clients send it, or in OpenAI's own."""
    if (marker := optional(holder, "cache_control", dict, path)) is not None:
        return marker
    return None if optional(holder, "prompt_cache_breakpoint", dict, path) is None else {"type": "ephemeral"}


def _text(part: Part, path: str, losses: Losses) -> Text:
    if part.get("annotations"):
        losses.hint(f"{path}.annotations")
    return Text(expect(part.get("text"), str, f"{path}.text"), cache_of(part, path), path)


def _refusal(part: Part, path: str, losses: Losses) -> Refusal:
    return Refusal(expect(part.get("refusal"), str, f"{path}.refusal"), path)


def _linked(kind: Any) -> Callable[[Part, str, Losses], Media]:
    """A part whose member of the same name holds a `url`, or is one."""

    def read(part: Part, path: str, losses: Losses) -> Media:
        name = f"{kind}_url"
        link = part.get(name)
        link = {"url": link} if type(link) is str else expect(link, dict, f"{path}.{name}")
        detail, cache = optional(link, "detail", str, path), cache_of(part, path)
        media = Media(kind, detail=detail, detail_at=f"{name}.detail", cache=cache, path=path)
        return _at(media, expect(link.get("url"), str, f"{path}.{name}.url"))

    return read


def _input_image(part: Part, path: str, losses: Losses) -> Media:
    media = Media("image", detail=optional(part, "detail", str, path), cache=cache_of(part, path), path=path)
    if (url := optional(part, "image_url", str, path)) is not None:
        return _at(media, url)
    media.file_id = expect(part.get("file_id"), str, f"{path}.file_id")
    return media


def _input_audio(part: Part, path: str, losses: Losses) -> Media:
    audio = expect(part.get("input_audio"), dict, f"{path}.input_audio")
    form = expect(audio.get("format"), str, f"{path}.input_audio.format")
    data = expect(audio.get("data"), str, f"{path}.input_audio.data")
    return Media("audio", _AUDIO.get(form, f"audio/{form}"), data, cache=cache_of(part, path), path=path)


def _file(part: Part, path: str, losses: Losses) -> Media:
    """Chat's file, whose members stand in one of their own."""
    inner = expect(part.get("file"), dict, f"{path}.file")
    return _document(inner, f"{path}.file", Media("document", name_at="file.filename", cache=cache_of(part, path), path=path))


def _input_file(part: Part, path: str, losses: Losses) -> Media:
    return _document(part, path, Media("document", cache=cache_of(part, path), path=path))


def _document(holder: Mapping[str, Any], path: str, media: Media) -> Media:
    media.name = optional(holder, "filename", str, path)
    if (data := optional(holder, "file_data", str, path)) is not None:
        if data.startswith("data:"):
            return _at(media, data)
        media.mime = guess_type(media.name or "")[0] or "application/pdf"
        media.data = data
    elif (url := optional(holder, "file_url", str, path)) is not None:
        return _at(media, url)
    elif (file_id := optional(holder, "file_id", str, path)) is not None:
        media.file_id = file_id
    else:
        raise wrong(path, "Give the file's data, or its id.")
    return media


_PARTS: dict[str, Callable[[Part, str, Losses], Text | Refusal | Media]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "image_url": _linked("image"),
    "video_url": _linked("video"),
    "input_image": _input_image,
    "input_audio": _input_audio,
    "file": _file,
    "input_file": _input_file,
}


_MEMBERS = frozenset({"type", "cache_control", "prompt_cache_breakpoint", "logprobs"}) | _PARTS.keys() | {
    "annotations", "detail", "filename", "file_data", "file_url", "file_id",
}  # fmt: skip
"""What is read of parts, mostly under the name of their type, and the probabilities of an earlier turn's tokens, which say
nothing to a model. All else is told as dropped."""


def _at(media: Media, url: str) -> Media:
    """Media at a URL, which may hold all of it (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma:
        media.url = url
        return media
    mime, *parameters = head.removeprefix("data:").split(";")
    media.mime = mime or None
    media.data = data if "base64" in parameters else b64encode(unquote_to_bytes(data)).decode()
    return media


def url_of(media: Media, mime: str) -> str:
    """The URL of media, of which its data is one; `mime` is what it is where nobody said."""
    return media.url if media.url is not None else f"data:{media.mime or mime};base64,{media.data}"


def audio_part(media: Media, losses: Losses) -> Part | None:
    """Sound, which has to be there itself, not a link to it."""
    if media.data is None or media.mime is None or not media.mime.startswith("audio/"):
        losses.cannot(media.path)
        return None
    form = _FORMATS.get(media.mime) or media.mime.removeprefix("audio/")
    return {"type": "input_audio", "input_audio": {"data": media.data, "format": form}}


def text_of_document(media: Media) -> str:
    """A document that is text, under its title."""
    return f"{media.name}{PARAGRAPH}{media.text}" if media.name else media.text or ""


def joined(texts: Iterable[str], between: str = PARAGRAPH) -> str:
    return between.join(text for text in texts if text)


def tell_marks(blocks: Iterable[Block], losses: Losses) -> None:
    """Prompt-cache markers: providers of these formats cache by themselves."""
    for block in blocks:
        if not isinstance(block, Refusal) and getattr(block, "cache", None):
            losses.hint(f"{block.path}.cache_control")
