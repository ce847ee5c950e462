"""The kit itself: what it sends is on the wire, and what it saw happened."""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tls_kit import self_signed

from muxx import Exchange, hookimpl
from muxx.discovery import discover
from muxx.testing import (
    DONE,
    PROVIDER_KEY,
    GatewayProcess,
    RawClient,
    RecordedRequest,
    RunningGateway,
    Script,
    ScriptedUpstream,
    aside,
    chat_body,
    clean_environment,
    cuts,
    error,
    event,
    events,
    eventually,
    every_cut,
    fin,
    get,
    head,
    json,
    leak,
    pause,
    post_chat,
    rst,
    sse,
    unused_port,
    wait,
)
from muxx.testing.installing import installed
from muxx.testing.settings import gateway_config, toml

STREAM = events({"choices": [{"delta": {"content": "häl"}}]}, {"choices": [{"delta": {"content": "lo"}}]})


@pytest.fixture
async def client(scripted_upstream: ScriptedUpstream) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(scripted_upstream.url) as raw:
        yield raw


# ── what the upstream sends ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_a_script_it_answers_chats_plain_and_streamed(scripted_upstream: ScriptedUpstream) -> None:
    plain = await post_chat(scripted_upstream.url, None)
    assert plain.json()["choices"][0]["message"]["content"] == "Hello there."
    streamed = await post_chat(scripted_upstream.url, None, stream=True, stream_options={"include_usage": True})
    words = [c["delta"].get("content", "") for item in streamed.events for c in item["choices"]]
    assert "".join(words) == "Hello there."
    assert streamed.events[-1]["usage"] == plain.json()["usage"]
    assert streamed.done


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("seed", range(4))
async def test_a_stream_arrives_byte_for_byte_however_it_is_cut(
    scripted_upstream: ScriptedUpstream, seed: int, chunked: bool
) -> None:
    scripted_upstream.script(sse(chunks=cuts(STREAM, seed), chunked=chunked))
    response = await post_chat(scripted_upstream.url, None, stream=True)
    assert response.complete
    assert response.body == STREAM
    assert response.header("content-type") == "text/event-stream"


async def test_pieces_keep_their_borders_on_the_wire(scripted_upstream: ScriptedUpstream, client: RawClient) -> None:
    scripted_upstream.script(sse(chunks=[b"ab", b"", b"c"], gap=0.01))
    await client.post_chat(None, chat_body())
    response = await client.read_head()
    assert [piece async for piece in client.body(response)] == [b"ab", b"c"]


async def test_scripts_are_taken_in_turn_and_the_last_one_stays(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(error(429, code="slow_down", retry_after="7"), lambda request: json({"to": request.target}))
    answers = [await get(scripted_upstream.url, f"/{number}") for number in range(3)]
    assert [answer.status for answer in answers] == [429, 200, 200]
    assert answers[0].header("Retry-After") == "7"
    assert answers[0].error["code"] == "slow_down"
    assert [answer.json()["to"] for answer in answers[1:]] == ["/1", "/2"]


async def test_one_connection_carries_several_requests(scripted_upstream: ScriptedUpstream, client: RawClient) -> None:
    for number in range(3):
        await client.request("GET", f"/{number}")
        if number == 0:
            scripted_upstream.script(json({}))
        assert (await client.read_response()).complete
    assert len(scripted_upstream.connections) == 1
    assert [request.target for request in scripted_upstream.connections[0].requests] == ["/0", "/1", "/2"]
    assert await get(scripted_upstream.url, "/")
    assert len(scripted_upstream.connections) == 2


async def test_anything_at_all_can_be_sent(scripted_upstream: ScriptedUpstream, client: RawClient) -> None:
    scripted_upstream.script([b"HTTP/9.9 banana\n\0", fin()])
    await client.request("GET", "/")
    assert await client.read_some() == b"HTTP/9.9 banana\n\0"
    assert await client.closed()


async def test_a_pause_and_an_event_hold_the_script(scripted_upstream: ScriptedUpstream, client: RawClient) -> None:
    go_on = asyncio.Event()
    scripted_upstream.script([head(200, {"Content-Length": "2"}), pause(0.02), b"a", wait(go_on), b"b"])
    loop = asyncio.get_running_loop()
    start = loop.time()
    await client.request("GET", "/")
    await client.read_head()
    assert await client.read_some() == b"a"
    assert loop.time() - start >= 0.018
    assert not scripted_upstream.last.finished
    go_on.set()
    assert await client.read_some() == b"b"
    await eventually(lambda: scripted_upstream.last.finished)


@pytest.mark.parametrize("chunked", [True, False])
async def test_fin_before_the_end_shows_as_an_incomplete_chunked_answer(
    scripted_upstream: ScriptedUpstream, chunked: bool
) -> None:
    scripted_upstream.script(sse(STREAM[:20], chunked=chunked, end=fin()))
    response = await post_chat(scripted_upstream.url, None, stream=True)
    assert response.body == STREAM[:20]
    assert response.complete is not chunked


async def test_rst_at_byte_k_delivers_k_bytes_and_then_resets(scripted_upstream: ScriptedUpstream) -> None:
    for k in (1, 20, len(STREAM)):
        scripted_upstream.script([head(200), STREAM[:k], rst()])
        async with await RawClient.connect(scripted_upstream.url) as client:
            await client.request("GET", "/")
            await client.read_head()
            got = b""
            with pytest.raises(ConnectionResetError):
                while True:
                    got += await client.read_some()
            assert got == STREAM[:k]


async def test_a_greeting_is_played_before_any_request() -> None:
    async with ScriptedUpstream(greeting=[rst()]) as upstream, await RawClient.connect(upstream.url) as client:
        assert await client.closed()
        assert upstream.requests == []


async def test_a_chooser_that_raises_fails_the_test_at_the_end() -> None:
    def choose(request: RecordedRequest) -> Script:
        raise KeyError("mistake")

    upstream = ScriptedUpstream()
    await upstream.start()
    upstream.script(choose)
    async with await RawClient.connect(upstream.url) as client:
        await client.request("GET", "/")
        assert await client.closed()
    with pytest.raises(KeyError, match="mistake"):
        await upstream.close()


async def test_it_speaks_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with ScriptedUpstream(tls=context) as upstream:
        upstream.script([*json({"ok": True}), fin()])
        trust = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=trust)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b'{"ok":true}' in await reader.read()
        writer.close()
        await writer.wait_closed()
        assert upstream.base_url.startswith("https://")


