"""FAULTS P01: a hook raises. Whoever decides fails closed, whoever looks on fails open, and nobody is told more than that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from functools import wraps
from typing import Any

import pytest
import pytest_asyncio
from carrying_kit import error_code, serving
from hooks_kit import SECRET, Seen, both_forms, delivered, plugin_config, watching

from muxx import (
    Attempt,
    Chunk,
    Exchange,
    Gateway,
    HttpRequest,
    PermissionDenied,
    Reply,
    Route,
    StartError,
    hookimpl,
)
from muxx.testing import RunningGateway, chat, eventually

CRASHES: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (RuntimeError, asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, TimeoutError)
}
every_crash = pytest.mark.parametrize("crash", CRASHES)
one_loop = pytest.mark.asyncio(loop_scope="module")


class Crashing:
    """Raises what `x-crash: HOOK KIND` says, before or (`HOOK later KIND`) after it has suspended."""

    header = "x-crash"
    name = "crashing"

    @hookimpl(tryfirst=True)
    async def authenticate(self, request: HttpRequest) -> None:
        await self._crash("authenticate", request.headers)

    @hookimpl
    async def pre_request(self, exchange: Exchange) -> None:
        if "on_chunk" not in exchange.request.headers.get(self.header, ""):
            exchange.skip_chunks(self.name)
        await self._crash("pre_request", exchange.request.headers)

    @hookimpl
    async def pre_attempt(self, exchange: Exchange) -> None:
        await self._crash("pre_attempt", exchange.request.headers)

    @hookimpl
    async def on_chunk(self, exchange: Exchange, chunk: Chunk) -> None:
        if chunk.kind == "end" or "at once" in exchange.request.headers[self.header]:
            await self._crash("on_chunk", exchange.request.headers)

    @hookimpl(tryfirst=True)
    async def post_response(self, exchange: Exchange) -> None:
        await self._crash("post_response", exchange.request.headers)

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        async def handle(gateway: Any, request: HttpRequest) -> Reply:
            await self._crash("route", request.headers)
            return Reply.json({})

        return [Route("GET", "/crashing", handle)]

    async def _crash(self, hook: str, headers: Any) -> None:
        wanted, *rest = headers.get(self.header, "").split() or [""]
        if wanted == hook:
            if "later" in rest:
                await asyncio.sleep(0)
            raise CRASHES[rest[-1]](SECRET)


class Shaky(Crashing):
    """The same, by another header, for a plugin that may be ignored."""

    header = "x-shake"
    name = "shaky"

    @hookimpl
    def register_routes(self) -> Iterable[Route]:
        return []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway_and_seen() -> AsyncIterator[tuple[RunningGateway, Seen]]:
    seen = Seen()
    plugins = {"crashing": Crashing, "shaky": Shaky, "watching": watching(seen, chunks=False)}
    async with serving(config=plugin_config(shaky={"on_error": "ignore"}), plugins=plugins) as gateway:
        yield gateway, seen


@one_loop
@every_crash
@both_forms
@pytest.mark.parametrize("hook", ["authenticate", "pre_request", "pre_attempt"])
@pytest.mark.parametrize("when", ["", "later "])
async def test_P01_a_crash_in_a_deciding_hook_refuses(
    hook: str,
    crash: str,
    when: str,
    stream: bool,
    gateway_and_seen: tuple[RunningGateway, Seen],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway, seen = gateway_and_seen
    asked = len(gateway.upstream.requests)
    response = await gateway.chat(headers={"X-Crash": f"{hook} {when}{crash}"}, stream=stream)
    assert (response.status, error_code(response), response.error["type"]) == (500, "plugin_error", "api_error")
    assert len(gateway.upstream.requests) == asked
    assert f"plugin crashing failed in {hook}: {crash}" in caplog.text
    for told in (response.text, caplog.text):
        assert SECRET not in told
        assert "Traceback" not in told
    await eventually(lambda: seen.after[str(response.request_id)] == 1)
    assert (await gateway.chat()).status == 200


@one_loop
@every_crash
@pytest.mark.parametrize("when", ["", "later "])
async def test_P01_a_crash_in_on_chunk_ends_the_answer_with_plugin_error(
    crash: str, when: str, gateway_and_seen: tuple[RunningGateway, Seen], caplog: pytest.LogCaptureFixture
) -> None:
    gateway, _ = gateway_and_seen
    streamed = await gateway.chat(headers={"X-Crash": f"on_chunk {when}{crash}"}, stream=True)
    assert streamed.complete
    assert streamed.events[-1]["error"]["code"] == "plugin_error"
    assert not streamed.done
    plain = await gateway.chat(headers={"X-Crash": f"on_chunk {when}{crash}"})
    assert (plain.status, error_code(plain)) == (500, "plugin_error")
    assert caplog.text.count(f"plugin crashing failed in on_chunk: {crash}") == 2
    assert SECRET not in plain.text + streamed.text + caplog.text
    row = await gateway.get_row(streamed.request_id)
    assert (row["status"], row["error_code"], row["ended_by"], row["phase"]) == (200, "plugin_error", "muxx", "stream")
    assert row["output_tokens"] > 0


@one_loop
async def test_P01_a_crash_before_the_first_byte_of_a_stream_is_a_plain_error(
    gateway_and_seen: tuple[RunningGateway, Seen],
) -> None:
    gateway, _ = gateway_and_seen
    response = await gateway.chat(headers={"X-Crash": "on_chunk at once RuntimeError"}, stream=True)
    assert (response.status, error_code(response)) == (500, "plugin_error")


@one_loop
@every_crash
@both_forms
@pytest.mark.parametrize("when", ["", "later "])
async def test_P01_a_crash_in_an_observing_hook_changes_nothing(
    crash: str, when: str, stream: bool, gateway_and_seen: tuple[RunningGateway, Seen], caplog: pytest.LogCaptureFixture
) -> None:
    gateway, seen = gateway_and_seen
    response = await gateway.chat(headers={"X-Crash": f"post_response {when}{crash}"}, stream=stream)
    assert delivered(response) == "Hello there."
    await eventually(lambda: seen.after[str(response.request_id)] == 1)
    assert f"plugin crashing failed in post_response: {crash}" in caplog.text
    assert SECRET not in caplog.text
    assert (await gateway.get_row(response.request_id))["status"] == 200


@one_loop
@every_crash
@pytest.mark.parametrize("when", ["", "later "])
async def test_P01_a_crash_in_a_route_answers_500_and_harms_nobody_else(
    crash: str, when: str, gateway_and_seen: tuple[RunningGateway, Seen], caplog: pytest.LogCaptureFixture
) -> None:
    gateway, _ = gateway_and_seen
    async with await gateway.connect() as client:
        await client.request("GET", "/crashing", {"X-Muxx-Api-Key": gateway.key, "X-Crash": f"route {when}{crash}"})
        response = await client.read_response()
    assert response.status == 500
    assert response.error["type"] == "api_error"
    assert f"plugin crashing failed in GET /crashing: {crash}" in caplog.text
    assert SECRET not in response.text + caplog.text
    assert (await gateway.chat()).status == 200


@one_loop
@every_crash
@both_forms
@pytest.mark.parametrize("hook", ["authenticate", "pre_request", "pre_attempt", "on_chunk", "post_response"])
async def test_P01_on_error_ignore_lets_the_request_pass(
    hook: str, crash: str, stream: bool, gateway_and_seen: tuple[RunningGateway, Seen], caplog: pytest.LogCaptureFixture
) -> None:
    gateway, _ = gateway_and_seen
    response = await gateway.chat(headers={"X-Shake": f"{hook} {crash}"}, stream=stream)
    assert delivered(response) == "Hello there."
    assert response.done or not stream
    await eventually(lambda: f"plugin shaky failed in {hook}: {crash}" in caplog.text)


# ── what is no hook's own crash ──


class Odd:
    """Does what `x-odd` says."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> Reply | None:
        odd = exchange.request.headers.get("x-odd", "")
        if odd == "deep":
            deep: list[Any] = []
            for _ in range(300):
                deep = [deep]
            exchange.attributes["deep"] = deep
        if odd.startswith("end"):
            exchange.at_end(lambda _: self._raise(odd))
        return Reply(self._items(odd)) if odd.startswith("reply") else None

    async def _items(self, odd: str) -> AsyncIterator[Chunk]:
        yield Chunk("text", "Hi")
        self._raise(odd)

    @staticmethod
    def _raise(odd: str) -> None:
        raise CRASHES[odd.split()[-1]](SECRET)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("crash", ["RuntimeError", "CancelledError", "SystemExit", "KeyboardInterrupt"])
