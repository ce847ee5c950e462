"""What is kept of a translated stream for its row. A Chunk for each token of thousands of streams that run for minutes would take
a hundred times the memory of what they say."""

from __future__ import annotations

from collections.abc import Iterable

from .reply import Chunk, ChunkKind, ToolCall
from .wire.fragments import Fragments


class Written:
    """The Chunks of an answer, the pieces of each text as one."""

    __slots__ = ("_chunks", "_of", "_text")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._of: tuple[ChunkKind, int, int | None] | None = None
        """Kind and index of the text that goes on, and the number of the call whose arguments it is."""
        self._text = Fragments()

    def add(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            call = chunk.tool_call
            of = chunk.kind, chunk.index, None if call is None else call.index
            only_says = _only_says(chunk)
            if of != self._of or not only_says:
                self._end_text()
            if only_says:
                self._of = of
                self._text.append(chunk.text if call is None else call.arguments)
            else:
                self._chunks.append(chunk)

    @property
    def chunks(self) -> list[Chunk]:
        """All of them, so far."""
        self._end_text()
        return self._chunks

    def _end_text(self) -> None:
        if self._of is not None:
            (kind, index, number), text = self._of, "".join(self._text)
            call = None if number is None else ToolCall(number, arguments=text)
            self._chunks.append(Chunk(kind, text if call is None else "", index, call))
            self._of, self._text = None, Fragments()


def _only_says(chunk: Chunk) -> bool:
    """It is a piece of a text, or of a call's arguments, and nothing else."""
    call = chunk.tool_call
    if call is not None and (chunk.text or call.id is not None or call.name is not None):
        return False
    return chunk.signature is None and chunk.finish_reason is None and chunk.usage is None and chunk.kind != "end"
