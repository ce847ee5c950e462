"""The tool calls of one choice, told one after the other.

Other formats have a call's fragments together and its id and name first. Providers of this one may number every call 0, repeat
the id with each fragment or leave it out, send the name late, or go on with one call after another has begun: what comes early
is held back until its call's turn.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from orjson import JSONDecodeError, dumps

from ...reply import Chunk, ToolCall
from ..halves import loads
from .thoughts import signature_in


class _Call:
    __slots__ = ("begun", "id", "key", "name", "number", "pieces", "said", "signature", "signed")

    def __init__(self, key: int, number: int) -> None:
        self.key = key
        """The number the provider gave it."""
        self.number = number
        """Its place among the calls."""
        self.id: str | None = None
        self.name: str | None = None
        self.signature: str | None = None
        self.pieces: list[str] = []
        self.said = 0
        """Pieces that were told."""
        self.begun = self.signed = False

    @property
    def is_whole(self) -> bool:
        """Its arguments are JSON, so nothing more of them comes."""
        try:
            loads("".join(self.pieces))
        except JSONDecodeError:
            return False
        return True


class Calls:
    """Reads the `tool_calls` of a choice's deltas. `index` is the choice's."""

    __slots__ = ("_answer_id", "_calls", "_index", "_latest", "_lost", "_turn")

    def __init__(self, index: int, lost: set[str]) -> None:
        self._index = index
        self._calls: list[_Call] = []
        self._latest: dict[int, _Call] = {}
        """The last call of each number."""
        self._turn = 0
        """The call that is being told."""
        self._lost = lost
        self._answer_id: Any = None

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def holds(self) -> bool:
        """Something has come that was not told yet."""
        return any(not call.begun or call.said < len(call.pieces) for call in self._calls[self._turn :])

    def read(self, entries: list[Any], answer_id: Any) -> Iterator[Chunk]:
        """The Chunks of a `tool_calls`. From the answer's id those are made that calls do not have."""
        self._answer_id = self._answer_id or answer_id or secrets.token_hex(8)  # two turns must not have the same ids
        for position, entry in enumerate(entries):
            if type(entry) is dict:
                if entry.get("type") == "custom" or "custom" in entry:
                    self._lost.add("custom_tool_call")
                else:
                    self._take(entry, position)
                    yield from self._tell()

    def piece(self, entries: Any) -> Chunk | None:
        """The Chunk of a `tool_calls` that goes on with the arguments of the call that is being told; None for any other."""
        [entry] = entries
        function = entry["function"]
        call = self._calls[self._turn]
        if entry.get("id") or function.get("name") or entry["index"] != call.key or not call.begun or "extra_content" in entry:
            return None
        if call.number + 1 != len(self._calls) or type(arguments := function["arguments"]) is not str or not arguments:
            return None
        call.pieces.append(arguments)
        call.said += 1
        return Chunk("tool_call", "", 0, ToolCall(call.number, None, None, arguments))

    def flush(self) -> Iterator[Chunk]:
        """What is held back: nothing more comes."""
        for call in self._calls:
            yield from self._say(call)
        self._turn = max(len(self._calls) - 1, 0)

    def _take(self, entry: dict[str, Any], position: int) -> None:
        function = entry.get("function")
        function = function if type(function) is dict else {}
        call = self._call(entry, function, position)
        if call.id is None and type(call_id := entry.get("id")) is str and call_id:
            call.id = call_id
        if call.name is None and type(name := function.get("name")) is str and name:
            call.name = name
        call.signature = call.signature or signature_in(entry)
        arguments = function.get("arguments")
        if type(arguments) is dict:
            arguments = dumps(arguments).decode()
        if type(arguments) is str and arguments:
            call.pieces.append(arguments)

    def _call(self, entry: dict[str, Any], function: dict[str, Any], position: int) -> _Call:
        """The call that a fragment belongs to: the last of its number, unless it begins another."""
        given, key = entry.get("id"), entry.get("index")
        key = key if type(key) is int else position
        known = self._latest.get(key)
        if known is not None:
            if given and known.id:
                another = given != known.id
            else:
                another = bool(function.get("name")) and bool(known.pieces) and known.is_whole
            if not another:
                return known
        call = self._latest[key] = _Call(key, len(self._calls))
        self._calls.append(call)
        return call

    def _tell(self) -> Iterator[Chunk]:
        """What may be told by now."""
        while True:
            call = self._calls[self._turn]
            if call.name is None:
                return
            yield from self._say(call)
            if self._turn + 1 == len(self._calls) or not call.is_whole:
                return
            self._turn += 1

    def _say(self, call: _Call) -> Iterator[Chunk]:
        new = "".join(call.pieces[call.said :])
        call.said = len(call.pieces)
        if call.begun and not new and (call.signed or call.signature is None):
            return
        tool = ToolCall(call.number, arguments=new)
        if not call.begun:
            tool.id, tool.name = call.id or f"call_{str(self._answer_id)[-16:]}_{call.number}", call.name or ""
        yield Chunk("tool_call", index=self._index, tool_call=tool, signature=None if call.signed else call.signature)
        call.begun, call.signed = True, call.signature is not None
