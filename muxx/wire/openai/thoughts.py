"""Reasoning and signatures in chat completions, which have no words of OpenAI's for them, but those of its neighbours.

Text of reasoning is `reasoning_content` (DeepSeek's word) or `reasoning`. What a provider wants back with it is an entry of
`reasoning_details`, as OpenRouter's clients know it: `{"type": "reasoning.text", "text", "signature", "index"}`, or with no text
`{"type": "reasoning.encrypted", "data", "index"}`. An entry holds all of its thought, so a client that sends it back sends back
text and signature together. What belongs to a call, or to the text, is `extra_content.google.thought_signature` beside it, as on
Google's endpoint of this format.

Towards a provider of this format the way is the same, but only it knows its reasoning again: the reader signs it (`field_mark`,
`entry_mark`) with the name under which it came, or with the entry it came in, and the writer puts it there again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from orjson import JSONDecodeError, dumps, loads

from ...reply import Chunk
from ..members import expect, optional
from ..prompt import Losses, Thought
from ..seals import opened

TEXT_FIELDS = ("reasoning_content", "reasoning")
_TEXT, _ENCRYPTED, _SUMMARY = "reasoning.text", "reasoning.encrypted", "reasoning.summary"


def text_of_entry(entry: dict[str, Any]) -> str:
    """The text in an entry of `reasoning_details`."""
    text = entry.get("summary" if entry.get("type") == _SUMMARY else "text")
    return text if type(text) is str else ""


def entry_mark(entry: dict[str, Any]) -> str | None:
    """The signature of a thought that came in this entry: all of it but the text. None for one that only has text."""
    if not (entry.get("signature") or entry.get("data")):
        return None
    return dumps({name: value for name, value in entry.items() if name not in ("text", "summary")}).decode()


def is_mark(value: str) -> bool:
    """The signature is a chat provider's, which no other endpoint of OpenAI's can read."""
    return value in TEXT_FIELDS or value.startswith("{")


def extra_of(signature: str) -> dict[str, Any]:
    """The `extra_content` that tells the signature of a call or a text."""
    return {"google": {"thought_signature": signature}}


class Thoughts:
    """The thoughts of one choice while they are written for a client."""

    __slots__ = ("_told", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        """The text since the last signature."""
        self._told = 0

    def entry(self, chunk: Chunk) -> dict[str, Any] | None:
        """The entry with which a thought ends, at a Chunk of reasoning that has a signature."""
        if chunk.text:
            self.pieces.append(chunk.text)
        if chunk.signature is None:
            return None
        text, number = "".join(self.pieces), self._told
        self.pieces.clear()
        self._told += 1
        if not text:
            return {"type": _ENCRYPTED, "data": chunk.signature, "index": number}
        return {"type": _TEXT, "text": text, "signature": chunk.signature, "index": number}


class Signatures:
    """The signatures of a plain answer, of all its choices."""

    __slots__ = ("_calls", "_entries", "_texts", "_thoughts")

    def __init__(self) -> None:
        self._thoughts: dict[int, Thoughts] = {}
        self._entries: dict[int, list[dict[str, Any]]] = {}
        self._texts: dict[int, str] = {}
        self._calls: dict[tuple[int, int], str] = {}

    def take(self, chunk: Chunk) -> None:
        if chunk.kind == "reasoning":
            if (entry := self._thoughts.setdefault(chunk.index, Thoughts()).entry(chunk)) is not None:
                self._entries.setdefault(chunk.index, []).append(entry)
        elif chunk.signature is not None and chunk.tool_call is not None:
            self._calls[chunk.index, chunk.tool_call.index] = chunk.signature
        elif chunk.signature is not None:
            self._texts[chunk.index] = chunk.signature

    def put(self, message: dict[str, Any], index: int, calls: Iterable[int]) -> None:
        """Write those of a choice into its message, whose calls have these indexes."""
        if index in self._entries:
            message["reasoning_details"] = self._entries[index]
        if index in self._texts:
            message["extra_content"] = extra_of(self._texts[index])
        for call, made in zip(calls, message.get("tool_calls", ()), strict=True):
            if (signature := self._calls.get((index, call))) is not None:
                made["extra_content"] = extra_of(signature)


def read_thoughts(message: dict[str, Any], path: str) -> Iterator[Thought]:
    """The thoughts of an earlier turn. Where details hold text, a text beside them is the same once more."""
    plain = next((text for name in TEXT_FIELDS if (text := optional(message, name, str, path))), "")
    entries = optional(message, "reasoning_details", list, path) or []
    places = [f"{path}.reasoning_details[{number}]" for number in range(len(entries))]
    thoughts = [_thought(expect(entry, dict, place), place) for entry, place in zip(entries, places, strict=True)]
    if plain and not any(thought.text for thought in thoughts):
        if len(thoughts) == 1:
            thoughts[0].text = plain
        else:
            yield Thought(plain, path=f"{path}.reasoning_content")
    yield from thoughts


def _thought(entry: dict[str, Any], path: str) -> Thought:
    signature = optional(entry, "data" if entry.get("type") == _ENCRYPTED else "signature", str, path)
    return Thought(text_of_entry(entry), signature, path=path)


def put_thought(message: dict[str, Any], thought: Thought, losses: Losses) -> None:
    """Give a provider its own thought back. Another's, and one nobody signed, it would not know: they are left out."""
    value = opened("openai", thought.signature or thought.redacted)
    if value in TEXT_FIELDS:
        message[value] = message.get(value, "") + thought.text
    elif (entry := _entry(value)) is not None:
        if entry.get("type") != _ENCRYPTED:
            entry["summary" if entry.get("type") == _SUMMARY else "text"] = thought.text
        message.setdefault("reasoning_details", []).append(entry)
    else:
        losses.hint(thought.path)


def _entry(value: str | None) -> dict[str, Any] | None:
    """The entry in a signature, which a client may have made up."""
    if value is None or not value.startswith("{"):
        return None
    try:
        entry = loads(value)
    except JSONDecodeError:
        return None
    return entry if type(entry) is dict else None


def signature_in(holder: dict[str, Any]) -> str | None:
    """What `extra_content` says of a call or a text."""
    extra: Any = holder.get("extra_content")
    google: Any = extra.get("google") if type(extra) is dict else None
    signature = google.get("thought_signature") if type(google) is dict else None
    return signature if type(signature) is str and signature else None