async def test_what_a_reply_raises_on_its_way_is_the_plugins_and_ends_that_exchange_alone(crash: str, stream: bool) -> None:
    async with serving(plugins={"odd": Odd}) as gateway:
        response = await gateway.chat(stream=stream, headers={"X-Odd": f"reply {crash}"})
        assert '"code":"plugin_error"' in response.text
        row = await gateway.get_row(response.request_id)
        assert (row["ended_by"], row["error_code"]) == ("muxx", "plugin_error")
        gateway.upstream.script(chat())
        assert (await gateway.chat()).status == 200


@pytest.mark.parametrize("crash", ["RuntimeError", "CancelledError", "SystemExit", "KeyboardInterrupt"])
async def test_what_is_raised_at_the_end_of_an_exchange_changes_nothing_for_anybody(crash: str) -> None:
    async with serving(plugins={"odd": Odd}) as gateway:
        for _ in range(2):
            gateway.upstream.script(chat())
            response = await gateway.chat(headers={"X-Odd": f"end {crash}"})
            assert response.status == 200
            assert (await gateway.get_row(response.request_id))["status"] == 200


async def test_an_attribute_nested_deeper_than_json_is_written_is_cut_and_costs_no_row() -> None:
    async with serving(plugins={"odd": Odd}) as gateway:
        gateway.upstream.script(chat())
        response = await gateway.chat(headers={"X-Odd": "deep"})
        assert response.status == 200
        assert str((await gateway.get_row(response.request_id))["attributes"]["deep"]).count("[") < 100


