"""An answer of chat completions for a client of another format: Chunks without bytes, in the order that other formats need.

Reasoning comes before what follows from it and ends with its mark (see `thoughts`), calls come one after the other, a choice
finishes once: the first with the `end`, for some providers say more after its finish reason, and others repeat it. What such an
answer may hold and Chunks cannot is told in `lost`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import UpstreamError, UpstreamTruncated
from ...money import Usage
from ...reply import Chunk
from .answer import text_of, whole_answer
from .calls import Calls
from .thoughts import TEXT_FIELDS, entry_mark, signature_in, text_of_entry
from .usage import read_usage

_REASONS = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
    "function_call": "tool_calls", "model_length": "length", "max_tokens": "length",
}  # fmt: skip
"""Why a choice finished, in each provider's words. All others are a `stop`."""

_FAILURES = {"error", "insufficient_system_resource"}
"""Finish reasons of answers that have broken off."""

_LOST = {
    "annotations": "citations", "citations": "citations", "search_results": "citations", "images": "images", "audio": "audio",
    "function_call": "function_call",
}  # fmt: skip
"""Members of a delta, or of the answer, that have no counterpart."""


class _Choice:
    """What is known of a choice while it is read."""

    __slots__ = ("calls", "index", "mark", "said", "thought")

    def __init__(self, index: int, lost: set[str]) -> None:
        self.index = index
        self.calls = Calls(index, lost)
        self.mark: str | None = None
        """What the reasoning that has come is to be signed with."""
        self.thought = False
        """Reasoning has come under a name of its own, so details only repeat it."""
        self.said: str | None = None
        """Why it finished, as the provider says."""

    @property
    def reason(self) -> str:
        """Why it finished: with calls, if it made some and was not cut short, whatever the provider calls that."""
        known = _REASONS.get(self.said or "", "stop")
        return known if known in ("length", "content_filter") else "tool_calls" if len(self.calls) else "stop"


