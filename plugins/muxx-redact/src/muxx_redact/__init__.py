"""muxx-redact: masks secrets and personal data in what goes to a model and in what comes back, streamed or plain.

A request is masked before any provider sees it, an answer before any client does: its text waits in a `muxx.TextWindow` for as
long as it may be the beginning of something to mask, which is mostly a word. muxx stores the request as sent up and the answer as
delivered, so its rows hold the masks too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from muxx import Chunk, Exchange, InvalidRequest, PermissionDenied, StateKey, TextWindow, hookimpl

from .arguments import Arguments, Replace
from .scanner import Scanner
from .settings import RedactConfig

__all__ = ["Redact"]

NAME = "redact"
"""The name of the entry point, which is this plugin's name everywhere: in the configuration, and for `skip_chunks`."""

PIECE = 64 * 1024
"""Characters of a request scanned at a time: some milliseconds' work."""

WINDOW = StateKey[TextWindow]("redact.window")


class Redact:
    """The plugin. The row's attribute `redact` counts what was found, by side and detector; what it was is nowhere."""

    Config = RedactConfig

    def __init__(self, config: RedactConfig) -> None:
        self.config = config
        self.scanner = Scanner(config.detectors(), config.block)

    @hookimpl
    async def pre_request(self, exchange: Exchange) -> None:
        if not self.config.answers:
            exchange.skip_chunks(NAME)
        if not self.config.requests:
            return
        for part in exchange.request.parts():
            replace = Side(self, exchange, part.path).function_for(part.kind == "tool_arguments")
            if replace is not None and (masked := await self._masked(part.text, replace)) != part.text:
                part.text = masked

    async def _masked(self, text: str, replace: Replace) -> str:
        """A whole text with its masks. It takes the way of an answer, so that a long one lets the loop serve others meanwhile."""
        window = TextWindow(replace, hold=self.scanner.hold)
        out: list[Chunk] = []
        for start in range(0, len(text), PIECE):
            chunk = Chunk("text", text[start : start + PIECE])
            chunks = window.feed(chunk)
            out += [chunk] if chunks is None else chunks
            if len(text) > PIECE:
                await asyncio.sleep(0)
        return "".join(chunk.text for chunk in [*out, *(window.feed(Chunk("end")) or ())])

    @hookimpl
    def on_chunk(self, exchange: Exchange, chunk: Chunk) -> Iterable[Chunk] | None:
        window = exchange.state.get(WINDOW)
        if window is None:
            side = Side(self, exchange)
            window = TextWindow.per_channel(
                lambda first: side.function_for(first.kind == "tool_call"), hold=self.scanner.hold
            )
            exchange.state[WINDOW] = window
        return window.feed(chunk)


class Side:
    """One side of an exchange: what a match in it becomes. `path` is the place in the request; an answer has none."""

    def __init__(self, plugin: Redact, exchange: Exchange, path: str | None = None) -> None:
        self._config, self._scanner = plugin.config, plugin.scanner
        self._attributes = exchange.attributes
        self._path = path

    def function_for(self, is_arguments: bool) -> Replace | None:
        """What a text is given to, piece by piece or as a whole; None where it is to be left alone."""
        if not is_arguments:
            return self._replace
        return Arguments(partial(self._scanner.scan, is_json=True), self._mask) if self._config.tool_arguments else None

    def _replace(self, text: str, start: int, due: int) -> tuple[list[tuple[int, int, str]], int]:
        spans, settled = self._scanner.scan(text, start, due)
        return [(begin, end, self._mask(name)) for begin, end, name in spans], settled

    def _mask(self, name: str) -> str:
        """Count a match and give its mask, or refuse where its detector blocks."""
        sides = self._attributes.setdefault("redact", {})
        counts = sides.setdefault("request" if self._path else "answer", {})
        counts[name] = counts.get(name, 0) + 1
        if name not in self._config.block:
            return self._config.mask_of(name)
        if self._path:
            message = f"The request holds something this gateway lets nobody send ({name}). Take it out."
            raise InvalidRequest(message, code=f"blocked_{name}", param=self._path)
        raise PermissionDenied(f"The answer held something this gateway does not pass on ({name}).", code=f"blocked_{name}")
