"""FAULTS L08, L09, A07: what must stay secret is in no output, and what clients send cannot forge or break a line of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
from process_kit import Upstream, children, gateway_process, messages, rows, stderr_lines

from muxx.testing import (
    PROVIDER_KEY,
    GatewayProcess,
    RawClient,
    RawResponse,
    RecordedRequest,
    Script,
    chat,
    chat_body,
    error,
    event,
    eventually,
    head,
    json,
    leak,
    rst,
    sse,
)

PROMPT = "prompt-canary-1c9e"
ANSWER = "answer-canary-7b02"
QUERY = "query-canary-55d1"
HEADER = "header-canary-90aa"
COOKIE = "cookie-canary-3f3f"
PEPPER = "pepper-canary-e21b"
MISPLACED = "sk-misplaced-canary-8d4c"
FOREIGN = "sk-foreign-canary-6a6a"
MISTYPED = "muxx_sk_live_" + "mistypedcanary" + "0" * 24
CANARIES = (PROVIDER_KEY, PROMPT, ANSWER, QUERY, HEADER, COOKIE, PEPPER, MISPLACED, FOREIGN, MISTYPED)

PLUGIN = '''
"""A plugin that fails with what it was given, as careless plugins do, and logs what clients send."""
from muxx import hookimpl

class Careless:
    @hookimpl
    def pre_request(self, gateway, exchange):
        if "x-log" in exchange.request.headers:
            gateway.log.warning("a client says %s", exchange.request.headers["x-log"])
        if exchange.request.user_id == "crash":
            raise RuntimeError(f"{exchange.request.body} {dict(exchange.request.headers)}")

    @hookimpl
    async def post_response(self, gateway, exchange):
        if exchange.request.user_id == "crash later":
            raise RuntimeError(f"{exchange.request.body}")
'''


def install_careless(directory: Path) -> str:
    """Have the plugin found as an installed distribution's; what PYTHONPATH has to be for that."""
    metadata = directory / "careless-0.dist-info"
    metadata.mkdir(parents=True)
    (directory / "careless.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: careless\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[muxx]\ncareless = careless:Careless\n")
    return str(directory)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as provider:
        yield provider


def quoting(request: RecordedRequest) -> Script:
    """A provider that answers as the prompt's last word says, and quotes in its errors all it was sent."""
    asked = request.json()
    how = asked["messages"][0]["content"].rpartition(" ")[2]
    quoted = f"Incorrect API key provided: {request.header('authorization')}"
    if how == "html":
        return json(f"<html>{quoted} {PROMPT}</html>".encode(), 500, {"Content-Type": "text/html"})
    if how == "garbage":
        return [f"HTTP/1.1 200 OK\r\nX-Bad\x00: {quoted}\r\n\r\n".encode()]
    if how == "cut":
        return sse(event({"choices": [{"index": 0, "delta": {"content": ANSWER}}]}), end=rst())
    if how == "notjson":
        return sse(f"data: {ANSWER} {quoted}\n\n".encode())
    if how == "redirect":
        return [head(302, {"Location": f"http://127.0.0.1:9/?key={PROVIDER_KEY}", "Content-Length": "0"})]
    if how.isdigit():
        return error(int(how), quoted, www_authenticate=quoted, set_cookie=quoted)
    return chat(ANSWER)(request)


FAULTS = ("400", "401", "403", "404", "429", "500", "529", "html", "garbage", "cut", "notjson", "redirect")


async def provoke(gateway: GatewayProcess) -> list[RawResponse]:
    """Every path on which a secret might slip into an answer or a line; the answers that must not hold any."""
    personal = {"Cookie": COOKIE, "X-Anything": HEADER, "User-Agent": "agent", "traceparent": HEADER}
    answers = [await gateway.chat(f"{PROMPT} fine", stream=streamed, headers=personal) for streamed in (False, True)]
    assert all(ANSWER in answer.text for answer in answers)
    refusals = []
    for fault in FAULTS:
        for streamed in (False, True):
            refusals.append(await gateway.chat(f"{PROMPT} {fault}", stream=streamed, headers=personal))
            assert not refusals[-1].done
    for user in ("crash", "crash later"):
        for streamed in (False, True):
            refusals.append(await gateway.chat(f"{PROMPT} 400", stream=streamed, headers={**personal, "X-Muxx-User-Id": user}))
    async with await gateway.connect() as client:
        for target in (f"/v1/logs?bogus={QUERY}", f"/v1/models?key={QUERY}", f"/{QUERY}?{QUERY}", f"/v1/logs/{QUERY}"):
            await client.request("GET", target, {"Authorization": f"Bearer {gateway.key}", **personal})
            refusals.append(await client.read_response())
        for key in (MISTYPED, FOREIGN):
            credentials = {"Authorization": f"Bearer {key}", "x-api-key": key}
            await client.request("GET", f"/v1/models?key={QUERY}", credentials | personal)
            refusals.append(await client.read_response())
    refusals += [await malformed(gateway, data) for data in BAD_BODIES]
    return [answer for answer in refusals if ("/v1/models" not in answer.text and answer.status != 200) or not answer.complete]


