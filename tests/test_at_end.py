"""`exchange.at_end`: who asked is told once, on every path, whatever others do."""

from __future__ import annotations

import asyncio
import logging

import pytest
from cache_kit import ROOM
from carrying_kit import hang, serving

from muxx import Exchange, PermissionDenied, hookimpl
from muxx.testing import answers, chat, eventually, wait
from muxx.testing.settings import merged


class Asks:
    """Wants to be told of every exchange, and refuses or crashes where the prompt says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.told: list[tuple[str, int, int, str | None]] = []

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        self.asked += 1
        exchange.at_end(self._fail)
        exchange.at_end(self._tell)
        content = exchange.request.body["messages"][0]["content"]
        if content == "refuse":
            raise PermissionDenied("No.")
        if content == "crash":
            raise ValueError

    def _fail(self, exchange: Exchange) -> None:
        raise RuntimeError("a secret")

    def _tell(self, exchange: Exchange) -> None:
        usage, error = exchange.usage, exchange.error
        self.told.append((exchange.id, usage.input_tokens, usage.output_tokens, error.code if error else None))


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [("Hello", 200, None), ("refuse", 403, "model_not_allowed"), ("crash", 500, "plugin_error"), ("fail", 500, "broken")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_one_is_told_once_on_every_path(content: str, status: int, code: str | None, stream: bool) -> None:
    async with serving(plugins={"asks": Asks}) as gateway:
        failing = answers.json({"error": {"message": "x", "type": "x", "param": None, "code": "broken"}}, 500)
        gateway.upstream.script(failing if content == "fail" else chat())
        asks = gateway.gateway.plugins.by_name["asks"].instance
        response = await gateway.chat(content, stream=stream)
        assert response.status == status
        await eventually(lambda: asks.told)
        told_id, _, output, told_code = asks.told[0]
        assert (told_id, told_code) == (response.request_id, code)
        assert (output > 0) is (status == 200)
        await asyncio.sleep(0.05)
        assert len(asks.told) == 1


async def test_of_a_client_that_leaves_one_is_told_too() -> None:
    async with serving(plugins={"asks": Asks}) as gateway:
        gateway.upstream.script([hang()])
        asks = gateway.gateway.plugins.by_name["asks"].instance
        asking = asyncio.create_task(gateway.chat(stream=True))
        await eventually(lambda: len(gateway.upstream.requests) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: len(asks.told) == 1)


async def test_who_began_a_shared_call_is_told_when_that_is_paid_for() -> None:
    """Its client leaves, others stay: what the call comes to is known when it ends, and then it is told."""
    async with serving(config=merged(ROOM, {}), plugins={"asks": Asks}) as gateway:
        release = asyncio.Event()
        gateway.upstream.choose = lambda request: [wait(release), *chat("shared")(request)]
        asks = gateway.gateway.plugins.by_name["asks"].instance
        first = asyncio.create_task(gateway.chat())
        await eventually(lambda: len(gateway.upstream.requests) == 1)
        second = asyncio.create_task(gateway.chat())
        await eventually(lambda: asks.asked == 2)
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0.2)
        assert asks.told == []
        release.set()
        assert (await second).status == 200
        await eventually(lambda: len(asks.told) == 2)
        assert all(output > 0 for _, _, output, _ in asks.told)


async def test_a_crash_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(plugins={"asks": Asks}) as gateway:
        gateway.upstream.script(chat())
        with caplog.at_level(logging.ERROR):
            assert (await gateway.chat()).status == 200
            await eventually(lambda: "at the end of request" in caplog.text)
        assert "RuntimeError" in caplog.text
        assert "a secret" not in caplog.text


async def test_nobody_is_told_nothing() -> None:
    """Without `post_response` and `at_end` nothing runs after an exchange."""
    async with serving(config={"plugins": {"spend_caps": {"enabled": False}}}) as gateway:
        gateway.upstream.script(chat())
        said: list[Exchange] = []
        gateway.gateway.after = said.append  # type: ignore[method-assign]
        assert (await gateway.chat()).status == 200
        await asyncio.sleep(0.05)
        assert said == []
