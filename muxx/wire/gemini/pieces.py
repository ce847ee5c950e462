"""The pieces of an answer's JSON: where each stands, how it is read as a Chunk, how a changed one is put back.

An event of a stream and a plain answer have one and the same form. Each part is a Chunk: text, a thought (`reasoning`), a call
with all of its arguments, and as `other` what else there is, with the text of code and of what running it gave. A finish reason
is an `other` of its own, and so is a prompt that was blocked. An empty text without a signature is none. An event that holds none
of these is one `other`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from orjson import JSONDecodeError, dumps

from ...reply import Chunk, ToolCall
from ..halves import loads
from .names import candidates_of, index_of, parts_of
from .reasons import block_reason, in_chat_words, in_googles_words, stated
from .usage import read_gemini_usage

Shown = tuple[Any, ...]
Counts = dict[int, int]
"""How many calls there have been, by candidate."""

_TEXTS = {"executableCode": "code", "codeExecutionResult": "output"}
"""Parts that hold a text in a member of their own."""


def shown(chunk: Chunk) -> Shown:
    """What a plugin may change of a Chunk. Chunks can be changed in place, so they are compared with this."""
    call = chunk.tool_call
    told = (call.index, call.id, call.name, call.arguments) if call is not None else None
    return chunk.kind, chunk.text, chunk.index, chunk.finish_reason, told, chunk.signature


def place_of(chunk: Chunk) -> tuple[Any, ...]:
    """What a Chunk is of, but for its content: where two have the same place, one may be the other, changed."""
    call = chunk.tool_call.index if chunk.tool_call is not None else None
    return chunk.kind, chunk.index, call, bool(chunk.finish_reason)


class Piece(NamedTuple):
    """A piece as a Chunk, and where it stands: in a part, or without one in the candidate's end; without a candidate in the
    answer itself."""

    chunk: Chunk
    shown: Shown
    candidate: dict[str, Any] | None = None
    part: dict[str, Any] | None = None


def read_pieces(answer: dict[str, Any], raw: bytes | None, calls: Counts) -> list[Piece]:
    """The pieces of an event, at least one; the last one's Chunk tells the usage. `calls` is counted on."""
    pieces = [Piece(chunk, shown(chunk), *where) for chunk, *where in _found(answer, raw, calls)]
    if not pieces:
        frame = Chunk("other", raw=raw)
        pieces = [Piece(frame, shown(frame))]
    if (reported := answer.get("usageMetadata")) is not None:
        pieces[-1].chunk.usage, _ = read_gemini_usage(reported)
    return pieces


def _found(answer: dict[str, Any], raw: bytes | None, calls: Counts) -> Iterator[tuple[Any, ...]]:
    for candidate in candidates_of(answer):
        index = index_of(candidate)
        for part in parts_of(candidate):
            chunk = _chunk(part, index, calls)
            if chunk is not None:
                chunk.raw = raw
                yield chunk, candidate, part
        if reason := stated(candidate.get("finishReason")):
            word = in_chat_words(reason, called=calls.get(index, 0) > 0)
            yield Chunk("other", index=index, finish_reason=word, raw=raw), candidate
    if block_reason(answer) is not None:
        yield (Chunk("other", finish_reason="content_filter", raw=raw),)


def signature_of(part: dict[str, Any]) -> str | None:
    signature = part.get("thoughtSignature")
    return signature if type(signature) is str and signature else None


def said(text: str, part: dict[str, Any], index: int, signature: str | None) -> Chunk | None:
    """What a part with this text says; None where that is nothing."""
    if not text and signature is None:
        return None
    return Chunk("reasoning" if part.get("thought") else "text", text, index, signature=signature)


def _chunk(part: dict[str, Any], index: int, calls: Counts) -> Chunk | None:
    signature = signature_of(part)
    if type(text := part.get("text")) is str:
        return said(text, part, index, signature)
    if type(function := part.get("functionCall")) is dict:
        number = calls[index] = calls.get(index, 0) + 1
        return Chunk("tool_call", index=index, tool_call=call_of(function, number - 1), signature=signature)
    for name, key in _TEXTS.items():
        if type(holder := part.get(name)) is dict and type(text := holder.get(key)) is str:
            return Chunk("other", text, index, signature=signature)
    return Chunk("other", index=index, signature=signature)