BAD_BODIES = (
    f'{{"model": "{PROMPT}'.encode(),
    orjson.dumps({"model": "gpt-4o", "messages": PROMPT}),
    orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}], "temperature": PROMPT}),
    orjson.dumps({"messages": [{"role": "user", "content": PROMPT}]}),
    b"\xff" + PROMPT.encode(),
)


async def malformed(gateway: GatewayProcess, body: bytes) -> RawResponse:
    async with await gateway.connect() as client:
        await client.request("POST", f"/v1/chat/completions?{QUERY}", {"Authorization": f"Bearer {gateway.key}"}, body)
        return await client.read_response()


async def not_http(gateway: GatewayProcess) -> RawResponse:
    async with await RawClient.connect(gateway.base_url) as client:
        await client.send(f"GET /\x00{QUERY} HTTP/1.1\r\nAuthorization : {gateway.key}\r\n\r\n".encode())
        return await client.read_response()


async def test_L08_A07_no_secret_is_in_any_output(tmp_path: Path, upstream: Upstream) -> None:
    """Content is not stored. The key came by MUXX_BOOTSTRAP_KEY; what /proc shows of every process is searched too."""
    upstream.choose = quoting
    path = install_careless(tmp_path / "site")
    place = tmp_path / "place"
    place.mkdir()
    config = {"project": {"store_content": False}}
    environment = {"MUXX_SECRET": PEPPER, "PYTHONPATH": path}
    async with gateway_process(place, upstream, config, workers=2, **environment) as gateway:
        refusals = [*await provoke(gateway), await not_http(gateway)]
        good = gateway.config_path.read_text()
        gateway.config_path.write_text(good + f'\n[plugins.keys]\napi_key = "{MISPLACED}"\n[server.x]\ny = "{MISPLACED}"\n')
        gateway.reload()
        await eventually(lambda: "reload refused" in gateway.stderr)
        gateway.config_path.write_text(good)
        commands = ("config explain", "keys list --json", "logs export --format jsonl")
        said = await asyncio.gather(*(gateway.run(*command.split()) for command in commands))
        shown = [part.read_bytes() for pid in children(gateway.process.pid) for part in Path(f"/proc/{pid}").glob("cmdline")]
        inherited = [Path(f"/proc/{pid}/environ").read_bytes() for pid in (gateway.process.pid, *children(gateway.process.pid))]
        while_running = leak.find((*CANARIES, gateway.key), *left_behind(gateway))
        gateway.terminate()
        assert await gateway.wait() == 0
        assert "plugin careless failed" in messages(gateway), "the crashes did not reach the log: nothing was proved"
        assert len(rows(place)) > 2 * len(FAULTS)
    assert while_running == []
    assert leak.find((*CANARIES, gateway.key), *left_behind(gateway), *said, *shown) == []
    wire = [f"{answer.headers}".encode() + answer.body for answer in refusals]
    assert leak.find({*CANARIES, gateway.key} - {ANSWER}, *wire) == []
    assert leak.find([gateway.key], *inherited) == []


def left_behind(gateway: GatewayProcess) -> list[Path]:
    """Every file the gateway made: databases, write-ahead logs, journal, shared file, stdout, stderr."""
    return [path for path in gateway.directory.iterdir() if path != gateway.config_path]


NAUGHTY = (
    "cr\rlf\nend",
    "\x1b[31mred\x1b]0;title\x07",
    "\x00nul",
    "\u2028line\u2029paragraph\x85next",
    "\u202etfel ot thgir\u2066",
    '","level":"error","message":"forged',
    "\x7f\x9b31m",
    "%s %d {0} ${jndi:x}",
    "é" * 5000,
)


async def test_L09_what_clients_and_files_say_cannot_break_or_forge_a_line(tmp_path: Path, upstream: Upstream) -> None:
    path = install_careless(tmp_path / "site")
    place = tmp_path / "place"
    place.mkdir()
    async with gateway_process(place, upstream, PYTHONPATH=path) as gateway:
        for text in NAUGHTY:
            await say_everywhere(gateway, text)
        await broken_reload(gateway)
        for text in NAUGHTY:
            assert (await gateway.chat(text, model=f"mock/{text}", user=text)).status < 500
        shown = [await gateway.run("logs", "tail"), await gateway.run("logs", "search", "end")]
        gateway.terminate()
        assert await gateway.wait() == 0
    lines = stderr_lines(gateway)
    assert {line["level"] for line in lines} <= {"info", "warning", "error"}
    assert all(set(line) == {"time", "level", "logger", "message"} for line in lines)
    assert all(len(line["message"]) <= 2048 for line in lines)
    assert sum("a client says" in line["message"] for line in lines) >= len(NAUGHTY) - 3
    for text in (gateway.stderr, gateway.stdout, *shown):
        assert all(character.isprintable() for line in text.split("\n") for character in line)