def undecided(function: Any) -> Any:
    """A decorator that forgets what it wraps is an `async def`."""

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return plain


class Guard:
    @hookimpl
    @undecided
    async def pre_attempt(self, exchange: Exchange) -> None:
        raise PermissionDenied

    @hookimpl
    @undecided
    async def post_response(self, exchange: Exchange) -> None:
        raise AssertionError


async def test_a_decision_that_nobody_would_await_fails_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(plugins={"guard": Guard}) as gateway:
        response = await gateway.chat()
        assert error_code(response) == "plugin_error"
        assert not gateway.upstream.requests
        await eventually(lambda: "guard failed in post_response" in caplog.text)
    assert "make it an `async def`" in caplog.text


class Unawaited:
    """Leaves an `async def` where a `def` is asked for."""

    @hookimpl
    def pre_request(self, exchange: Exchange) -> None:
        async def refuses(*_: object) -> None:
            raise PermissionDenied("No.", code="no")

        ask: Any = refuses
        {"before": exchange.before_attempt, "end": exchange.at_end}[exchange.request.headers["x-odd"]](ask)


async def test_P01_a_refusal_before_an_attempt_that_nobody_would_await_fails_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(plugins={"unawaited": Unawaited}) as gateway:
        response = await gateway.chat(headers={"X-Odd": "before"})
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert gateway.upstream.requests == []
    assert re.search(r"a plugin failed before an attempt: \S+\.Unawaited\.pre_request\.<locals>\.refuses: CoroutineNobodyAwaits", caplog.text)


async def test_what_nobody_would_await_at_the_end_of_an_exchange_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(plugins={"unawaited": Unawaited}) as gateway:
        assert (await gateway.chat(headers={"X-Odd": "end"})).status == 200
        await eventually(lambda: "a plugin failed at the end of request" in caplog.text)
    assert re.search(r"\.Unawaited\.pre_request\.<locals>\.refuses: CoroutineNobodyAwaits", caplog.text)


async def test_P01_a_signature_that_exits_is_that_plugins_error() -> None:
    class Signs:
        @hookimpl
        def pre_attempt(self, attempt: Attempt) -> None:
            attempt.sign = exits

    def exits(attempt: Attempt) -> None:
        raise SystemExit

    async with serving(plugins={"signs": Signs}) as gateway:
        for _ in range(2):
            assert error_code(await gateway.chat()) == "plugin_error"


@pytest.mark.parametrize("exits", [SystemExit, KeyboardInterrupt])
async def test_P01_a_plugins_task_that_exits_ends_no_process(exits: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    class Spawns:
        @hookimpl
        async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
            async def work() -> None:
                raise exits

            gateway.spawn(work(), name="exiting")
            yield

    async with serving(plugins={"spawns": Spawns}) as gateway:
        assert (await gateway.chat()).status == 200
    assert re.search(rf"task exiting failed: {exits.__name__} at test_plugin_crashes.py:\d+ in work", caplog.text)


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("seconds", "function", "said"),
    [
        (0, nothing, "every() takes a number of seconds above 0, not 0"),
        ("60", nothing, "every() takes a number of seconds above 0, not '60'"),
        (1, None, "every() takes an `async def` to call again and again, not a NoneType"),
    ],
)
async def test_upkeep_that_could_not_work_stops_the_start(seconds: Any, function: Any, said: str) -> None:
    class Keeps:
        @hookimpl
        async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
            gateway.every(seconds, function, name="upkeep", once_per_host=True)
            yield

    with pytest.raises(StartError, match=re.escape(said)):
        async with serving(plugins={"keeps": Keeps}):
            pass


async def test_upkeep_that_is_no_async_def_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Keeps:
        @hookimpl
        async def lifespan(self, gateway: Gateway) -> AsyncIterator[None]:
            work: Any = lambda: None  # noqa: E731
            gateway.every(0.01, work, name="upkeep")
            yield

    async with serving(plugins={"keeps": Keeps}):
        await eventually(lambda: "upkeep is a plain `def`, and every request waits for it" in caplog.text)


class Overwriting:
    """Leaves a moment that no row can be made of."""

    @hookimpl
    def pre_attempt(self, exchange: Exchange) -> None:
        exchange.timing.first_token = "soon"  # type: ignore[assignment]


async def test_P01_an_exchange_of_which_no_row_can_be_made_is_told_and_keeps_no_client_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(plugins={"overwriting": Overwriting}) as gateway:
        answer = await gateway.chat()
        assert (answer.status, error_code(answer)) == (500, "internal_error")
        assert "failed inside the gateway: TypeError" in caplog.text
        caplog.clear()
