"""What is kept of a translated stream for its row. A Chunk for each token of thousands of streams that run for minutes would take
a hundred times the memory of what they say."""

from __future__ import annotations

from collections.abc import Iterable

from .reply import Chunk, ChunkKind, ToolCall
from .wire.fragments import Fragments


class Written:
    """The Chunks of an answer, the pieces of each text as one."""

    __slots__ = ("_chunks", "_index", "_kind", "_number", "_text")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._kind: ChunkKind | None = None
        """Of the text that goes on."""
        self._index = 0
        self._number: int | None = None
        """Of the call whose arguments it is."""
        self._text = Fragments()

    def add(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            call = chunk.tool_call
            if chunk.signature is None and chunk.finish_reason is None and chunk.usage is None and chunk.kind != "end":
                if call is None:
                    if chunk.kind != self._kind or chunk.index != self._index or self._number is not None:
                        self._begin_text(chunk.kind, chunk.index, None)
                    self._text.append(chunk.text)
                    continue
                if call.id is None and call.name is None and not chunk.text:
                    if call.index != self._number or chunk.index != self._index or chunk.kind != self._kind:
                        self._begin_text(chunk.kind, chunk.index, call.index)
                    self._text.append(call.arguments)
                    continue
            self._end_text()
            self._chunks.append(chunk)

    @property
    def chunks(self) -> list[Chunk]:
        """All of them, so far."""
        self._end_text()
        return self._chunks

    def _begin_text(self, kind: ChunkKind, index: int, number: int | None) -> None:
        self._end_text()
        self._kind, self._index, self._number = kind, index, number

    def _end_text(self) -> None:
        if self._kind is not None:
            text, self._text = "".join(self._text), Fragments()
            call = None if self._number is None else ToolCall(self._number, arguments=text)
            self._chunks.append(Chunk(self._kind, text if call is None else "", self._index, call))
            self._kind = None
