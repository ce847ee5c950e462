"""The way to a collector: OTLP over HTTP, as its specification has it, but that nothing is dropped which may be taken later.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The log is the queue: what could not be sent is there, and is sent when it can
be, in the order of its rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .settings import OtelConfig
from .spans import request_of
from .store import sent, waiting

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from muxx import Gateway

BATCH = 512
"""Spans of one request: the exporters of OpenTelemetry's own SDKs send as many."""
MORE = 16
"""Spans by which a batch grows again, each time one is taken, after one was too large for the collector."""
SECONDS = 10.0
"""For a request, as theirs."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 300.0
"""Of what a collector asks for."""
KEPT_SECONDS = 86_400.0
"""Rows that began longer ago are not sent any more."""
ANSWER_BYTES = 65_536
TOLD_CHARACTERS = 200
"""Of what a collector says; the log itself escapes what cannot be printed."""
UNUSABLE = frozenset({400, 413, 415, 422})
"""The collector will never take this; every other status may become another one when somebody has set it right."""


class Outcome(NamedTuple):
    problem: str | None = None
    """None: they are taken."""
    drop: bool = False
    too_large: bool = False
    """Fewer spans may be taken."""
    wait: float | None = None
    """Seconds for which the collector asks to be left alone."""


class Collector:
    """Takes what is in the log and not sent yet to its collector. For one process of the host."""

    def __init__(self, gateway: Gateway, config: OtelConfig) -> None:
        self._gateway = gateway
        self._config = config
        self._headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        self._headers |= {"Content-Type": "application/x-protobuf", "User-Agent": "muxx"}
        self._batch = BATCH
        self._pause = FIRST_PAUSE
        self._again_at = 0.0
        self._problem: str | None = None

    async def look(self) -> None:
        """Send what there is."""
        while time.monotonic() >= self._again_at and await self._send_some():
            pass

    async def _send_some(self) -> bool:
        """Whether there may be more."""
        db = self._gateway.db
        batch = self._batch
        rows = await waiting(db, time.time() - KEPT_SECONDS, batch)
        if not rows:
            return False
        body, count = request_of(rows, self._config)
        outcome = await self._post(body) if count else Outcome()
        if outcome.too_large and len(rows) > 1:
            self._batch = len(rows) // 2
            return True
        if outcome.problem is not None and not outcome.drop:
            self._wait(outcome)
            return False
        if outcome.problem is not None:
            self._gateway.log.error("%d spans are left out: the collector of [plugins.otel] %s", count, outcome.problem)
        elif self._problem is not None and count:
            self._gateway.log.info("the collector of [plugins.otel] takes spans again")
            self._problem = None
        self._pause = FIRST_PAUSE
        self._batch = min(batch + MORE, BATCH)
        await sent(db, rows[-1]["position"])
        return len(rows) == batch

    def _wait(self, outcome: Outcome) -> None:
        """It is told once, however often it fails in the same way."""
        if outcome.problem != self._problem:
            self._problem = outcome.problem
            text = "the collector of [plugins.otel] %s; its spans wait in the log, up to a day"
            self._gateway.log.warning(text, outcome.problem)
        self._again_at = time.monotonic() + max(self._pause, outcome.wait or 0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    async def _post(self, body: bytes) -> Outcome:
        import aiohttp

        try:
            timeout = aiohttp.ClientTimeout(total=SECONDS)
            async with self._gateway.http.post(
                self._config.url, data=body, headers=self._headers, allow_redirects=False, timeout=timeout
            ) as response:
                if response.status // 100 != 2:
                    return _refused(response)
                return self._taken(await _whole(response))
        except TimeoutError:
            return Outcome(f"did not answer within {SECONDS:.0f} s")
        except aiohttp.ClientSSLError:
            return Outcome("has a certificate that is not trusted here")
        except aiohttp.ClientConnectorError:
            return Outcome("cannot be reached")
        except (aiohttp.ClientError, OSError, ValueError):
            return Outcome("broke the connection off")

    def _taken(self, answer: bytes) -> Outcome:
        """Collectors may leave out some of what they take."""
        try:
            told = ExportTraceServiceResponse.FromString(answer).partial_success
        except DecodeError:
            return Outcome()
        if told.rejected_spans:
            text = "the collector of [plugins.otel] left out %d spans: %s"
            self._gateway.log.warning(text, told.rejected_spans, " ".join(told.error_message.split())[:TOLD_CHARACTERS])
        return Outcome()


async def _whole(response: ClientResponse) -> bytes:
    """The answer, which may come in pieces; of one that is too long, its beginning."""
    answer = b""
    while len(answer) < ANSWER_BYTES and (piece := await response.content.read(ANSWER_BYTES - len(answer))):
        answer += piece
    return answer


def _refused(response: ClientResponse) -> Outcome:
    status = response.status
    if 300 <= status < 400:
        return Outcome(f"answered {status}, a redirect, which is not followed: put where it leads into endpoint")
    if status in (401, 403):
        return Outcome(f"answered {status}: set what it knows us by in headers")
    if status in (404, 405):
        return Outcome(f"answered {status}: is endpoint the address of a collector that takes OTLP over HTTP?")
    asked = response.headers.get("Retry-After", "")
    wait = min(float(asked), LONGEST_WAIT) if asked.isascii() and asked.isdigit() else None
    return Outcome(f"answered {status}", drop=status in UNUSABLE, too_large=status == 413, wait=wait)
