"""One plugin on a stage: a whole gateway around it, without a server or a socket.

Everything is muxx's own but the two ends: the client's side collects what a client would be sent, and the provider is a transport
that answers from memory, brought by a plugin as any transport is. What lies between (chains, relay, prices, journal, recorder,
SQLite) is what `muxx serve` runs.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from muxx.call import Call
from muxx.configfile import load_config
from muxx.discovery import Found, config_classes
from muxx.endpoints import Table
from muxx.exchange import Exchange
from muxx.gateway import Gateway
from muxx.hookspecs import hookimpl
from muxx.host import Host
from muxx.journal import Journal
from muxx.pipeline import carry
from muxx.plugins import build
from muxx.recorder import Recorder
from muxx.request import CREDENTIAL_HEADERS, HttpRequest, Identity, Request
from muxx.row import Record
from muxx.targets import Provider
from muxx.transport import Transport
from muxx.wire.wires import WIRES, named_in
from muxx.worker import prepare, recorder_of

from .asking import request_body, request_target, sent
from .outcome import Client, Outcome
from .played import Answer, Broken, PlayedTransport
from .settings import PROVIDER_KEY, PROVIDERS, merged, write_config
from .values import Headers, HeadOf
from .values import identity as any_identity
from .values import provider as row_of
from .watching import Watch

STAGE = "stage"
"""The kit's own plugin, and the transport it brings."""


def name_of(plugin: object) -> str:
    """The name a plugin gets when none is given: its class's, in small letters."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()


def class_of(plugin: object) -> type:
    """What muxx builds the plugin from: the class itself, or one whose only instance there is already."""
    if isinstance(plugin, type):
        return plugin

    def there_already(cls: type) -> object:
        return plugin

    return type(type(plugin).__name__, (type(plugin),), {"__new__": there_already})


def _on_stage(name: str) -> Provider:
    """The provider's row, led to the stage's transport."""
    return row_of(name, base_url=f"http://{name}.test/v1", openai_url=f"http://{name}.test/openai/v1", transport=STAGE)


class Stage:
    """`async with Stage(MyPlugin, settings) as stage: outcome = await stage.drive("Hello")`.

    `settings` is `[plugins.NAME]`, read as strictly as at a start; `beside` (name to class) are more plugins; `config` is laid
    over the configuration. Raises what a start would: `ConfigError`, `PluginLoadError`, `StartError`.
    """

    def __init__(
        self,
        plugin: object,
        settings: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        beside: Mapping[str, type] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if settings is not None and not isinstance(plugin, type):
            raise TypeError("settings build an instance, and this is one already: give the class")
        self.name = name or name_of(plugin)
        self.watch = Watch()
        self.records: list[Record] = []
        """Every record the hooks were given, in order; a row may come more than once."""
        self.key: str | None = None
        """The first key, when a plugin made one."""
        self.played = PlayedTransport()
        self._classes: dict[str, type] = {self.name: class_of(plugin), **(beside or {}), STAGE: self._own_plugin()}
        tables = {"plugins": {self.name: dict(settings)}} if settings is not None else {}
        providers = {"providers": {provider: {"api_key": PROVIDER_KEY} for provider in PROVIDERS}}
        self._config = merged(merged({"database": {"path": "muxx.db"}, **providers}, tables), config or {})
        self._stack = AsyncExitStack()

    gateway: Gateway
    _recorder: Recorder

    def _own_plugin(self) -> type:
        played, kept = self.played, self.records

        class Own:
            @hookimpl(trylast=True)
            def authenticate(self, request: HttpRequest) -> Identity | None:
                known: Identity | None = request.memory.get(STAGE)
                return known

            @hookimpl
            def register_providers(self) -> Iterable[Provider | tuple[str, Transport]]:
                rows = [_on_stage(name) for name in PROVIDERS]
                return [*rows, (STAGE, played)]

            @hookimpl
            def record(self, records: list[Record]) -> None:
                kept.extend(record.copy() for record in records)

        return Own

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muxx-")))
            found = [Found(name, cls, "muxx.testing", "0") for name, cls in self._classes.items()]
            config = load_config(write_config(directory, self._config), config_classes(found))
            host = await stack.enter_async_context(Host.open(config))
            plugins = build(found, config)
            self.key = await prepare(host, plugins)
            journal = Journal(host.paths.journal, STAGE)
            stack.callback(journal.close)
            self.gateway = gateway = Gateway(host, config, plugins, journal)
            Table(gateway)
            self.watch.attach(gateway)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            self._recorder = recorder_of(host, gateway)
            stack.push_async_callback(self._recorder.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def drive(
        self,
        answer: Answer | Broken = "Hello there.",
        *,
        then: Sequence[Answer | Broken] = (),
        endpoint: str = "chat",
        content: str = "Hello",
        stream: bool = False,
        leave_after: int | None = None,
        identity: Identity | None = None,
        headers: Headers = (),
        body: Mapping[str, Any] | bytes | None = None,
        **members: Any,
    ) -> Outcome:
        """One exchange, from `authenticate` to its row in the database.

        The provider gives `answer`, and the answers of `then` to further calls of it. The request is made of `content` and
        `members`, or is `body`. `leave_after` is a client that goes away after so many pieces of the answer; 0: as soon as the
        provider is asked. `identity` is who calls, for where the plugin leaves that open.
        """
        if stream:
            members["stream"] = True
        if body is None:
            body = request_body(endpoint, content, **members)
        known: Mapping[str, Any] = {"stream": stream} if isinstance(body, bytes) else body
        data = body if isinstance(body, bytes) else orjson.dumps(sent(endpoint, body))
        target = request_target(endpoint, known.get("model"), stream=known.get("stream") is True)
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        if self.key is not None and not CREDENTIAL_HEADERS.intersection(name.lower() for name, _ in fields):
            fields.append(("X-Muxx-Api-Key", self.key))
        head = HeadOf("POST", target, fields, data, "127.0.0.1")
        head.memory[STAGE] = identity or any_identity()
        return await self._carry(head, endpoint, [answer, *then], leave_after)

    async def _carry(self, head: HeadOf, endpoint: str, answers: Sequence[Answer | Broken], leave_after: int | None) -> Outcome:
        wire, in_path = named_in(head.path) or (WIRES[head.path], None)
        exchange = Exchange(self.gateway.ids.next(), wire.name, Request(head, wire.parts))
        exchange.format = wire.format
        began, asked = len(self.watch.calls), len(self.played.attempts)
        client = Client(leave_after)
        self.played.play(answers, client.asked)

        async def run() -> None:
            call = Call(self.gateway, exchange, wire, head, client, asyncio.current_task())
            call.given = in_path
            await carry(call)

        task = client.task = asyncio.ensure_future(run())
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        await self.gateway.finish_tasks("post_response")
        await self._recorder.drain()
        calls = self.watch.calls[began:]
        return Outcome(self.name, endpoint, exchange, client, calls, self.played.attempts[asked:], self._row(exchange.id))

    def _row(self, request_id: str) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = [dict(record) for record in self.records if record["request_id"] == request_id]
        return rows[-1] if rows else None

    async def deliver_again(self, outcome: Outcome) -> None:
        """Bring the row of an exchange to the `record` hooks once more, as the journal may at any time."""
        if outcome.row is not None:
            row = {name: value for name, value in outcome.row.items() if name not in ("input", "output")}
            self.gateway.journal.amend(row, outcome.row["input"], outcome.row["output"])
            await self._recorder.drain()
