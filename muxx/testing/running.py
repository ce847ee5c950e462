"""A gateway to test against, in this process and on the production runner."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from muxx.checking import load_checked
from muxx.gateway import Gateway
from muxx.worker import Running, serve_in_process

from .client import RawClient, RawResponse, ask, get, post_chat
from .installing import installed
from .settings import gateway_config, write_config
from .upstream import ScriptedUpstream


class Reachable:
    """What can be asked of any gateway once its address and a key are known."""

    base_url: str
    """Scheme, host and port, without `/v1`."""
    key: str
    """A live key of the default project."""

    async def connect(self, *, receive_buffer: int | None = None) -> RawClient:
        """A connection to do anything with; use it in `async with`."""
        return await RawClient.connect(self.base_url, receive_buffer=receive_buffer)

    async def chat(
        self, content: str = "Hello", *, model: str = "gpt-4o", headers: Mapping[str, str] | None = None, **members: Any
    ) -> RawResponse:
        """One chat request, read to its end. Keyword arguments are further members of the body: `stream=True`."""
        return await post_chat(self.base_url, self.key, content, model=model, headers=headers, **members)

    async def ask(
        self,
        endpoint: str,
        content: str = "Hello",
        *,
        model: str | None = None,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> RawResponse:
        """One request of any endpoint, read to its end; without a `model`, of one whose provider speaks the endpoint's format.

        Keyword arguments are further members of the body.
        """
        return await ask(self.base_url, self.key, endpoint, content, model=model, stream=stream, headers=headers, **members)

    async def get(self, target: str) -> RawResponse:
        return await get(self.base_url, target, self.key)

    async def get_row(self, request_id: str | None, within: float = 5.0) -> dict[str, Any]:
        """The log row of a request, waiting for it where its answer has not quite ended."""
        deadline = time.monotonic() + within
        while (response := await self.get(f"/v1/logs/{request_id}")).status != 200:
            if time.monotonic() > deadline:
                raise AssertionError(f"no row of {request_id} after {within} s: {response.status} {response.text}")
            await asyncio.sleep(0.01)
        row: dict[str, Any] = response.json()
        return row


class RunningGateway(Reachable):
    """`async with RunningGateway() as gateway:` starts a gateway as `muxx serve` does and stops it again.

    It has a directory, a key and an upstream of its own; pass `directory` or `upstream` to bring yours. `config` is laid over the
    configuration of `muxx.testing.settings`, `plugins` (name to class) are found beside the installed ones, as are the files of
    `plugins_dir`, and `mock` answers every model with the mock instead of the upstream.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        plugins: Mapping[str, type] | None = None,
        mock: bool = False,
        upstream: ScriptedUpstream | None = None,
        directory: Path | None = None,
        plugins_dir: Path | None = None,
    ) -> None:
        self._overrides = config or {}
        self._plugins = plugins or {}
        self._mock = mock
        self._own_upstream = upstream is None
        self._directory = directory
        self._plugins_dir = plugins_dir
        self._stack = AsyncExitStack()
        self.upstream = upstream or ScriptedUpstream()
        self._running: Running | None = None

    @property
    def directory(self) -> Path:
        assert self._directory is not None, "the gateway is not started: use it in `async with`"
        return self._directory

    @property
    def gateway(self) -> Gateway:
        """The gateway itself: after a reload, the one that serves now."""
        assert self._running is not None, "the gateway is not started: use it in `async with`"
        return self._running.gateway

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._directory is None:
                self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muxx-")))
            if self._own_upstream:
                await stack.enter_async_context(self.upstream)
            path = write_config(self._directory, gateway_config(self.upstream.base_url, self._overrides))
            stack.enter_context(installed(self._plugins, self._directory))
            loaded = load_checked(path, self._plugins_dir)
            self._running = await stack.enter_async_context(serve_in_process(loaded, mock=self._mock))
            self.base_url, self.key = self._running.base_url, self._running.key or ""
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()