def call_of(function: dict[str, Any], number: int) -> ToolCall:
    """A whole `functionCall`, as the answer's call of that number."""
    call_id, name, args = function.get("id"), function.get("name"), function.get("args")
    return ToolCall(
        number,
        call_id if type(call_id) is str and call_id else None,
        name if type(name) is str else "",
        dumps(args if type(args) is dict else {}).decode(),
    )


def parsed_arguments(text: str) -> dict[str, Any] | None:
    """Arguments of a call as the object they have to be here; None for what is none. No text at all stands for no arguments."""
    if not text.strip():
        return {}
    try:
        value = loads(text)
    except JSONDecodeError:
        return None
    return value if type(value) is dict else None


def rebuild(answer: dict[str, Any], pieces: list[Piece], wanted: dict[int, Chunk]) -> None:
    """Leave in `answer` those of its pieces whose number is in `wanted`, as their Chunks are now.

    What a candidate has besides goes with its last piece, so that of several events made of one only one has it.
    """
    last = {id(piece.candidate): number for number, piece in enumerate(pieces)}
    left: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number not in wanted:
            continue
        if piece.candidate is not None and not any(piece.candidate is known for known in left):
            left.append(piece.candidate)
        _put(piece, wanted[number])
    for candidate in left:
        own = [number for number, piece in enumerate(pieces) if piece.candidate is candidate]
        _prune(candidate, [(pieces[number], number in wanted) for number in own], whole=last[id(candidate)] in wanted)
    if any(piece.candidate is not None for piece in pieces):
        answer["candidates"] = left
    if block_reason(answer) is not None and len(pieces) - 1 not in wanted:
        del answer["promptFeedback"]


def _prune(candidate: dict[str, Any], own: list[tuple[Piece, bool]], *, whole: bool) -> None:
    gone = [piece.part for piece, stays in own if not stays and piece.part is not None]
    known = [piece.part for piece, _ in own if piece.part is not None]
    if parts := parts_of(candidate):
        candidate["content"]["parts"] = [
            part
            for part in parts
            if not any(part is dropped for dropped in gone) and (whole or any(part is shown_one for shown_one in known))
        ]
    if not all(stays for piece, stays in own if piece.part is None):
        candidate.pop("finishReason", None)
        candidate.pop("finishMessage", None)
    if gone:
        _forget_tokens(candidate)
    if not whole:
        for name in candidate.keys() - {"content", "index"}:
            del candidate[name]


def _put(piece: Piece, chunk: Chunk) -> None:
    """Write a changed Chunk into its place."""
    part, candidate = piece.part, piece.candidate
    if shown(chunk) == piece.shown or candidate is None:
        return
    if part is None:
        candidate["finishReason"] = in_googles_words(chunk.finish_reason)
        candidate.pop("finishMessage", None)
        return
    old_text, old_call = piece.shown[1], piece.shown[4]
    if chunk.text != old_text:
        _forget_tokens(candidate)
        holder, key = next(((part[name], key) for name, key in _TEXTS.items() if name in part), (part, "text"))
        holder[key] = chunk.text
    if (call := chunk.tool_call) is not None and shown(chunk)[4] != old_call:
        part["functionCall"] = function_of(call, part["functionCall"])
    if chunk.signature is None:
        part.pop("thoughtSignature", None)
    else:
        part["thoughtSignature"] = chunk.signature


def function_of(call: ToolCall, function: dict[str, Any] | None = None) -> dict[str, Any]:
    """A call as a `functionCall`, which is all of it at once. Raises `ValueError` for arguments that are no JSON object."""
    arguments = parsed_arguments(call.arguments)
    if arguments is None:
        raise ValueError("the arguments of a call are no JSON object")
    changed = {**(function or {}), "name": call.name or "", "args": arguments}
    if call.id is not None:
        return {"id": call.id, **{name: value for name, value in changed.items() if name != "id"}}
    changed.pop("id", None)
    return changed


def _forget_tokens(candidate: dict[str, Any]) -> None:
    """The log probabilities of a text's tokens would give away what it was."""
    candidate.pop("logprobsResult", None)
    candidate.pop("avgLogprobs", None)
