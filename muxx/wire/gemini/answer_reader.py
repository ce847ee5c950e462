"""Answers for clients of other formats: Google's events and plain answers as Chunks without bytes."""

from __future__ import annotations

from hashlib import blake2b
from secrets import token_hex
from typing import Any

from ...errors import UpstreamError, UpstreamProtocolError
from ...reply import Chunk, ToolCall
from ..openai.answer import whole_answer
from .names import ANSWER_MEMBERS, candidates_of, index_of, parts_of
from .pieces import call_of, said, signature_of
from .reasons import FAILED, block_reason, in_chat_words, stated
from .usage import read_gemini_usage

_LOST_PARTS = frozenset({"inlineData", "fileData", "executableCode", "codeExecutionResult", "toolCall", "toolResponse"})
_LOST_MEMBERS = ("groundingMetadata", "citationMetadata", "urlContextMetadata", "logprobsResult")
_FAILED = "The model broke off its answer. Try again, or change what it is asked."
_FRAGMENT = "The model provider sent a tool call in fragments, which this format has not."


class GenerateReader:
    """Reads the events of one answer. `lost` names what stood in it and has no counterpart.

    Some models repeat their finish reason, from the first event on: so the first candidate's is said by `end`. Those of others
    go out where they come first.
    """

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self._finishes: dict[int, str] = {}
        self._blocked = False
        self._reported: Any = None
        self._calls: dict[int, int] = {}
        self._ids: set[str] = set()

    def read(self, value: dict[str, Any]) -> list[Chunk]:
        """The Chunks of one event. Raises `UpstreamError` where it says that the answer failed."""
        # The short way for what nearly every event is: a piece of text, and nothing else.
        try:
            [candidate] = value["candidates"]
            [part] = candidate["content"]["parts"]
            text = part["text"]
            if (
                text
                and type(text) is str
                and len(part) == 1
                and (len(candidate) == 1 or (len(candidate) == 2 and "index" in candidate))
                and "error" not in value
            ):
                if (reported := value.get("usageMetadata")) is not None:
                    self._reported = reported
                return [Chunk("text", text, index_of(candidate))]
        except (KeyError, TypeError, ValueError):
            pass  # another shape
        return self._read_any(value)

    def end(self) -> Chunk:
        """The `end`, with why the first candidate finished, and the usage."""
        usage = read_gemini_usage(self._reported)[0] if self._reported is not None else None
        return Chunk("end", finish_reason=self._finishes.get(0, "content_filter" if self._blocked else None), usage=usage)

    def _read_any(self, value: dict[str, Any]) -> list[Chunk]:
        if value.get("error"):
            raise UpstreamError
        if (reported := value.get("usageMetadata")) is not None:
            self._reported = reported
        self._blocked = self._blocked or block_reason(value) is not None
        answer_id = value.get("responseId")
        chunks: list[Chunk] = []
        for candidate in candidates_of(value):
            index = index_of(candidate)
            for part in parts_of(candidate):
                if (chunk := self._part(part, index, answer_id)) is not None:
                    chunks.append(chunk)
            chunks += self._finish(candidate, index)
            self.lost.update(name for name in _LOST_MEMBERS if candidate.get(name))
        return chunks

    def _part(self, part: dict[str, Any], index: int, answer_id: Any) -> Chunk | None:
        signature = signature_of(part)
        if type(text := part.get("text")) is str:
            return said(text, part, index, signature)
        if type(function := part.get("functionCall")) is dict:
            return Chunk("tool_call", index=index, tool_call=self._call(function, index, answer_id), signature=signature)
        if lost := part.keys() & _LOST_PARTS:
            self.lost |= lost
        elif part.keys() - {"thought", "thoughtSignature", "partMetadata"}:
            self.lost.add("part")
        return None

    def _call(self, function: dict[str, Any], index: int, answer_id: Any) -> ToolCall:
        """A call, with an id of its own: of Google's models only the later ones give one."""
        if function.get("partialArgs") or function.get("willContinue"):
            raise UpstreamProtocolError(_FRAGMENT)
        number = self._calls.get(index, 0)
        self._calls[index] = number + 1
        call = call_of(function, number)
        if call.id is None or call.id in self._ids:
            # Where the answer has no id either, it is by chance: two turns must not have the same ids.
            made = blake2b(f"{answer_id or token_hex(8)}/{index}/{number}".encode(), digest_size=8).hexdigest()
            call.id = f"call_{made}"
        self._ids.add(call.id)
        return call

    def _finish(self, candidate: dict[str, Any], index: int) -> list[Chunk]:
        reason = stated(candidate.get("finishReason"))
        if reason is None:
            return []
        word = in_chat_words(reason, called=index in self._calls)
        if word == FAILED:
            raise UpstreamError(_FAILED)
        told = index in self._finishes
        self._finishes[index] = word
        return [] if index == 0 or told else [Chunk("other", index=index, finish_reason=word)]


def read_answer(body: bytes) -> tuple[list[Chunk], set[str]]:
    """A plain answer's Chunks, an `end` last, and what of it has no counterpart. Raises as `read_generated` does, and
    `UpstreamError` for one that says that it failed, or says nothing at all."""
    answer = whole_answer(body, *ANSWER_MEMBERS)
    if not candidates_of(answer) and block_reason(answer) is None:
        raise UpstreamError
    reader = GenerateReader()
    return [*reader.read(answer), reader.end()], reader.lost
