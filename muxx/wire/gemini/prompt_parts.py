"""The contents of a request, as turns of a `Prompt`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from orjson import dumps

from ...errors import InvalidRequest
from ..prompt import Block, Call, Losses, Media, Result, Text, Thought, Turn
from .media import base64, is_googles, kind_of
from .names import camel, listed, member

NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google's documentation tells to send as the signature of a call that another model made."""

_MARKS = frozenset({"thought", "thoughtSignature", "partMetadata"})
_MEDIA = {"inlineData": ("mimeType", "displayName", "data"), "fileData": ("mimeType", "displayName", "fileUri")}
_INLINE = "Send the file itself, as inlineData in base64."


def read_contents(contents: Any, given: str, losses: Losses) -> list[Turn]:
    """The turns of what stands at `given`. Contents of one role in a row are one turn: SDKs keep events so."""
    reader = _Reader(losses)
    turns: list[Turn] = []
    single = type(contents) is dict
    for number, content in enumerate(listed(contents)):
        path = given if single else f"{given}[{number}]"
        turn = reader.turn(content, path)
        if turns and turns[-1].role == turn.role:
            turns[-1].blocks += turn.blocks
        else:
            turns.append(turn)
    for turn in turns:
        turn.blocks = _joined(turn)
    return turns


def read_texts(content: Any, path: str, losses: Losses) -> list[Text]:
    """The texts of a system instruction."""
    if type(content) is str:
        return [Text(content, path=path)]
    blocks = _Reader(losses).turn(content, path).blocks
    for block in blocks:
        if not isinstance(block, Text):
            losses.cannot(block.path, "Put what is no text into contents.")
    return [block for block in blocks if isinstance(block, Text)]


