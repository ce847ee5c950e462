"""FAULTS P01, P02: a transport that a plugin brings crashes, hangs, or gives what is no answer. The plugin is named, and is alone in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from muxx import Attempt, Provider, Sink, StartError, Transport, UpstreamDisconnected, UpstreamResponse, hookimpl
from muxx.testing import RunningGateway, Said, eventually
from muxx.testing.speaking import plain, streamed

SECRET = "canary-of-an-exception"
PIECES = streamed("chat", Said("Hello there, you."), "m", usage=True)
WHOLE = plain("chat", Said("Hello there, you."), "m")


async def deaf() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


class Answer:
    """A good one, but for what `does` does at the place of its name."""

    def __init__(self, stream: bool, does: Mapping[str, Callable[[], Any]]) -> None:
        self.status: Any = does["status"]() if "status" in does else 200
        kind = "text/event-stream" if stream else "application/json"
        self.headers: Any = does["headers"]() if "headers" in does else {"Content-Type": kind}
        self._pieces = PIECES if stream else [WHOLE]
        self._does = does

    def _do(self, place: str) -> Any:
        return self._does[place]() if place in self._does else None

    def body_now(self) -> bytes | None:
        body: bytes | None = self._do("body_now")
        return body

    async def pump(self, sink: Sink) -> None:
        if "pump" in self._does:
            await self._does["pump"]()
        first, *more = self._pieces
        sink.feed(self._does["feed"]() if "feed" in self._does else first)
        await asyncio.sleep(0)
        self._do("later")
        for piece in more:
            sink.feed(piece)

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self._do("close")


class Carrier:
    def __init__(self, does: Mapping[str, Callable[[], Any]]) -> None:
        self._does = does
        self.closed = False

    async def send(self, attempt: Attempt) -> UpstreamResponse:
        if "send" in self._does:
            await self._does["send"]()
        given: UpstreamResponse = self._does["give"]() if "give" in self._does else None
        return given or Answer(attempt.body.get("stream") is True, self._does)

    async def close(self) -> None:
        self.closed = True
        if "end" in self._does:
            raise self._does["end"]()


def bringing(**does: Callable[[], Any]) -> type:
    """A plugin with a provider of its own, at whom a transport of its own calls."""

    class Bank:
        @hookimpl
        def register_providers(self) -> list[Provider | tuple[str, Transport]]:
            return [Provider("bank", "http://bank.test/v1", endpoints=("chat",), transport="wire"), ("wire", Carrier(does))]

    return Bank


def raising(error: type[BaseException]) -> Callable[[], Any]:
    def fail() -> Any:
        raise error(SECRET)

    return fail


def failing(error: type[BaseException]) -> Callable[[], Any]:
    async def fail() -> Any:
        raise error(SECRET)

    return fail


CRASHES = [ValueError, OSError, TimeoutError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", CRASHES)
@pytest.mark.parametrize("place", ["send", "pump"])
async def test_P01_a_crash_in_a_transport_is_plugin_error_and_names_the_plugin(
    place: str, error: type[BaseException], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with RunningGateway(plugins={"bank": bringing(**{place: failing(error)})}) as gateway:
        answer = await gateway.chat(model="bank/m", stream=stream)
        assert (answer.status, answer.error["code"]) == (500, "plugin_error")
        assert (await gateway.get_row(answer.request_id))["error_code"] == "plugin_error"
        assert (await gateway.chat()).status == 200
    assert f"plugin bank failed in {'send' if place == 'send' else 'an answer'} of its transport 'wire': {error.__name__}" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ({"give": lambda: "hello"}, "it gave a str that has no body_now, pump, pause, resume, close; give a muxx.UpstreamResponse"),
        ({"status": lambda: "200"}, "the status of its answer is str; give an int from 100 to 599"),
        ({"headers": lambda: [("a", "b")]}, "the headers of its answer are no mapping of str to str"),
        ({"body_now": lambda: "hello"}, "it gave a str for a body; give bytes"),
        ({"body_now": raising(SystemExit)}, "SystemExit at"),
        ({"feed": lambda: "hello"}, "it gave a str for a body; give bytes"),
    ],
)
async def test_P03_what_is_no_answer_is_plugin_error_and_says_what_to_give(
    does: dict[str, Any], said: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with RunningGateway(plugins={"bank": bringing(**does)}) as gateway:
        answer = await gateway.chat(model="bank/m", stream=stream)
        assert (answer.status, answer.error["code"]) == (500, "plugin_error")
    assert "plugin bank failed in" in caplog.text
    assert said in caplog.text


async def test_P01_a_crash_within_a_stream_ends_it_with_plugin_error() -> None:
    async with RunningGateway(plugins={"bank": bringing(later=raising(SystemExit))}) as gateway:
        answer = await gateway.chat(model="bank/m", stream=True)
        assert answer.status == 200
        assert answer.told()["code"] == "plugin_error"
        assert (await gateway.get_row(answer.request_id))["error_code"] == "plugin_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_P01_an_answer_that_cannot_be_closed_is_an_answer_all_the_same(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with RunningGateway(plugins={"bank": bringing(close=raising(ValueError))}) as gateway:
        assert (await gateway.chat(model="bank/m", stream=stream)).said().text == "Hello there, you."
    assert "plugin bank failed in an answer of its transport 'wire': ValueError" in caplog.text
    assert "inside the gateway" not in caplog.text


async def test_an_error_of_muxxs_own_is_what_became_of_the_call() -> None:
    async with RunningGateway(plugins={"bank": bringing(send=failing(UpstreamDisconnected))}) as gateway:
        assert (await gateway.chat(model="bank/m")).error["code"] == "upstream_disconnected"


@pytest.mark.parametrize("make", [bytearray, memoryview])
async def test_what_holds_bytes_may_be_fed(make: Callable[[bytes], Any]) -> None:
    async with RunningGateway(plugins={"bank": bringing(feed=lambda: make(WHOLE))}) as gateway:
        assert (await gateway.chat(model="bank/m")).said().text == "Hello there, you."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["send", "pump"])
async def test_P02_a_transport_that_does_not_hear_its_cancellation_is_left(
    place: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"first_byte_timeout_s": 0.2, "first_token_timeout_s": 0.2, "request_timeout_s": 0.4}
    async with RunningGateway({"server": limits}, plugins={"bank": bringing(**{place: deaf})}) as gateway:
        answer = await gateway.chat(model="bank/m", stream=stream)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        await eventually(lambda: "of its transport 'wire' although it was cancelled, and is left there" in caplog.text)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
async def test_P01_a_transport_that_cannot_be_closed_keeps_nobody_from_their_end(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async with RunningGateway(plugins={"bank": bringing(end=error)}) as gateway:
        assert (await gateway.chat(model="bank/m")).status == 200
        session = gateway.gateway.http
    assert session.closed
    assert f"plugin bank failed in close of its transport 'wire': {error.__name__}" in caplog.text


@pytest.mark.parametrize(
    ("names", "said"),
    [(["http"], "is the name of muxx's own; rename it"), (["wire", "wire"], "is the name of that of plugin 'bank1'; rename it")],
)
async def test_a_transport_whose_name_is_taken_stops_the_start(names: list[str], said: str) -> None:
    def named(name: str) -> type:
        class Brings:
            @hookimpl
            def register_providers(self) -> list[tuple[str, Transport]]:
                return [(name, Carrier({}))]

        return Brings

    with pytest.raises(StartError, match=said):
        async with RunningGateway(plugins={f"bank{number}": named(name) for number, name in enumerate(names)}):
            pass
