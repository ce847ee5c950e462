"""Bring a provider's answer to the client: a stream, or a plain one.

Each ends the same way: the answer is complete, its usage and cost are settled, its row is recorded, and only then
its last byte leaves. What goes wrong is raised; the pipeline settles it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from .accounting import USAGE_INVALID, settle, usage_to_tell
from .call import NEVER, TranslatedHead
from .chains import isolated, run_chunk
from .collecting import hand_out_whole
from .errors import ClientGone, MuxxError, UpstreamError
from .headers import answer_lines, content_type_line, downstream_lines
from .hookedrelay import ChunkHooks, Delivered, HookedRelay, unencodable
from .money import usd
from .noting import note, stores_content, synced
from .plain import refuse_encoded, whole_body
from .refusing import failure_in, masked
from .relay import Relay
from .reply import Chunk, is_event_stream
from .targets import Attempt
from .translating import LOST, HookedTranslator, TranslatedHookedRelay, TranslatedRelay, Translator, whole
from .wire.failures import word_for
from .wire.halves import dumps, whole_json

if TYPE_CHECKING:
    from .call import Call
    from .plugins import Chain
    from .transport import UpstreamResponse
    from .wire.wire import Facts, StreamFacts, Wire

Tap = Callable[[bytes], None]

STREAM_LINES = "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"

JOINED_LINES = "Age: 0\r\nX-Muxx-Cost: 0\r\n"
"""What is known of a joined call before its answer: it is as fresh as can be, and somebody else's to pay for."""

TRAILER_SECONDS = 0.25
"""After `[DONE]`: how long the provider may take to end its response before its connection is given up."""


def chunk_chain(call: Call) -> Chain:
    """The `on_chunk` steps of this exchange: those plugins took off it are left out."""
    chain = call.gateway.chains.on_chunk
    skipped = call.exchange.skipped
    return tuple(step for step in chain if step.plugin not in skipped) if skipped else chain


async def answer_upstream(call: Call, attempt: Attempt, response: UpstreamResponse, withhold_usage: bool) -> None:
    """Bring the provider's answer to the client, in the form in which it came."""
    if call.exchange.request.stream and response.status == 200 and is_event_stream(response.headers.get("content-type", "")):
        await answer_stream(call, attempt, response, withhold_usage=withhold_usage)
    else:
        await answer_plain(call, attempt, response)


async def answer_stream(call: Call, attempt: Attempt, response: UpstreamResponse, *, withhold_usage: bool) -> None:
    """Relay a stream, event by event."""
    exchange, down, timeouts = call.exchange, call.down, attempt.target.timeouts
    exchange.phase = "stream"
    up: Wire = attempt.wire
    call.translator = None
    call.facts = call.stream = stream = up.stream(attempt.body, not withhold_usage)
    exchange.response.facts = stream
    refuse_encoded(call, response)
    joined = JOINED_LINES if exchange.cache == "joined" else ""
    provider_lines = downstream_lines(attempt.target.provider, response.headers, exchange.added_headers)
    down.begin(200, answer_lines(exchange) + joined + STREAM_LINES + provider_lines)
    exchange.note_head(sent=True)
    taps = [isolated(tap) for tap in exchange.taps]
    relay, readback = _relay(call, attempt, response, stream, taps, include_usage=not withhold_usage)
    call.due, call.on_due = time.monotonic() + timeouts.first_token, relay.timed_out
    pump = asyncio.ensure_future(response.pump(relay))
    pump.add_done_callback(relay.pumped)
    try:
        error = await (relay.run() if isinstance(relay, HookedRelay) else relay.over)
        call.error_relayed = relay.relayed_error
        exchange.timing.first_token = relay.first_event
        if error is not None:
            raise _told_by_provider(stream.error, error) if relay.relayed_error else error
        if relay.surplus:
            exchange.attributes["surplus_after_done"] = True
        if readback is not None:
            readback.take_last(relay.last)
        elif call.translator is not None:
            _note_translated(call, call.translator, stream)
        delivered = stream if readback is None else readback.facts
        await complete_stream(call, stream, delivered, relay.last, taps, comment=relay.comments_allowed)
        if not pump.done():
            await asyncio.wait((pump,), timeout=TRAILER_SECONDS)
    except asyncio.CancelledError:
        if exchange.phase == "stream" and stream.finished:
            exchange.phase = "finish"  # only the end was still to come
        raise
    finally:
        call.due, call.on_due, down.on_resume = NEVER, None, None
        call.committed = relay.first_event is not None
        exchange.timing.first_token = relay.first_event
        if not pump.done():
            pump.cancel()