class _Reader:
    """Reads parts, and remembers calls: a result need not name the one it answers but by the function's name."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._waiting: list[Call] = []

    def turn(self, content: Any, path: str) -> Turn:
        if type(content) is not dict:
            raise wrong(path, "Give an object with a role and parts.")
        role = content.get("role")
        if role not in (None, "user", "model", "function", "tool", "system"):
            raise wrong(f"{path}.role", 'Give "user" or "model".')
        blocks: list[Block] = []
        self._tell_rest(content, ("role", "parts"), path)
        parts = content.get("parts")
        for number, part in enumerate(listed(parts)):
            place = f"{path}.parts" if type(parts) is dict else f"{path}.parts[{number}]"
            if type(part) is not dict:
                raise wrong(place, "Give an object.")
            blocks += self._part({camel(name): value for name, value in part.items() if value is not None}, place)
        return Turn("assistant" if role == "model" else "user", blocks, path=path)

    def _tell_rest(self, holder: dict[str, Any], known: tuple[str, ...], path: str) -> None:
        """Members that cannot be carried."""
        for name, value in holder.items():
            if value is not None and camel(name) not in known:
                self._losses.cannot(f"{path}.{name}")

    def _part(self, part: dict[str, Any], path: str) -> Iterator[Block]:
        signature = part.get("thoughtSignature")
        signature = base64(signature) if type(signature) is str and signature not in ("", NO_SIGNATURE) else None
        kinds = [name for name in part if name not in _MARKS]
        for name in kinds:
            value, place = part[name], f"{path}.{name}"
            if name == "text" and type(value) is str:
                yield Thought(value, signature, path=path) if part.get("thought") else Text(value, path=path, signature=signature)
            elif name == "functionCall" and type(value) is dict:
                yield self._call(value, signature, path)
            elif name == "functionResponse" and type(value) is dict:
                yield from self._result(value, path)
            elif name in ("inlineData", "fileData") and type(value) is dict:
                yield from self._media(name, value, path)
            else:
                self._losses.cannot(place)
        if not kinds and part.get("thought"):
            yield Thought("", signature, path=path)

    def _call(self, value: dict[str, Any], signature: str | None, path: str) -> Call:
        name, call_id, args = value.get("name"), value.get("id"), value.get("args")
        if type(name) is not str:
            raise wrong(f"{path}.functionCall.name", "Give the function's name.")
        self._tell_rest(value, ("name", "id", "args"), f"{path}.functionCall")
        made = "call_" + "".join(sign if sign.isalnum() else "_" for sign in path)
        call = Call(
            call_id if type(call_id) is str and call_id else made,
            name,
            dumps(args if args is not None else {}).decode(),
            signature,
            path=path,
        )
        self._waiting.append(call)
        return call

    def _result(self, value: dict[str, Any], path: str) -> Iterator[Result]:
        name, call_id = value.get("name"), value.get("id")
        self._tell_rest(value, ("name", "id", "response", "parts"), f"{path}.functionResponse")
        waiting = [call for call in self._waiting if (call.id == call_id if call_id else call.name == name)]
        if not waiting and not call_id:
            self._losses.cannot(path, "Put the functionCall it answers before a functionResponse, or give it that call's id.")
            return
        if waiting:
            self._waiting.remove(waiting[0])
        content, is_error = _returned(value.get("response"), f"{path}.functionResponse.response")
        blocks: list[Text | Media] = list(content)
        for number, part in enumerate(listed(value.get("parts"))):
            place = f"{path}.functionResponse.parts[{number}]"
            for kind, data in part.items() if type(part) is dict else ():
                if camel(kind) in ("inlineData", "fileData") and type(data) is dict:
                    blocks += self._media(camel(kind), data, place)
                else:
                    self._losses.cannot(f"{place}.{kind}")
        yield Result(waiting[0].id if waiting else str(call_id), blocks, is_error, name if type(name) is str else None, path=path)

    def _media(self, member_name: str, value: dict[str, Any], path: str) -> Iterator[Media]:
        mime, name = member(value, "mimeType"), member(value, "displayName")
        mime, name = (mime if type(mime) is str else None), (name if type(name) is str else None)
        kind = kind_of(mime)
        self._tell_rest(value, _MEDIA[member_name], f"{path}.{member_name}")
        if member_name == "inlineData":
            data = value.get("data")
            yield Media(kind, mime, data=base64(data if type(data) is str else ""), name=name, path=path)
            return
        uri = member(value, "fileUri")
        if type(uri) is not str or is_googles(uri):
            self._losses.cannot(path, _INLINE)
        else:
            yield Media(kind, mime, url=uri, name=name, path=path)


def _returned(response: Any, path: str) -> tuple[list[Text], bool]:
    """What a function returned, as text, and whether it says that it failed. A lone `output` or `error` is what it stands for."""
    if type(response) is dict and len(response) == 1:
        [(name, value)] = response.items()
        if name in ("output", "error") and type(value) is str:
            return ([Text(value, path=path)] if value else []), name == "error"
    if response is None:
        return [], False
    return [Text(dumps(response).decode(), path=path)], type(response) is dict and response.keys() == {"error"}


def _joined(turn: Turn) -> list[Block]:
    """The blocks of a turn, consecutive pieces of a thought as one, and those of what the model said: SDKs keep each piece of a
    stream as a part, be it a blank, or empty. A signature, which comes with the last piece, ends it."""
    said = turn.role == "assistant"
    kinds = (Thought, Text) if said else (Thought,)
    runs: list[list[Any]] = []
    for block in turn.blocks:
        before = runs[-1][-1] if runs else None
        if isinstance(block, kinds) and type(before) is type(block) and before.signature is None:
            runs[-1].append(block)
        else:
            runs.append([block])
    blocks = [run[0] if len(run) == 1 else _one(run) for run in runs]
    return [block for block in blocks if not said or not isinstance(block, Text) or block.text or block.signature]


def _one(pieces: list[Any]) -> Any:
    return replace(pieces[0], text="".join(piece.text for piece in pieces), signature=pieces[-1].signature)


def wrong(path: str, advice: str) -> InvalidRequest:
    return InvalidRequest(f"'{path}' has the wrong type or value. {advice}", code="invalid_type", param=path)
