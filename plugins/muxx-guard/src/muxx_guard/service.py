"""The service: questions of bounded size and number, answered in time or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from .protocol import MOST_BYTES, Edit, Refused, ServiceFailed, Text, edits_of, question, settled
from .settings import GuardConfig

if TYPE_CHECKING:
    from muxx import Gateway

MOST_TEXTS = 256
"""In one question."""

Piece = tuple[int, int, Text]
"""Which text it is of, at which of its characters it begins, and the piece itself."""


def batches(texts: Sequence[Text], most_chars: int, overlap: int) -> Iterator[list[Piece]]:
    """The texts in groups of at most `most_chars`. A longer text is cut, and each cut is seen whole: the pieces overlap."""
    batch: list[Piece] = []
    size = 0
    for piece in _pieces(texts, most_chars, overlap):
        if batch and (size + len(piece[2].text) > most_chars or len(batch) == MOST_TEXTS):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece[2].text)
    if batch:
        yield batch


def _pieces(texts: Sequence[Text], most_chars: int, overlap: int) -> Iterator[Piece]:
    for number, text in enumerate(texts):
        start = 0
        while len(text.text) - start > most_chars:
            yield number, start, replace(text, text=text.text[start : start + most_chars], last=False)
            start += most_chars - overlap
        yield number, start, replace(text, text=text.text[start:])


class Service:
    """One per gateway. Connections are the gateway's own session's, which keeps them."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._turn = asyncio.Semaphore(config.max_questions)
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if config.token is not None:
            self._headers["Authorization"] = f"Bearer {config.token.get_secret_value()}"

    async def judge(
        self, gateway: Gateway, kind: Literal["request", "answer"], about: dict[str, Any], texts: Sequence[Text]
    ) -> tuple[list[list[Edit]], int]:
        """The edits of each text, and how many questions it took. Raises `Refused` at the first no, else `ServiceFailed`."""
        config = self._config
        groups = list(batches(texts, config.batch_chars, config.overlap_chars))
        try:
            async with asyncio.timeout(config.service_timeout_s):
                answers = await self._all(gateway, kind, about, groups)
        except TimeoutError:
            raise ServiceFailed(f"no answer within {config.service_timeout_s:g} s") from None
        edits: list[list[Edit]] = [[] for _ in texts]
        for group, found in zip(groups, answers, strict=True):
            for (number, start, piece), of_piece in zip(group, found, strict=True):
                self._take(edits[number], start, piece, of_piece, is_cut=start + len(piece.text) < len(texts[number].text))
        return edits, len(groups)

    def _take(self, edits: list[Edit], start: int, piece: Text, found: Sequence[Edit], *, is_cut: bool) -> None:
        """Add a piece's edits to its text's. Those that begin where the next piece sees more are left to that one."""
        until = len(piece.text) - self._config.overlap_chars if is_cut else len(piece.text)
        done = edits[-1][1] if edits else 0
        made, _ = settled(found, until)
        edits += [(start + begin, start + end, new) for begin, end, new in made if start + begin >= done]

    async def _all(
        self, gateway: Gateway, kind: Literal["request", "answer"], about: dict[str, Any], groups: list[list[Piece]]
    ) -> list[list[list[Edit]]]:
        """Every group's answer. The questions are asked at once; the first no, or the first failure, ends them all."""
        calls = [self._ask(gateway, kind, about, [piece for _, _, piece in group]) for group in groups]
        if len(calls) == 1:
            return [await calls[0]]
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(call) for call in calls]
        except BaseExceptionGroup as errors:
            refusals, failures = errors.subgroup(Refused), errors.subgroup(ServiceFailed)
            raise (refusals or failures or errors).exceptions[0] from None
        return [task.result() for task in asked]

    async def _ask(
        self, gateway: Gateway, kind: Literal["request", "answer"], about: dict[str, Any], texts: list[Text]
    ) -> list[list[Edit]]:
        async with self._turn:
            try:
                try:
                    data = await self._post(gateway, question(kind, about, texts))
                except aiohttp.ClientConnectorError:
                    raise
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    # A connection that was kept may have been closed just now. Asking twice harms nobody.
                    data = await self._post(gateway, question(kind, about, texts))
            except (aiohttp.ClientError, OSError) as error:
                raise ServiceFailed(type(error).__name__) from None
        return edits_of(data, texts)

    async def _post(self, gateway: Gateway, body: dict[str, Any]) -> bytes:
        async with gateway.http.post(
            self._config.url, json=body, headers=self._headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise ServiceFailed(f"its answer had status {response.status}")
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > MOST_BYTES:
                    raise ServiceFailed(f"its answer is longer than {MOST_BYTES} bytes")
            return bytes(data)