def _note_translated(call: Call, translator: Translator, stream: StreamFacts) -> None:
    """What the client was sent of a translated answer, and what of the answer it was not."""
    if translator.lost:
        call.exchange.attributes[LOST] = sorted(translator.lost)
    if stores_content(call.exchange):
        call.delivered = call.wire.encode_answer(translator.said, TranslatedHead(call, stream))


def _relay(
    call: Call, attempt: Attempt, response: UpstreamResponse, stream: StreamFacts, taps: list[Tap], *, include_usage: bool
) -> tuple[Relay, Delivered | None]:
    """The relay for this exchange, and where hooks may change the answer, what reads back what the client gets from it."""
    server, wire = call.gateway.config.server, call.wire
    kind: Any = Relay
    readback: Delivered | None = None
    chain = chunk_chain(call)
    if attempt.wire is not wire:
        codec = wire.codec(TranslatedHead(call, stream), asks_for_usage(call))
        usage = partial(usage_to_tell, call.exchange, wire, stream)
        call.translator = translator = (HookedTranslator if chain else Translator)(attempt.wire, codec, wire, usage)
        kind = partial(TranslatedHookedRelay if chain else TranslatedRelay, codec=translator)
    elif chain:
        kind = partial(HookedRelay, codec=wire.codec(stream, include_usage))
    if chain:
        readback = Delivered(wire.stream(call.exchange.request.body, True), 2 * server.max_event_bytes)
        call.exchange.response.facts = readback.facts
        waits = any(step.is_async for step in chain)
        kind = partial(kind, hooks=chunk_hooks(call, chain), waits=waits, readback=readback)
    relay: Relay = kind(
        stream,
        response,
        call.down,
        call,
        between_events=attempt.target.timeouts.between_events,
        finish_grace=server.finish_grace_s,
        max_event_bytes=server.max_event_bytes,
        distrusted=partial(_distrust, attempt, response),
        masked=partial(masked, call, attempt),
        taps=taps,
        on_first_token=attempt.on_first_token,
    )
    return relay, readback


def _distrust(attempt: Attempt, response: UpstreamResponse) -> None:
    attempt.surplus = True
    response.close()


def asks_for_usage(call: Call) -> bool:
    """The client wants a stream's usage, or gets it in any case."""
    return call.wire.ask_for_usage(dict(call.exchange.request.body))


def chunk_hooks(call: Call, chain: Chain) -> ChunkHooks:
    return partial(run_chunk, chain, (call.gateway, call.exchange), most_bytes=call.gateway.config.server.max_event_bytes)


def _told_by_provider(said: Any, error: MuxxError) -> MuxxError:
    """An error the provider tells of inside its answer keeps the provider's code in the row."""
    code = word_for(said)
    return error if code is None else UpstreamError(code=code)


def _note_failure(call: Call, failure: Any) -> None:
    """The row of a whole answer that says it failed says so too."""
    exchange = call.exchange
    exchange.error, exchange.ended_by, exchange.phase = _told_by_provider(failure, UpstreamError()), "upstream", "stream"


async def complete_stream(
    call: Call, facts: Facts, delivered: Facts, last: bytes, taps: Iterable[Tap], *, comment: bool
) -> None:
    """Everything but the held-back end is out: settle and record, then let the end go, with the cost before it."""
    exchange, down, wire = call.exchange, call.down, call.wire
    exchange.phase = "finish"
    if down.gone:
        raise ClientGone()
    learn(call, facts, delivered, 200)
    if call.delivered is None and stores_content(exchange):
        call.delivered = dumps(wire.assembled(delivered))
    failure = call.stream.error if call.stream is not None else None
    if failure:  # the provider says in the answer's last event that it failed
        if call.delivered is not None and exchange.attempts:
            call.delivered = masked(call, exchange.attempts[-1], call.delivered)
        _note_failure(call, failure)
    settle(call, complete=not failure)
    for tap in taps:
        tap(last)
    note(call, 200)
    if not call.recorded:
        await synced(call)
    if last and comment and wire.comment_event is not None and call.gateway.config.server.stream_cost_comment:
        last = wire.comment_event(exchange.cost, exchange.id, exchange.usage) + last
    down.end(last, call.error_event)


