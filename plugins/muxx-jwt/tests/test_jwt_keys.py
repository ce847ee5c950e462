"""The issuer's keys over time: when they are fetched, what a change does to tokens, and what an issuer that fails does."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from jwt_kit import PLUGINS, KeyServer, Signer, chat, gateway_for, settings
from muxx import StartError
from muxx.testing import RunningGateway, eventually, unused_port

import muxx_jwt
from muxx_jwt.keyset import MOST_BYTES

OLD, NEW = Signer("old"), Signer("new")


async def test_the_keys_are_fetched_before_the_first_request_and_not_for_each() -> None:
    async with KeyServer(OLD) as server, gateway_for(server) as gateway:
        assert server.asked == 1
        for _ in range(20):
            assert (await chat(gateway, OLD.token())).status == 200
        assert server.asked == 1


async def test_a_new_key_is_looked_for_when_a_token_names_it() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, min_interval_s=0.2) as gateway:
        server.signers.append(NEW)
        await asyncio.sleep(0.25)
        assert (await chat(gateway, NEW.token())).status == 200
        assert server.asked == 2


async def test_requests_that_need_the_keys_at_once_share_one_fetch() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, min_interval_s=0.05) as gateway:
        await asyncio.sleep(0.1)
        released = asyncio.Event()
        server.signers.append(NEW)
        server.wait_for(released)
        waiting = [asyncio.create_task(chat(gateway, NEW.token(n=number))) for number in range(30)]
        await eventually(lambda: server.asked == 2)
        await asyncio.sleep(0.2)
        released.set()
        assert {(await task).status for task in waiting} == {200}
        assert server.asked == 2


async def test_tokens_with_made_up_keys_cannot_hammer_the_issuer() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, min_interval_s=3600, refresh_s=3600) as gateway:
        for number in range(50):
            assert (await chat(gateway, Signer(f"kid-{number}", private=NEW.private).token())).status == 401
        assert server.asked == 1
        assert (await chat(gateway, OLD.token())).status == 200


async def test_a_withdrawn_key_is_good_for_nothing_after_a_refresh_though_its_token_was_known() -> None:
    async with KeyServer(OLD, NEW) as server, gateway_for(server, refresh_s=0.1, min_interval_s=0.05) as gateway:
        token = OLD.token()
        async with await gateway.connect() as client:
            assert await ask_again(client, token) == 200
            assert await ask_again(client, token) == 200
            server.signers.remove(OLD)
            asked = server.asked
            await eventually(lambda: server.asked >= asked + 2)
            assert await ask_again(client, token) == 401
        assert (await chat(gateway, token)).status == 401
        assert (await chat(gateway, NEW.token())).status == 200


async def ask_again(client: Any, token: str) -> int:
    """Over a connection that stays open, so that its memory is asked."""
    await client.post_chat(token, {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]})
    status: int = (await client.read_response()).status
    return status


async def test_an_issuer_that_withdraws_all_its_keys_is_taken_at_its_word() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, refresh_s=0.1, min_interval_s=0.05) as gateway:
        token = OLD.token()
        assert (await chat(gateway, token)).status == 200
        server.signers.clear()
        asked = server.asked
        await eventually(lambda: server.asked >= asked + 2)
        assert (await chat(gateway, token)).status == 401


async def test_a_token_that_was_known_expires_all_the_same() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, leeway_s=0) as gateway:
        token = OLD.token(exp=int(time.time()) + 2)
        async with await gateway.connect() as client:
            assert await ask_again(client, token) == 200
            await asyncio.sleep(2.1)
            assert await ask_again(client, token) == 401


async def test_a_token_is_checked_once_and_then_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    real = muxx_jwt.verified
    monkeypatch.setattr(muxx_jwt, "verified", lambda *args: checked.append(args[0]) or real(*args))
    async with KeyServer(OLD) as server, gateway_for(server, remember=2) as gateway:
        first, second, third = (OLD.token(n=number) for number in range(3))
        for number, token in enumerate((first, first, first, second, first, third, first)):
            assert (await chat(gateway, token, headers={"X-Tag": str(number)})).status == 200, "no head is like another"
        assert checked == [first, second, third]
        assert (await chat(gateway, second, headers={"X-Tag": "none of those"})).status == 200
        assert checked == [first, second, third, second]


async def test_a_connection_remembers_its_token_without_the_common_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    real = muxx_jwt.verified
    monkeypatch.setattr(muxx_jwt, "verified", lambda *args: checked.append(args[0]) or real(*args))
    async with KeyServer(OLD) as server, gateway_for(server, remember=0) as gateway:
        token = OLD.token()
        async with await gateway.connect() as client:
            for _ in range(5):
                assert await ask_again(client, token) == 200
    assert checked == [token]


async def test_a_connection_without_a_token_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    real = muxx_jwt.token_of
    monkeypatch.setattr(muxx_jwt, "token_of", lambda headers: looked.append(1) or real(headers))
    async with KeyServer(OLD) as server, gateway_for(server) as gateway, await gateway.connect() as client:
        for _ in range(5):
            assert await ask_again(client, gateway.key) == 200
    assert looked == [1]


# ── when the issuer fails ──


async def let_in(gateway: RunningGateway, token: str) -> None:
    """Return as soon as the token is accepted."""
    for _ in range(200):
        if (await chat(gateway, token)).status == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the token is still not accepted")


GARBAGE: dict[str, tuple[Any, ...]] = {
    "500": (b"{}", 500),
    "a page": (b"<html>", 200),
    "no set": (b'{"keys": {}}', 200),
    "too much": (b'{"keys": [' + b" " * MOST_BYTES + b"]}", 200),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_keys_that_were_fetched_stay_when_the_issuer_talks_nonsense(name: str) -> None:
    async with KeyServer(OLD) as server, gateway_for(server, refresh_s=0.1, min_interval_s=0.05) as gateway:
        server.say(*GARBAGE[name])
        asked = server.asked
        await eventually(lambda: server.asked >= asked + 3)
        assert (await chat(gateway, OLD.token())).status == 200


async def test_a_redirect_is_not_followed() -> None:
    evil = KeyServer(NEW)
    async with evil, KeyServer(OLD) as server, gateway_for(server, refresh_s=0.1, min_interval_s=0.05) as gateway:
        server.say(b"", 302, Location=evil.url)
        asked = server.asked
        await eventually(lambda: server.asked >= asked + 2)
        assert (await chat(gateway, NEW.token())).status == 503
        assert (await chat(gateway, OLD.token())).status == 200
    assert evil.asked == 0


async def test_keys_are_kept_while_the_issuer_is_down_but_not_for_ever() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, refresh_s=0.1, min_interval_s=0.05, max_age_s=2) as gateway:
        await server.stop()
        token = OLD.token()
        assert (await chat(gateway, token)).status == 200
        await asyncio.sleep(2.2)
        refused = await chat(gateway, token)
        assert (refused.status, refused.error["code"], refused.header("x-should-retry")) == (503, "issuer_unavailable", "true")
        await server.start()
        await let_in(gateway, token)


async def test_a_gateway_starts_without_the_issuer_and_lets_tokens_in_once_it_is_there() -> None:
    server = KeyServer(OLD)
    async with gateway_for(server, min_interval_s=0.05) as gateway:
        refused = await chat(gateway, OLD.token())
        assert (refused.status, refused.error["code"]) == (503, "issuer_unavailable")
        assert (await gateway.chat()).status == 200
        async with server:
            await let_in(gateway, OLD.token())


async def test_a_gateway_may_refuse_to_start_without_the_keys() -> None:
    config = {"plugins": {"jwt": settings(f"http://127.0.0.1:{unused_port()}/", require_keys_at_start=True)}}
    with pytest.raises(StartError, match=r"^plugins\.jwt\.jwks_url: no keys could be fetched from there; see that"):
        async with RunningGateway(config, plugins=PLUGINS):
            pass


async def test_an_issuer_that_does_not_answer_holds_up_no_request_for_long() -> None:
    async with KeyServer(OLD) as server, gateway_for(server, min_interval_s=0.05, fetch_timeout_s=30) as gateway:
        await asyncio.sleep(0.1)
        never = asyncio.Event()
        server.wait_for(never)
        started = time.monotonic()
        unsure = await chat(gateway, NEW.token())
        assert time.monotonic() - started < 1.9
        assert (unsure.status, unsure.error["code"]) == (503, "issuer_unavailable")
        assert (await chat(gateway, OLD.token())).status == 200
        never.set()


async def test_a_start_waits_for_the_issuer_no_longer_than_it_is_told() -> None:
    server = KeyServer(OLD)
    never = asyncio.Event()
    server.wait_for(never)
    started = time.monotonic()
    async with server, gateway_for(server, fetch_timeout_s=0.2) as gateway:
        assert time.monotonic() - started < 3
        assert (await chat(gateway, OLD.token())).status == 503
        never.set()


async def test_the_log_tells_what_is_wrong_and_for_how_long_the_keys_hold(caplog: pytest.LogCaptureFixture) -> None:
    async with KeyServer(OLD) as server, gateway_for(server, refresh_s=0.1, min_interval_s=0.05):
        server.say(b"secret-of-the-issuer", 500)
        await eventually(lambda: "status 500" in caplog.text)
        assert "those there are hold for another 86400 s" in caplog.text
        await server.stop()
        await eventually(lambda: "ClientConnectorError" in caplog.text)
    assert "secret" not in caplog.text