# ── what the upstream saw ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_is_recorded_as_it_came(scripted_upstream: ScriptedUpstream, client: RawClient) -> None:
    await client.send(b"POST /a//b?c HTTP/1.1\r\nhOST: x\r\nX-A:  1 \r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(b'5\r\n{"a":\r\n', b"2\r\n1}\r\n0\r\nTrailer: y\r\n\r\n")
    assert (await client.read_response()).status == 200
    request = scripted_upstream.last
    assert (request.method, request.target, request.version) == ("POST", "/a//b?c", "HTTP/1.1")
    assert request.headers[:3] == [("hOST", "x"), ("X-A", "1"), ("x-a", "2")]
    assert request.header("X-a") == "1"
    assert request.body == b'{"a":1}'
    assert request.json() == {"a": 1}


async def _streaming_endlessly(upstream: ScriptedUpstream, client: RawClient) -> RecordedRequest:
    """An endless answer under way: a generator of events, one each millisecond."""

    def endless() -> Script:
        yield head(200, {"Content-Type": "text/event-stream"})
        for number in itertools.count():
            yield event({"number": number})
            yield pause(0.001)

    upstream.script(lambda request: endless())
    await client.post_chat(None, chat_body(stream=True))
    await client.read_head()
    return await upstream.request()


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_is_seen_and_stops_production(
    scripted_upstream: ScriptedUpstream, client: RawClient, leave: str
) -> None:
    request = await _streaming_endlessly(scripted_upstream, client)
    assert request.left_at is None
    before = asyncio.get_running_loop().time()
    getattr(client, leave)()
    left_at = await request.peer_left()
    assert before <= left_at <= before + 2
    await eventually(lambda: scripted_upstream.open_connections == 0)
    produced = request.produced
    await asyncio.sleep(0.02)
    assert request.produced == produced
    assert not request.finished
    assert request.connection.was_reset or leave == "close"


async def test_a_half_closed_client_is_seen_and_still_gets_its_answer(
    scripted_upstream: ScriptedUpstream, client: RawClient
) -> None:
    go_on = asyncio.Event()
    scripted_upstream.script([head(200, {"Content-Length": "2"}), b"a", wait(go_on), b"b"])
    await client.request("GET", "/")
    client.half_close()
    request = await scripted_upstream.request()
    await request.peer_left()
    assert not request.connection.was_reset
    go_on.set()
    assert (await client.read_response()).body == b"ab"


