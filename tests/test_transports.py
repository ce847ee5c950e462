"""Both transports under the same tests: what holds for one holds for the other, and each is picked where it belongs."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from carrying_kit import both_transports, hang, never_accepting, serving
from tls_kit import self_signed

from muxx.complete import AiohttpTransport
from muxx.errors import UpstreamDisconnected, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from muxx.lean import LeanTransport, Origin
from muxx.targets import Attempt, Provider, Target, Timeouts
from muxx.testing import (
    PROVIDER_KEY,
    Script,
    ScriptedUpstream,
    clean_environment,
    eventually,
    fin,
    head,
    json,
    pause,
    rst,
    sse,
    unused_port,
)
from muxx.transport import RECEIVE_BUFFER, Transport, UpstreamResponse
from muxx.upstream import HttpTransports

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

LOOPS: list[Any] = [asyncio.run, *([uvloop.run] if uvloop is not None else [])]
TRANSPORTS: dict[str, type[LeanTransport | AiohttpTransport]] = {"lean": LeanTransport, "aiohttp": AiohttpTransport}


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Transport]:
    transport = TRANSPORTS[name]()
    with mock.patch.dict(os.environ, clean_environment(), clear=True):
        try:
            yield transport
        finally:
            await transport.close()


def attempt(
    url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"{}", connect: float = 5.0, **row: Any
) -> Attempt:
    target = Target(Provider("somewhere", url, **row), "m", Timeouts(connect=connect))
    return Attempt(target, 1, url + "/chat/completions", dict(headers or {}), {}, payload=body)


class Sink:
    """Collects a body; pauses the response once so much has come."""

    def __init__(self, response: UpstreamResponse, pause_at: int = 2**60) -> None:
        self.response = response
        self.pause_at = pause_at
        self.body = b""

    def feed(self, data: bytes) -> None:
        assert data
        self.body += data
        if len(self.body) >= self.pause_at:
            self.pause_at = 2**60
            self.response.pause()


async def fetch(transport: Transport, one: Attempt) -> tuple[int, bytes]:
    """One call from the request to the end of its body."""
    response = await transport.send(one)
    try:
        sink = Sink(response)
        await response.pump(sink)
        return response.status, sink.body
    finally:
        response.close()


# ── a call ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
async def test_the_request_is_exactly_what_the_attempt_says(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(json({}))
    fields = {"content-type": "application/json", "authorization": "Bearer k", "user-agent": "Übung/1 ☃"}
    async with opened(transport) as carrier:
        one = attempt(scripted_upstream.base_url, headers=fields, body='{"ä": 1}'.encode())
        assert await fetch(carrier, one) == (200, b"{}")
    request = scripted_upstream.last
    assert (request.method, request.target, request.version) == ("POST", "/v1/chat/completions", "HTTP/1.1")
    assert request.body == one.payload
    sent = {name.lower(): value.encode("latin-1").decode() for name, value in request.headers}
    assert sent == fields | {"host": f"127.0.0.1:{scripted_upstream.port}", "content-length": str(len(one.payload))}


@both_transports
@pytest.mark.parametrize(
    "script",
    [
        json(b'{"a": 1}'),
        sse(chunks=[b'{"a"', b": 1}"]),
        sse(chunks=[b'{"a"', b": 1}"], chunked=False),
        [b"HTTP/1.0 200 OK\r\n\r\n", b'{"a": 1}', fin()],
        [head(103), *json(b'{"a": 1}')],
    ],
    ids=["length", "chunked", "until the end", "HTTP/1.0", "after a hint"],
)
async def test_a_body_comes_whole_in_every_framing(transport: str, script: Script, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(script)
    async with opened(transport) as carrier:
        for _ in range(3):
            assert await fetch(carrier, attempt(scripted_upstream.base_url)) == (200, b'{"a": 1}')


@both_transports
async def test_headers_are_found_by_their_lower_case_names(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(json({}, headers={"X-Odd-CASE": "1"}))
    async with opened(transport) as carrier:
        response = await carrier.send(attempt(scripted_upstream.base_url))
        assert response.headers.get("x-odd-case") == "1"
        assert response.headers.get("x-other") is None
        response.close()


@both_transports
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_break_the_request_is_never_sent(
    transport: str, value: str, scripted_upstream: ScriptedUpstream
) -> None:
    async with opened(transport) as carrier:
        with pytest.raises(UpstreamError):
            await carrier.send(attempt(scripted_upstream.base_url, headers={"x-plugin": value}))
    assert scripted_upstream.requests == []


@both_transports
async def test_sent_says_whether_a_byte_may_have_reached_the_provider(
    transport: str, scripted_upstream: ScriptedUpstream
) -> None:
    scripted_upstream.script([fin()])
    async with opened(transport) as carrier:
        refused = attempt(f"http://127.0.0.1:{unused_port()}/v1")
        with pytest.raises(UpstreamUnreachable):
            await carrier.send(refused)
        dropped = attempt(scripted_upstream.base_url)
        with pytest.raises(UpstreamDisconnected):
            await carrier.send(dropped)
        with never_accepting() as port:
            slow = attempt(f"http://127.0.0.1:{port}/v1", connect=0.1)
            with pytest.raises(UpstreamUnreachable):
                await carrier.send(slow)
    assert (refused.sent, dropped.sent, slow.sent) == (False, True, False)


@both_transports
@pytest.mark.parametrize("url", ["ftp://127.0.0.1/v1", "http:///v1", "nonsense"])
async def test_what_is_no_url_is_unreachable(transport: str, url: str) -> None:
    async with opened(transport) as carrier:
        with pytest.raises(UpstreamUnreachable):
            await carrier.send(attempt(url))


async def test_authorities_that_went_after_the_start_leave_the_provider_unreachable(tmp_path: Path) -> None:
    (tmp_path / "torn.pem").write_text("-----BEGIN")
    async with opened("aiohttp") as carrier:
        for name in ("torn.pem", "gone.pem"):
            with pytest.raises(UpstreamUnreachable):
                await carrier.send(attempt("https://127.0.0.1:1/v1", ca_file=str(tmp_path / name)))


# ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_transports
async def test_a_connection_read_to_its_end_is_used_again(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(json({}), sse(b"data: a\n\n"), json({}))
    async with opened(transport) as carrier:
        calls = [attempt(scripted_upstream.base_url) for _ in range(3)]
        for one in calls:
            await fetch(carrier, one)
    assert [one.reused for one in calls] == [False, True, True]
    assert len(scripted_upstream.connections) == 1


@both_transports
@pytest.mark.parametrize(
    "script",
    [
        [head(200, {"Connection": "close", "Content-Length": "2"}), b"{}"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"],
        [*json({}), b"stray"],
        [*json({}), *json({"stray": 1})],
        [*json({}), pause(0.02), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
        [*json({}), pause(0.02), fin()],
    ],
    ids=["close", "HTTP/1.0", "stray bytes", "a stray answer", "a late answer", "closed"],
)
async def test_a_connection_that_is_not_clean_is_not_used_again(
    transport: str, script: Script, scripted_upstream: ScriptedUpstream
) -> None:
    scripted_upstream.script(script, json({"mine": 1}))
    async with opened(transport) as carrier:
        with suppress(UpstreamProtocolError):  # garbage in the same packet may spoil the answer before it
            await fetch(carrier, attempt(scripted_upstream.base_url))
        await asyncio.sleep(0.05)
        second = attempt(scripted_upstream.base_url)
        assert await fetch(carrier, second) == (200, b'{"mine":1}')
        assert not second.reused


@both_transports
@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Swallows: "])
async def test_an_answer_that_begins_behind_another_is_not_the_beginning_of_the_next_one(
    transport: str, begun: bytes, scripted_upstream: ScriptedUpstream
) -> None:
    [answer] = json({})
    scripted_upstream.script([answer + begun], json({"mine": 1}, status=500))
    async with opened(transport) as carrier:
        with suppress(UpstreamProtocolError):
            response = await carrier.send(attempt(scripted_upstream.base_url))
            assert response.headers["content-type"] == "application/json"
            await response.pump(Sink(response))
            response.close()
        assert await fetch(carrier, attempt(scripted_upstream.base_url)) == (500, b'{"mine":1}')


@both_transports
async def test_a_body_that_has_come_and_nobody_took_is_not_part_of_the_next_one(
    transport: str, scripted_upstream: ScriptedUpstream
) -> None:
    """As that of a compressed answer, which is refused by its head."""
    scripted_upstream.script(json({"secret": "of another request"}), json({"mine": 1}))
    async with opened(transport) as carrier:
        response = await carrier.send(attempt(scripted_upstream.base_url))
        await asyncio.sleep(0.05)  # all of it is there
        response.close()
        assert await fetch(carrier, attempt(scripted_upstream.base_url)) == (200, b'{"mine":1}')


@both_transports
async def test_a_response_let_go_early_closes_its_connection(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([head(200, {"Content-Length": "9"}), b"{", hang()])
    async with opened(transport) as carrier:
        response = await carrier.send(attempt(scripted_upstream.base_url))
        response.close()
        response.close()
        await scripted_upstream.last.peer_left()


@both_transports
async def test_a_cancelled_call_closes_its_connection(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([hang()])
    async with opened(transport) as carrier:
        waiting = asyncio.ensure_future(carrier.send(attempt(scripted_upstream.base_url)))
        request = await scripted_upstream.request()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await request.peer_left()


@both_transports
async def test_a_cancelled_body_closes_its_connection(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([head(200, {"Content-Length": "9"}), b"{", hang()])
    async with opened(transport) as carrier:
        reading = asyncio.ensure_future(fetch(carrier, attempt(scripted_upstream.base_url)))
        request = await scripted_upstream.request()
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await request.peer_left()


@both_transports
@pytest.mark.parametrize("end", [fin(), rst()])
async def test_a_body_that_breaks_off_raises_after_what_came(
    transport: str, end: Any, scripted_upstream: ScriptedUpstream
) -> None:
    scripted_upstream.script([head(200, {"Content-Length": "9"}), b"abc", pause(0.02), end])
    async with opened(transport) as carrier:
        response = await carrier.send(attempt(scripted_upstream.base_url))
        sink = Sink(response)
        with pytest.raises(UpstreamDisconnected):
            await response.pump(sink)
        assert sink.body == b"abc"
        response.close()


@both_transports
async def test_a_body_that_breaks_its_framing_raises_soon(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([head(200, {"Transfer-Encoding": "chunked"}), b"1\r\na\r\n", pause(0.02), b"zz\r\n", hang()])
    async with opened(transport) as carrier:
        response = await carrier.send(attempt(scripted_upstream.base_url))
        async with asyncio.timeout(5):
            with pytest.raises((UpstreamDisconnected, UpstreamProtocolError)):
                await response.pump(Sink(response))
        response.close()


@both_transports
async def test_a_paused_response_stops_the_provider_and_goes_on_where_it_was(transport: str) -> None:
    data = os.urandom(2**22)
    async with ScriptedUpstream(send_buffer=32 * 1024) as upstream, opened(transport) as carrier:
        upstream.script(json(data))
        response = await carrier.send(attempt(upstream.base_url))
        sink = Sink(response, pause_at=1)
        pumping = asyncio.ensure_future(response.pump(sink))
        await eventually(lambda: upstream.last.blocked)
        await asyncio.sleep(0.1)
        assert upstream.last.produced < 2**20
        assert not pumping.done()
        response.resume()
        await pumping
        assert sink.body == data
        response.close()


@both_transports
async def test_closing_a_transport_closes_its_idle_connections(transport: str, scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(json({}))
    async with opened(transport) as carrier:
        await asyncio.gather(*(fetch(carrier, attempt(scripted_upstream.base_url)) for _ in range(5)))
        assert scripted_upstream.open_connections > 0
    await eventually(lambda: scripted_upstream.open_connections == 0)


async def options_of_a_providers_connection() -> tuple[int, int]:
    """Whether it sends at once, and the bytes of its buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = await LeanTransport()._connect(Origin("127.0.0.1", listener.getsockname()[1], False), 5.0)
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        connection.abort()
        await asyncio.sleep(0.01)
    return told


