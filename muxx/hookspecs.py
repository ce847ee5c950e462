"""THE contract: every hook a plugin may implement. Shapes, moments and consequences are in the docstrings.

Mark an implementation with `@muxx.hookimpl`. It may be `def` or `async def` where the docstring does not say otherwise, and may
take any subset of the arguments shown here; arguments are only ever added. The start-up hooks are called through pluggy; the
request hooks are compiled once, at start, into a frozen tuple per hook and run by muxx (see `muxx.plugins`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import pluggy

from .exchange import Exchange
from .money import Cost, Usage
from .reply import Chunk, Reply
from .request import HttpRequest, Identity, Route
from .row import Record
from .targets import Attempt, Target

if TYPE_CHECKING:
    import click

    from .gateway import Gateway
    from .host import Host
    from .sqlite import Connection
    from .targets import Provider
    from .transport import Transport

hookspec = pluggy.HookspecMarker("muxx")
hookimpl = pluggy.HookimplMarker("muxx")


@hookspec(firstresult=True)
def authenticate(gateway: Gateway, request: HttpRequest) -> Identity | None:
    """Say who is calling. The head has been read, the body has not; also guards `/v1/logs` and plugin routes.

    Return an `Identity` to accept (the first one wins), None to leave it to the next plugin, or raise a `MuxxError` to
    refuse. When nobody answers, the request is refused with 401. A crash refuses with 500.
    """


@hookspec(firstresult=True)
def pre_request(gateway: Gateway, exchange: Exchange) -> Reply | None:
    """Look at a request before anything is sent. The body is parsed, the project known, the targets planned.

    May edit `exchange.request.body`, replace `exchange.targets` or `reroute()`; what was changed is validated again. Return None
    to go on, a `Reply` to answer now, or raise a `MuxxError` to refuse. A crash refuses with 500.
    """


@hookspec
def pre_attempt(gateway: Gateway, exchange: Exchange, attempt: Attempt) -> None:
    """Called once per upstream call, never for a reply from the cache. May edit `attempt.url`, `.headers` and `.body`.

    Raise a `MuxxError` to refuse. A crash refuses with 500.
    """


@hookspec
def on_chunk(gateway: Gateway, exchange: Exchange, chunk: Chunk) -> Iterable[Chunk] | None:
    """See every chunk of every answer, plain ones too; the last one is of kind `end`.

    Return None to leave the chunk as it is, or an iterable of Chunks that replace it (empty: it is dropped). An `end` returned
    early ends the answer cleanly and closes the upstream. A raised `MuxxError` keeps its type and code; any other crash ends the
    answer with `plugin_error`.
    """


@hookspec(firstresult=True)
def price(target: Target, usage: Usage, at: float) -> Cost | None:
    """Price an answer. Pure and `def` only; called at settling and wherever a worst case is needed.

    `at` is the moment whose prices hold, in Unix seconds: that at which the request came, however long its answer takes.
    The first `Cost` wins; None means this plugin does not know. A crash is logged and the price is unknown.
    """


@hookspec
def post_response(gateway: Gateway, exchange: Exchange) -> None:
    """Exactly once per exchange, after its last byte: answered, refused, cached, failed or abandoned. Delays no client.

    A crash is logged; the other plugins still run.
    """


@hookspec
def record(gateway: Gateway, db: Connection, records: list[Record]) -> None:
    """Write a batch of final records, in the recorder: another thread or process than the requests'.

    `db` is the log database's writing connection, inside a transaction the recorder commits together with its position in the
    journal. Called at least once per record, so write idempotently by `request_id`. A crash rolls the batch back; it is tried
    again, and the journal keeps it meanwhile. Statements run in the event loop's own thread: awaiting one lets nothing else run.
    """


@hookspec
def first_key(host: Host) -> str | None:
    """Before anything serves, in one process: see that there is a credential to begin with. `async def` only.

    Return the text of a key this call made, and it is shown to the operator, once; None when there is nothing to show.
    """


@hookspec
def lifespan(gateway: Gateway) -> AsyncIterator[None]:  # type: ignore[empty-body]
    """Around the process's life: an async generator with exactly one `yield`. An error before it stops the start, naming the
    plugin."""


@hookspec
def register_providers(gateway: Gateway) -> Iterable[Provider | tuple[str, Transport]]:  # type: ignore[empty-body]
    """Start-up, `def` only. Return provider rows, and (name, transport) pairs for transports those rows name.

    `gateway` is None when only the configuration is checked (`muxx config check`).
    """


@hookspec
def register_routes(gateway: Gateway) -> Iterable[Route]:  # type: ignore[empty-body]
    """Start-up, `def` only. Return the HTTP routes this plugin serves."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Start-up of the command line, `def` only. Add click commands or groups to `cli`. No gateway is running."""


REQUEST_HOOKS = ("authenticate", "pre_request", "pre_attempt", "on_chunk", "price", "post_response", "record")
"""Run by muxx from compiled chains; wrappers are refused on them."""

SYNC_ONLY = frozenset({"price", "register_providers", "register_routes", "register_commands"})

START_HOOKS = ("first_key", "lifespan", "register_providers", "register_routes", "register_commands")

HOOK_NAMES: tuple[str, ...] = (*REQUEST_HOOKS, *START_HOOKS)


def signature_of(hook: str) -> tuple[str, ...]:
    """The names of a hook's arguments, in order."""
    spec: Any = globals()[hook]
    code = spec.__code__
    return tuple(code.co_varnames[: code.co_argcount])
