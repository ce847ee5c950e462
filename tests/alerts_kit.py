"""What the tests of alerts share: receivers to be reached, a mail server, money to be spent, and what the gateway says of it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from carrying_kit import serving

from muxx.testing import RecordedRequest, RunningGateway, Script, ScriptedUpstream, chat, fin, json
from muxx.testing.settings import merged
from muxx.testing.steps import Chooser

SECRET = base64.b64encode(b"a secret of thirty-two bytes ok!").decode()
SLACK_PATH = "/services/T000/B000/slack-canary-5f1c77"
PRICE = {"model": "gpt-4o", "input": "1000000", "output": "0"}
"""A dollar for each token of input, so that an answer costs what the provider says it read."""
QUICK = {"check_every_s": 0.05, "first_retry_s": 0.05}

OK: Script = [*json({"ok": True}), fin()]


def webhook(receiver: ScriptedUpstream, secret: str = SECRET) -> dict[str, Any]:
    return {"kind": "webhook", "url": f"{receiver.url}/hook", "secret": secret}


def slack(receiver: ScriptedUpstream) -> dict[str, Any]:
    return {"kind": "slack", "url": receiver.url + SLACK_PATH}


@asynccontextmanager
async def receiving(*scripts: Script) -> AsyncIterator[ScriptedUpstream]:
    """A receiver over HTTP. It answers 200, or by these scripts, one each in turn."""
    async with ScriptedUpstream() as receiver:
        receiver.script(*(scripts or (OK,)))
        yield receiver


@asynccontextmanager
async def alerting(
    project: Mapping[str, Any], receivers: Mapping[str, Any], *, config: Mapping[str, Any] | None = None, **alerts: Any
) -> AsyncIterator[RunningGateway]:
    """A gateway that is quick to tell these receivers; every answer costs $1, and none comes from the cache."""
    settings = {
        "project": {"cache": {"enabled": False}, **project},
        "plugins": {"alerts": {**QUICK, "receivers": receivers, **alerts}, "pricing": {"prices": [PRICE]}},
    }
    async with serving(config=merged(settings, config or {})) as gateway:
        gateway.upstream.script(costing(1))
        yield gateway


def costing(dollars: int) -> Chooser:
    """An answer that costs so much."""
    return chat(input_tokens=dollars, output_tokens=0)


async def until(condition: Callable[[], Awaitable[Any]], within: float = 5.0) -> Any:
    """What `condition()` comes to, once that is something."""
    async with asyncio.timeout(within):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found


async def events(gateway: RunningGateway, target: str = "/v1/alerts/events") -> list[dict[str, Any]]:
    response = await gateway.get(target)
    assert response.status == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]
    return found


async def settled(gateway: RunningGateway, state: str = "delivered", count: int = 1, within: float = 5.0) -> list[dict[str, Any]]:
    """The events, once there are so many and every delivery of them has come to this state."""

    async def there() -> list[dict[str, Any]]:
        found = await events(gateway)
        done = all(delivery["state"] == state for event in found for delivery in event["deliveries"])
        return found if len(found) >= count and done else []

    found: list[dict[str, Any]] = await until(there, within)
    return found


def is_signed(request: RecordedRequest, secret: str = SECRET) -> bool:
    """Whether a webhook's signature is right, as its receiver would find out."""
    signed = f"{request.header('webhook-id')}.{request.header('webhook-timestamp')}.".encode() + request.body
    digest = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256")
    return request.header("webhook-signature") == "v1," + base64.b64encode(digest).decode()


@dataclass
class MailServer:
    """A small SMTP server that takes mail, or refuses it with `refusal`."""

    tls: ssl.SSLContext | None = None
    wrapped: bool = False
    """TLS from the first byte, instead of by STARTTLS."""
    refusal: bytes = b""
    refuses: str = ""
    """The one address that it refuses."""
    thinks: float = 0
    """Seconds before each answer."""
    farewell: bytes = b"221 bye\r\n"
    """Without one it hangs where its client says good-bye."""
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[list[str]] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    plain_commands: list[str] = field(default_factory=list)
    """What was said before the connection was safe."""
    port: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MailServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls if self.wrapped else None)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        safe, to = self.wrapped, []
        while line := (await reader.readline()).strip():
            command = line.split(b" ")[0].upper().decode()
            await asyncio.sleep(self.thinks)
            if not safe:
                self.plain_commands.append(command)
            answer = b"250 ok"
            match command:
                case "EHLO":
                    answer = b"250-mail\r\n" + (b"250-AUTH PLAIN\r\n" if safe else b"250-STARTTLS\r\n" if self.tls else b"") + b"250 8BITMIME"
                case "STARTTLS":
                    writer.write(b"220 go\r\n")
                    assert self.tls is not None
                    await writer.start_tls(self.tls)
                    safe = True
                    continue
                case "AUTH":
                    self.logins.append(base64.b64decode(line.split(b" ")[2]))
                    answer = b"235 welcome"
                case "RCPT":
                    address = line.decode().partition("<")[2].rstrip(">")
                    answer = self.refusal or (b"550 unknown" if address == self.refuses else answer)
                    if answer == b"250 ok":
                        to.append(address)
                case "DATA":
                    writer.write(b"354 go on\r\n")
                    data = await reader.readuntil(b"\r\n.\r\n")
                    self.mails.append(message_from_bytes(data[:-3], policy=policy.default))
                    self.envelopes.append(to)
                case "QUIT":
                    writer.write(self.farewell)
                    if not self.farewell:
                        await reader.read()
                    return
            writer.write(answer + b"\r\n")
            await writer.drain()