@pytest.mark.parametrize("run", LOOPS)
def test_a_providers_connection_sends_at_once_and_holds_little(run: Callable[[Coroutine[Any, Any, Any]], tuple[int, int]]) -> None:
    """The loop sees to the first, every loop."""
    sends_at_once, held = run(options_of_a_providers_connection())
    assert sends_at_once
    assert RECEIVE_BUFFER <= held <= 2 * RECEIVE_BUFFER


async def test_an_idle_connection_that_is_lost_is_nobodys_failure(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([*json({}), pause(0.05), fin()])
    carrier = LeanTransport()
    await fetch(carrier, attempt(scripted_upstream.base_url))
    [[connection]] = carrier._idle.values()
    assert connection.reusable
    await eventually(lambda: connection.transport is None)
    assert connection._failure is None
    assert not connection.reusable
    await carrier.close()


# ── TLS, proxies, picking ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls") / "cert.pem")


@asynccontextmanager
async def with_tls(certificate: Path) -> AsyncIterator[ScriptedUpstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with ScriptedUpstream(tls=context) as upstream:
        yield upstream


@both_transports
async def test_a_certificate_nobody_vouches_for_is_refused(transport: str, certificate: Path) -> None:
    async with with_tls(certificate) as upstream, opened(transport) as carrier:
        one = attempt(upstream.base_url)
        with pytest.raises(UpstreamUnreachable):
            await carrier.send(one)
        assert not one.sent
        assert upstream.requests == []


async def test_a_private_authority_is_trusted_where_the_row_names_it(certificate: Path) -> None:
    async with with_tls(certificate) as upstream, opened("aiohttp") as carrier:
        assert await fetch(carrier, attempt(upstream.base_url, ca_file=str(certificate))) == await fetch(
            carrier, attempt(upstream.base_url, ca_file=str(certificate))
        )
        assert len(upstream.connections) == 1
        with pytest.raises(UpstreamUnreachable):
            await carrier.send(attempt(upstream.base_url))


@pytest.mark.parametrize("from_row", [True, False])
async def test_a_proxy_gets_the_request_in_the_providers_place(from_row: bool, scripted_upstream: ScriptedUpstream) -> None:
    proxy = scripted_upstream.url.replace("//", "//joe:secret@")
    environment = {} if from_row else {"http_proxy": proxy}
    config = {"providers": {"openai": {"base_url": "http://provider.invalid/v1"} | ({"proxy": proxy} if from_row else {})}}
    async with serving("auto", config) as gateway:
        with mock.patch.dict(os.environ, environment):
            assert (await gateway.chat()).status == 200
    assert scripted_upstream.last.target == "http://provider.invalid/v1/chat/completions"
    assert scripted_upstream.last.header("proxy-authorization") == "Basic am9lOnNlY3JldA=="


async def test_no_password_of_the_users_netrc_is_sent_anywhere(scripted_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login joe password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    provider = {"base_url": scripted_upstream.base_url, "api_key": PROVIDER_KEY}
    config = {"providers": {"openai": provider, "anthropic": provider}}
    async with serving("aiohttp", config) as gateway:
        with mock.patch.dict(os.environ, {"HOME": str(tmp_path)}):
            assert (await gateway.chat()).status == 200
            await gateway.chat(model="claude-3-5-haiku")
            async with gateway.gateway.http.post(scripted_upstream.url + "/guard", data=b"{}"):
                pass
    sent = [request.header("authorization") for request in scripted_upstream.requests]
    assert sent == [f"Bearer {PROVIDER_KEY}", None, None]


def test_the_lean_transport_carries_all_it_can() -> None:
    plain = Provider("p", "http://127.0.0.1:1/v1")
    with mock.patch.dict(os.environ, clean_environment(), clear=True):
        for choice, provider, picked in (
            ("auto", plain, LeanTransport),
            ("auto", Provider("p", "https://api.example/v1", proxy="http://proxy"), AiohttpTransport),
            ("auto", Provider("p", "https://api.example/v1", ca_file="ca.pem"), AiohttpTransport),
            ("lean", plain, LeanTransport),
            ("aiohttp", plain, AiohttpTransport),
        ):
            assert isinstance(HttpTransports(choice).pick(provider), picked)
        with mock.patch.dict(os.environ, {"https_proxy": "http://proxy", "no_proxy": "inside.example"}):
            for host, picked in (("api.example", AiohttpTransport), ("inside.example", LeanTransport)):
                assert isinstance(HttpTransports("auto").pick(Provider("p", f"https://{host}/v1")), picked)


async def test_a_plugins_own_session_carries_its_requests(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(json({"verdict": "fine"}))
    async with serving() as gateway:
        for _ in range(2):
            async with gateway.gateway.http.get(scripted_upstream.url + "/guard") as response:
                assert await response.json() == {"verdict": "fine"}
    assert scripted_upstream.last.target == "/guard"