CHATTY = '''
import logging
import sys
import threading
import traceback
import warnings

import muxx


class Unhappy:
    def __del__(self):
        raise ValueError("a secret")


class Unwritable:
    def __str__(self):
        raise ValueError("a secret")


def fail():
    raise ValueError("a secret")


class Chatty:
    @muxx.hookimpl
    def pre_request(self, gateway):
        warnings.warn("a warning\\n\x1b[31m of two lines", stacklevel=1)
        thread = threading.Thread(target=fail, name="a thread")
        thread.start()
        thread.join()
        Unhappy()
        gateway.log.warning("%d apples", "a secret")
        gateway.log.warning("one apple", "a secret")
        gateway.log.warning("apple %s", Unwritable())
        gateway.log.warning(Unwritable())
        logging.getLogger("a\\nname\x1b" + "x" * 9999).warning("a long name")
        print("printed", "to stdout")
        print("printed to stderr\\r\x1b[31m", file=sys.stderr)
        print("without its end", end="", flush=True)
        sys.stdout.buffer.flush()
        sys.stderr.fileno()
        try:
            fail()
        except ValueError:
            traceback.print_exc(limit=0, chain=False)
'''


async def test_L09_what_a_plugin_says_in_any_way_is_a_line_of_the_log(tmp_path: Path, upstream: Upstream) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "chatty.py").write_text(CHATTY)
    async with gateway_process(tmp_path, upstream, MUXX_PLUGINS_DIR=str(folder)) as gateway:
        printed = gateway.stdout
        assert (await gateway.chat()).status == 200
        said = messages(gateway)
        for text in (
            "UserWarning: a warning\\n\\x1b[31m of two lines, at ",
            "thread a thread failed: ValueError at chatty.py:",
            "a failure in function: ValueError at chatty.py:",
            "%d apples (its arguments do not fit, TypeError at ",
            "one apple (its arguments do not fit, TypeError at ",
            "apple %s (its arguments do not fit, ValueError at ",
            "Unwritable (its arguments do not fit, ValueError at ",
            "a long name",
            "printed to stdout",
            "printed to stderr\\r\\x1b[31m",
            "without its end",
            "ValueError: a secret",  # the plugin printed that itself
        ):
            assert sum(text in line for line in said.split("\n")) == 1, text
        assert said.count("a secret") == 1
        assert all(len(line["logger"]) <= 128 and line["logger"].isprintable() for line in stderr_lines(gateway))
        assert gateway.stdout == printed


async def say_everywhere(gateway: GatewayProcess, text: str) -> None:
    """In the body, in headers as far as HTTP lets it through, in the target."""
    raw = text.encode()[:4000]
    one_line = raw.translate(None, b"\r\n\x00")
    body = orjson.dumps(chat_body(text, model="gpt-4o", user=text, metadata={text[:60]: text}))
    names = ("X-Log", "User-Agent", "X-Muxx-User-Id", "x-request-id", "traceparent", "Cookie")
    fields = b"".join(name.encode() + b": " + one_line + b"\r\n" for name in names)
    for header_lines in (fields, b"X-Log: plain\r\nX-Muxx-Metadata: " + orjson.dumps({"k": text[:1000]}) + b"\r\n"):
        for target in (b"/v1/chat/completions", b"/v1/chat/completions?" + one_line.replace(b" ", b"+")):
            request = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % (target, gateway.key.encode())
            request += b"%bContent-Length: %d\r\n\r\n" % (header_lines, len(body))
            async with await gateway.connect() as client:
                with suppress(OSError):  # a head that is no HTTP may have been refused and closed before the body was sent
                    await client.send(request + body)
                    assert (await client.read_response()).status < 500


async def broken_reload(gateway: GatewayProcess) -> None:
    """A file whose keys and values are naughty is refused in one line."""
    good = gateway.config_path.read_text()
    tables = "".join(f"[server.{orjson.dumps(text[:200]).decode()}]\nx = 1\n" for text in NAUGHTY if "\x7f" not in text)
    gateway.config_path.write_text(good + tables)
    gateway.reload()
    await eventually(lambda: "reload refused" in gateway.stderr)
    await asyncio.sleep(0.05)
    gateway.config_path.write_text(good)
    assert gateway.stderr.count("reload refused") == 1