def learn(call: Call, facts: Facts, delivered: Facts, status: int) -> None:
    """What plugins and the row are told of the answer: usage as the provider has it, the text as the client gets it."""
    response = call.exchange.response
    response.status = status
    response.id, response.model = facts.id, facts.model
    response.finish_reasons = list(facts.finish_reasons.values())
    response.facts = delivered
    call.facts = facts
    if facts.usage_invalid:
        call.exchange.attributes[USAGE_INVALID] = True


async def answer_plain(call: Call, attempt: Attempt, response: UpstreamResponse) -> None:
    """Pass on a plain answer, byte for byte."""
    status, headers = response.status, response.headers
    body = await whole_body(call, attempt, response)
    call.committed = True
    content_type = headers.get("content-type", "application/json")
    if "text/event-stream" in content_type.lower():
        raise UpstreamError("The model provider answered with a stream nobody asked for.")
    try:
        facts = delivered = attempt.wire.read_plain(body)
    except UpstreamError as error:
        raise failure_in(call, attempt, body, error) from None
    failure = getattr(facts, "error", None)
    if failure:  # of formats in which a whole answer may say that it failed
        body = masked(call, attempt, body)
    if attempt.wire is not call.wire:
        body = await _translated_plain(call, attempt.wire, body, facts)
        delivered = call.wire.read_plain(body)
    elif chunk_chain(call):
        body = await hooked_plain(call, body)
        delivered = call.wire.read_plain(body)
    learn(call, facts, delivered, status)
    attempt.ended = attempt.ended or time.monotonic()
    age = "Age: 0\r\n" if call.exchange.cache == "joined" else ""
    extra = age + downstream_lines(attempt.target.provider, headers, call.exchange.added_headers)
    await send_whole(call, status, body, content_type, extra, failure)
    hand_out_whole(call)


async def _translated_plain(call: Call, up: Wire, body: bytes, facts: Facts) -> bytes:
    """A plain answer in the caller's format."""
    chunks, lost = whole(up, body, call.wire)
    if not call.wire.counts:
        chunks[-1].usage = usage_to_tell(call.exchange, call.wire, facts)
    if lost:
        call.exchange.attributes[LOST] = sorted(lost)
    head, chain = TranslatedHead(call, facts), chunk_chain(call)
    if not chain:
        return call.wire.encode_answer(chunks, head)
    chunks = await through(call, chain, chunks)
    with plugins_chunks():
        return call.wire.encode_answer(chunks, head)


async def send_whole(
    call: Call, status: int, body: bytes, content_type: str, extra: str = "", failure: Any = None
) -> None:
    """Settle and record, then send a whole answer in one write. `failure` is what it says itself of why it is none."""
    exchange, down = call.exchange, call.down
    exchange.phase = "finish"
    if down.gone:
        raise ClientGone()
    exchange.response.status = status
    for tap in exchange.taps:
        isolated(tap)(body)
    call.delivered = whole_json(body) if call.facts is not None else _as_json(body)
    if failure:
        _note_failure(call, failure)
    settle(call, complete=not failure)
    note(call, status)
    if not call.recorded:
        await synced(call)
    head = answer_lines(exchange) + content_type_line(content_type) + extra
    if exchange.cost is not None:
        head += f"X-Muxx-Cost: {usd(exchange.cost.total_pico)}\r\n"
    exchange.note_head(sent=True)
    down.whole(status, head, body)


def _as_json(body: bytes) -> bytes:
    """A body nobody has read yet, as the row keeps it: as it is when it is JSON, else as a string."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.dumps(body.decode("utf-8", "replace"))
    return body


async def hooked_plain(call: Call, body: bytes) -> bytes:
    """A plain answer is a short stream of the same Chunks."""
    body = whole_json(body)
    chunks = await through(call, chunk_chain(call), call.wire.decode_plain(body))
    with plugins_chunks():
        return call.wire.encode_plain(body, chunks)


@contextmanager
def plugins_chunks() -> Iterator[None]:
    """Around the encoding of chunks that plugins have had."""
    try:
        yield
    except MuxxError:
        raise
    except Exception as error:
        raise unencodable(error) from error


async def through(call: Call, chain: Chain, chunks: Iterable[Chunk]) -> list[Chunk]:
    """What the hooks let through of these chunks, up to the first `end`."""
    hooks = chunk_hooks(call, chain)
    out: list[Chunk] = []
    for chunk in chunks:
        for result in await hooks(chunk):
            out.append(result)
            if result.kind == "end":
                return out
    return out