class ChatReader:
    """Reads the parsed events of one answer."""

    __slots__ = ("_choices", "_plainly", "_tier", "_usage", "lost")

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self._choices: dict[int, _Choice] = {}
        self._plainly = False
        """The first choice is saying its text: nothing comes before the next piece of it."""
        self._usage: Usage | None = None
        self._tier: Any = None

    def read(self, value: dict[str, Any]) -> list[Chunk]:
        """The Chunks of an event. Raises `UpstreamError` for one that tells of a failure."""
        # The short way for what nearly every event is: one more piece of what the first choice is saying.
        try:
            [choice] = value["choices"]
            delta = choice["delta"]
            if not choice["finish_reason"] and choice["index"] == 0 and "error" not in value and value.get("usage") is None:
                content = delta.get("content")
                if not content:
                    if (chunk := self._piece(delta)) is not None:
                        return [chunk]
                elif self._plainly and type(content) is str and (len(delta) == 1 or (len(delta) == 2 and "role" in delta)):
                    return [Chunk("text", content)]
        except (AttributeError, LookupError, TypeError, ValueError):
            pass  # another shape
        return self._read_any(value, "delta")

    def _piece(self, delta: dict[str, Any]) -> Chunk | None:
        """The Chunk of a delta that goes on with a reasoning or a call, and says nothing else."""
        choice = self._choices[0]
        if len(delta) > 1 and (len(delta) > 2 or "content" not in delta):
            return None
        if choice.mark is None:
            return choice.calls.piece(delta["tool_calls"])
        piece = delta[choice.mark]
        return Chunk("reasoning", piece) if piece and type(piece) is str else None

    def end(self) -> Chunk:
        """The `end`: the usage, and why the first choice finished. Raises `UpstreamTruncated` when a call is only begun."""
        if any(choice.calls.holds for choice in self._choices.values()):
            raise UpstreamTruncated
        unsaid = [choice.reason for index, choice in sorted(self._choices.items()) if index == 0 or choice.said is None]
        return Chunk("end", finish_reason=(unsaid or ["stop"])[0], usage=self._usage)

    def read_whole(self, answer: dict[str, Any]) -> list[Chunk]:
        """The Chunks of a plain answer."""
        return [*self._read_any(answer, "message"), self.end()]

    def _read_any(self, value: dict[str, Any], field: str) -> list[Chunk]:
        if value.get("error"):
            raise UpstreamError
        self._note_lost(value)
        chunks: list[Chunk] = []
        choices = value.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict:
                chunks += self._read_choice(choice, field, value.get("id"))
        self._tier = value.get("service_tier") or self._tier
        if (usage := value.get("usage")) is not None:
            self._usage = read_usage(usage, self._tier)[0] or self._usage
        return chunks

    def _read_choice(self, value: dict[str, Any], field: str, answer_id: Any) -> Iterator[Chunk]:
        index = value.get("index")
        index = index if type(index) is int and index >= 0 else 0
        choice = self._choices.get(index) or self._choices.setdefault(index, _Choice(index, self.lost))
        if choice.said is not None and index > 0:
            return
        if type(delta := value.get(field)) is dict:
            self._note_lost(delta)
            yield from self._read_delta(choice, delta, answer_id)
        if type(reason := value.get("finish_reason")) is str and reason:
            yield from self._finish(choice, reason)
        if index == 0:
            self._plainly = choice.mark is None and not choice.calls.holds

    def _read_delta(self, choice: _Choice, delta: dict[str, Any], answer_id: Any) -> Iterator[Chunk]:
        index, content = choice.index, delta.get("content")
        yield from self._reasoning(choice, delta)
        if thinking := _thinking(content):
            yield Chunk("reasoning", thinking, index)
        text, signature, refusal = self._text(content), signature_in(delta), text_of(delta.get("refusal"))
        calls = delta.get("tool_calls")
        if text or signature or refusal or calls:
            yield from _marked(choice)
        if text or signature:
            yield Chunk("text", text, index, signature=signature)
        if refusal:
            yield Chunk("other", refusal, index)
        if type(calls) is list:
            yield from choice.calls.read(calls, answer_id)

    def _reasoning(self, choice: _Choice, delta: dict[str, Any]) -> Iterator[Chunk]:
        """Some providers send the same reasoning under both names, and again in details."""
        name = next((name for name in TEXT_FIELDS if text_of(delta.get(name))), None)
        details = delta.get("reasoning_details")
        entries = [entry for entry in details if type(entry) is dict] if type(details) is list else []
        if name is not None:
            choice.thought, choice.mark = True, name
            yield Chunk("reasoning", text_of(delta[name]), choice.index)
        for entry in entries:
            text = "" if choice.thought else text_of_entry(entry)
            mark = entry_mark(entry)
            if text or mark:
                yield Chunk("reasoning", text, choice.index, signature=mark)
            if mark:
                choice.mark = None

    def _text(self, content: Any) -> str:
        """The text in a content, without the thinking that is among its parts."""
        if type(content) is not list:
            return text_of(content)
        for part in content:
            kind = str(part.get("type", "text")) if type(part) is dict else "text"
            if kind not in ("text", "thinking"):
                self.lost.add("citations" if kind == "reference" else "images" if "image" in kind else "parts")
        return text_of([part for part in content if type(part) is dict and "thinking" not in part])

    def _finish(self, choice: _Choice, reason: str) -> Iterator[Chunk]:
        if reason in _FAILURES:
            raise UpstreamError
        yield from _marked(choice)
        yield from choice.calls.flush()
        choice.said = reason
        if choice.index > 0:
            yield Chunk("other", index=choice.index, finish_reason=choice.reason)

    def _note_lost(self, holder: dict[str, Any]) -> None:
        if not holder.keys().isdisjoint(_LOST):
            self.lost |= {lost for name, lost in _LOST.items() if holder.get(name)}


def read_answer(body: bytes) -> tuple[list[Chunk], set[str]]:
    """The Chunks of a plain answer, an `end` last, and what of it has no counterpart. Raises as `read_completion` does."""
    reader = ChatReader()
    return reader.read_whole(whole_answer(body, "choices")), reader.lost


def _thinking(content: Any) -> str:
    """The thinking among the parts of a content (Mistral's)."""
    parts = [part for part in content if type(part) is dict and "thinking" in part] if type(content) is list else []
    return text_of(parts)


def _marked(choice: _Choice) -> Iterator[Chunk]:
    """The mark of a reasoning that is over."""
    if choice.mark is not None:
        yield Chunk("reasoning", "", choice.index, signature=choice.mark)
        choice.mark = None