async def test_a_client_that_does_not_read_blocks_the_writer() -> None:
    async with (
        ScriptedUpstream(send_buffer=16 * 1024) as upstream,
        await RawClient.connect(upstream.url, receive_buffer=4096) as client,
    ):
        upstream.script([head(200), b"x" * 2**24])
        await client.request("GET", "/")
        request = await upstream.request()
        await eventually(lambda: request.blocked)
        produced = request.produced
        assert produced < 2**20
        await asyncio.sleep(0.02)
        assert request.produced == produced
        got = len(await client.read_some())
        while got < 2**20:
            got += len(await client.read_some())
        await eventually(lambda: request.produced > produced)


# ── the client ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_can_drip_a_request(scripted_upstream: ScriptedUpstream, client: RawClient) -> None:
    scripted_upstream.script(json({}))
    for byte in b"GET / HTTP/1.1\r\n\r\n":
        await client.send(bytes([byte]))
        assert scripted_upstream.requests == [] or byte == 10
    assert (await client.read_response()).json() == {}


async def test_reading_longer_than_allowed_raises(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([pause(10)])
    async with await RawClient.connect(scripted_upstream.url, within=0.02) as client:
        await client.request("GET", "/")
        with pytest.raises(TimeoutError):
            await client.read_response()


async def test_an_answer_shorter_than_announced_is_incomplete(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script([head(200, {"Content-Length": "9"}) + b"short", fin()])
    response = await get(scripted_upstream.url, "/")
    assert (response.complete, response.body) == (False, b"short")


async def test_a_stream_is_read_as_data_without_comments(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script(sse(b": muxx {}\n\n" + STREAM + DONE))
    response = await post_chat(scripted_upstream.url, None, stream=True)
    assert len(response.events) == 2
    assert response.done


async def test_nobody_listens_on_an_unused_port() -> None:
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(f"http://127.0.0.1:{unused_port()}")


# ── the small tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cuts_lose_nothing_and_depend_on_the_seed_alone() -> None:
    data = bytes(range(256)) * 40
    chunkings = [list(cuts(data, seed)) for seed in range(40)]
    assert all(b"".join(pieces) == data for pieces in chunkings)
    assert chunkings == [list(cuts(data, seed)) for seed in range(40)]
    assert len({len(pieces) for pieces in chunkings}) > 10
    assert any(len(pieces) == len(data) for pieces in chunkings), "one of forty cuts byte by byte"
    assert list(every_cut(b"abc")) == [(b"a", b"bc"), (b"ab", b"c")]


def test_leak_finds_a_canary_in_bytes_text_files_and_directories(tmp_path: Path) -> None:
    nested = tmp_path / "journal" / "1.seg"
    nested.parent.mkdir()
    nested.write_bytes(b"\xff\0binary " + "canary-ö tail".encode())
    clean = tmp_path / "clean"
    clean.write_text("nothing")
    found = leak.find(["canary-ö", "other"], tmp_path, clean, b"..other", "x other y")
    assert [(item.canary, item.place, item.offset) for item in found] == [
        ("canary-ö", str(nested), 9),
        ("other", "data[2]", 2),
        ("other", "data[3]", 2),
    ]
    assert leak.find(["canary"], clean) == []


def test_leak_refuses_to_search_for_nothing_or_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty canary"):
        leak.find([""], b"data")
    with pytest.raises(FileNotFoundError):
        leak.find(["x"], tmp_path / "missing")


async def test_eventually_waits_and_then_fails_by_name() -> None:
    seen: list[int] = []
    await eventually(lambda: len(seen) > 2 or seen.append(1))
    with pytest.raises(AssertionError, match="never"):

        def never() -> bool:
            return False

        await eventually(never, within=0.01)


def test_a_configuration_survives_its_file() -> None:
    odd = {"a b": 'quote " back \\ $ é \x7f \n', "list": [1, 2.5, {"x": [True]}], "empty": {}}
    config = gateway_config("http://127.0.0.1:1/v1", {"plugins": {"mock": odd}}, {"server": {"workers": 2}}, port=7)
    assert tomllib.loads(toml(config)) == config
    assert config["server"] == {"host": "127.0.0.1", "port": 7, "breaker_failures": 0, "workers": 2}
    assert config["providers"]["openai"]["api_key"] == PROVIDER_KEY


def test_a_clean_environment_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "https_proxy", "MUXX_SECRET", "MUXX_STREAMS", "PLAIN"):
        monkeypatch.setenv(name, "x")
    environment = clean_environment()
    assert {"OPENAI_API_KEY", "https_proxy", "MUXX_SECRET"}.isdisjoint(environment)
    assert {"MUXX_STREAMS", "PLAIN"} <= environment.keys()


# ── gateways ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Marker:
    """A plugin that leaves a mark in the row."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        exchange.attributes["marked"] = True


def test_a_class_is_found_as_a_plugin_for_the_time_of_a_test_only(tmp_path: Path) -> None:
    class Local:
        pass

    with installed({"marker": Marker, "local": Local}, tmp_path):
        found = {item.name: item.cls for item in discover()}
        assert (found["marker"], found["local"]) == (Marker, Local)
    assert {"marker", "local"}.isdisjoint(item.name for item in discover())


async def test_a_running_gateway_carries_a_chat_to_its_upstream_and_shows_the_row(muxx_gateway: RunningGateway) -> None:
    response = await muxx_gateway.chat("Hi", stream=True)
    assert response.done
    request = muxx_gateway.upstream.last
    assert request.target == "/v1/chat/completions"
    assert request.header("authorization") == f"Bearer {PROVIDER_KEY}"
    assert muxx_gateway.key not in str(request.headers)
    row = await muxx_gateway.get_row(response.request_id)
    assert (row["status"], row["model"], row["provider"]) == (200, "gpt-4o", "openai")
    assert muxx_gateway.gateway.config.database.path == muxx_gateway.directory / "muxx.db"


async def test_a_running_gateway_takes_settings_and_plugins_and_cleans_up_after_itself() -> None:
    async with RunningGateway({"plugins": {"mock": {"text": "set"}}}, plugins={"marker": Marker}, mock=True) as gateway:
        response = await gateway.chat()
        assert response.json()["choices"][0]["message"]["content"] == "set"
        assert gateway.upstream.requests == []
        assert (await gateway.get_row(response.request_id))["attributes"] == {"marked": True}
        directory = gateway.directory
    assert not directory.exists()


async def test_a_running_gateway_has_the_plugins_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "polite.py").write_text(
        "import muxx\n\n\n"
        "class Polite:\n"
        "    @muxx.hookimpl\n"
        "    def pre_request(self, exchange):\n"
        "        exchange.reply_headers['X-Polite'] = 'thank you'\n"
    )
    async with RunningGateway(plugins_dir=tmp_path) as gateway:
        assert (await gateway.chat()).header("X-Polite") == "thank you"
    async with RunningGateway() as gateway:
        assert (await gateway.chat()).header("X-Polite") is None


@asynccontextmanager
async def lodger(seen: list[int]) -> AsyncIterator[int]:
    seen.append(threading.get_ident())
    yield threading.get_ident()
    seen.append(threading.get_ident())


async def test_what_runs_aside_has_a_thread_and_a_loop_of_its_own_and_is_left_at_the_end() -> None:
    seen: list[int] = []
    before = asyncio.all_tasks()
    with aside(lodger(seen)) as thread:
        assert thread != threading.get_ident()
        assert asyncio.all_tasks() == before
        assert seen == [thread]
    assert seen == [thread, thread]
    assert thread not in {running.ident for running in threading.enumerate()}


def test_what_cannot_begin_aside_or_fails_within_is_told_here() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise OSError("the port is taken")
        yield

    with pytest.raises(OSError, match="the port is taken"), aside(broken()):
        pass
    seen: list[int] = []
    with pytest.raises(ValueError, match="mine"), aside(lodger(seen)):
        raise ValueError("mine")
    assert len(seen) == 2


async def test_a_row_that_never_comes_fails_the_test(muxx_gateway: RunningGateway) -> None:
    with pytest.raises(AssertionError, match="no row of req_none"):
        await muxx_gateway.get_row("req_none", within=0.02)


async def test_a_gateway_process_keeps_address_key_and_rows_over_a_kill(
    scripted_upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with GatewayProcess(tmp_path, scripted_upstream.base_url) as process:
        response = await process.chat(stream=True)
        assert response.done
        await process.restart()
        assert (await process.get_row(response.request_id))["status"] == 200
        process.terminate()
        assert await process.wait() == 0
        assert process.key not in process.stdout + process.stderr


async def test_a_gateway_process_that_cannot_start_says_why(scripted_upstream: ScriptedUpstream, tmp_path: Path) -> None:
    process = GatewayProcess(tmp_path, scripted_upstream.base_url, {"server": {"prot": 1}})
    with pytest.raises(AssertionError, match="prot"):
        await process.start()


def test_the_kit_loads_neither_a_server_nor_pytest() -> None:
    code = "import muxx.testing, sys; from muxx.testing import exchange, chunks; exchange(); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert {"aiohttp", "pytest", "aiosqlite"}.isdisjoint(done.stdout.split())
