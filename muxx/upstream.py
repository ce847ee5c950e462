"""Which of the two transports over HTTP carries a provider. They hold the only sockets to providers: `lean`, `complete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from yarl import URL

from .complete import AiohttpTransport, environment_proxy
from .lean import LeanTransport
from .targets import Provider
from .transport import Transport

if TYPE_CHECKING:
    from .outbox import Outbox


class HttpTransports:
    """Both, and which one carries a provider: the lean one, except where a proxy or a private CA asks for aiohttp's client, or
    the operator does."""

    def __init__(self, choice: str = "auto", outbox: Outbox | None = None) -> None:
        self._choice = choice
        self._lean = LeanTransport(outbox)
        self._complete = AiohttpTransport()

    def pick(self, provider: Provider) -> Transport:
        if self._choice == "auto":
            proxied = provider.proxy or provider.ca_file or environment_proxy(URL(provider.base_url))
            return cast(Transport, self._complete if proxied else self._lean)
        return self._lean if self._choice == "lean" else self._complete

    async def close(self) -> None:
        await self._lean.close()
        await self._complete.close()
