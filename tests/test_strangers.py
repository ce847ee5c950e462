"""FAULTS R06: who asks without a key that works is held to so many answers a minute by its address, and nobody else is."""

from __future__ import annotations

import asyncio
import socket
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from carrying_kit import serving
from http_kit import check_refusal
from process_kit import Upstream, gateway_process

from muxx import AuthenticationError, Shared
from muxx.strangers import RECORDS, ROWS_PER_SECOND, Strangers, key_of
from muxx.testing import GatewayProcess, RawClient, RawResponse, RunningGateway, chat, chat_body
from muxx_std.keys import format

MOST = 5


def limited(per_minute: int = MOST) -> Any:
    return serving(config={"server": {"unauthenticated_per_minute": per_minute}})


async def connect(gateway: RunningGateway | GatewayProcess, address: str) -> RawClient:
    """A connection that comes from that address: the whole of 127.0.0.0/8 is this machine's."""
    host, _, port = gateway.base_url.removeprefix("http://").partition(":")
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return RawClient(sock, host, 10.0)


async def ask(
    gateway: RunningGateway | GatewayProcess, key: str | None, times: int = 1, *, address: str = "127.0.0.1"
) -> list[RawResponse]:
    answers = []
    async with await connect(gateway, address) as client:
        for _ in range(times):
            await client.post_chat(key, chat_body("Hello"))
            answers.append(await client.read_response())
    return answers


def statuses(answers: list[RawResponse]) -> list[int]:
    return [answer.status for answer in answers]


# ── what callers see ──


async def test_R06_an_address_without_a_valid_key_gets_401_so_often_a_minute_then_429() -> None:
    async with limited() as gateway:
        started = time.time()
        answers = await ask(gateway, format.generate("live"), 3) + await ask(gateway, None) + await ask(gateway, "sk-other", 3)
        assert statuses(answers) == [401] * MOST + [429] * 2
        for answer in answers[MOST:]:
            check_refusal(answer, 429, "rate_limit_exceeded")
            error = answer.json()["error"]
            assert error["type"] == "rate_limit_error"
            assert error["message"].startswith(f"Rate limit exceeded. Please retry after {error['retry_after']} seconds. ")
            assert 55 <= error["retry_after"] <= 60
            assert answer.header("retry-after") == str(error["retry_after"])
            assert answer.header("x-should-retry") == "true"
            assert answer.header("www-authenticate") is None
            standing = [answer.header(f"x-ratelimit-{name}") for name in ("limit", "remaining")]
            assert standing == [str(MOST), "0"]
            assert started + 59 <= int(answer.header("x-ratelimit-reset") or 0) <= time.time() + 61
        assert gateway.upstream.requests == []
        sql = "SELECT status, error_code, phase FROM generations WHERE request_id = ?"
        while not (rows := await gateway.gateway.db.read_logs(sql, (answers[-1].request_id,))):
            await asyncio.sleep(0.02)
        assert [tuple(row) for row in rows] == [(429, "rate_limit_exceeded", "auth")]


async def test_R06_every_path_counts_and_answers_in_the_format_of_its_caller() -> None:
    async with limited(2) as gateway, await gateway.connect() as client:
        assert statuses([await _get(client, "/v1/logs", "muxx_sk_live_x"), await _get(client, "/v1/keys", None)]) == [401, 401]
        assert (await _get(client, "/v1/models", None)).json()["error"]["code"] == "rate_limit_exceeded"
        await client.request("POST", "/v1/messages", {"x-api-key": "muxx_sk_live_x"}, b"{}")
        told = await client.read_response()
        assert (told.status, told.json()["error"]["type"]) == (429, "rate_limit_error")
        assert (await _get(client, "/healthz", None)).status == 200


async def _get(client: RawClient, path: str, key: str | None) -> RawResponse:
    await client.request("GET", path, {"Authorization": f"Bearer {key}"} if key else {})
    return await client.read_response()


async def test_R06_keys_that_work_are_served_from_such_an_address_and_other_addresses_have_counts_of_their_own() -> None:
    async with limited() as gateway:
        gateway.upstream.script(chat())
        assert statuses(await ask(gateway, None, MOST + 1))[-1] == 429
        assert statuses(await ask(gateway, gateway.key, 3)) == [200] * 3
        assert (await gateway.get("/v1/logs")).status == 200
        assert statuses(await ask(gateway, None, MOST + 1, address="127.9.8.7")) == [401] * MOST + [429]


async def test_R06_a_key_that_works_never_counts_and_one_that_worked_does() -> None:
    """A key of an archived project, too: it is answered as one that does not exist."""
    async with limited() as gateway:
        gateway.upstream.script(chat())
        table = gateway.gateway.strangers.addresses.table.table
        before = bytes(table)
        await ask(gateway, gateway.key, 2 * MOST)
        assert bytes(table) == before
        await gateway.gateway.host.projects.archive("default")
        assert statuses(await ask(gateway, gateway.key, MOST + 1)) == [401] * MOST + [429]


async def test_R06_the_wait_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment that was named, and not a twentieth of a second earlier; a minute is made short for it."""
    monkeypatch.setattr("muxx.strangers.MINUTE", 700)
    async with limited(1) as gateway:
        _, refused = await ask(gateway, None, 2)
        due = time.monotonic() + int(refused.header("retry-after-ms") or -1) / 1000
        assert refused.status == 429
        while statuses(await ask(gateway, None)) == [429]:
            assert time.monotonic() < due + 0.5, "answered 401 at last"
        assert time.monotonic() >= due - 0.05


async def test_R06_zero_is_no_limit() -> None:
    async with limited(0) as gateway:
        assert set(statuses(await ask(gateway, None, 50))) == {401}


async def test_R06_workers_count_together(tmp_path: Path) -> None:
    async with (
        Upstream(gap=0.0) as upstream,
        gateway_process(tmp_path, upstream, {"server": {"unauthenticated_per_minute": 40}}, workers=2) as gateway,
    ):
        answers = await asyncio.gather(*(ask(gateway, None, 10) for _ in range(20)))
        found = [status for each in answers for status in statuses(each)]
        assert (found.count(401), found.count(429)) == (40, 160)


# ── what is counted ──


def test_an_ipv6_network_is_one_address_and_a_mapped_ipv4_address_is_itself() -> None:
    assert key_of("2001:db8:1:2::1") == key_of("2001:db8:1:2:ffff:ffff:ffff:ffff%eth0") != key_of("2001:db8:1:3::1")
    assert key_of("::ffff:192.0.2.7") == key_of("192.0.2.7") != key_of("192.0.2.8")
    assert key_of(None) == key_of("") == key_of("a path")
    assert len({key_of(None), key_of("0.0.0.0"), key_of("::1")}) == 3
    assert {len(key_of(remote)) for remote in (None, "0.0.0.0", "::", "255.255.255.255")} == {16}
    assert all(any(key_of(remote)) for remote in (None, "0.0.0.0", "::")), "a key of zeros is none"


@pytest.fixture
def minute_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)


def take_no_more_room(path: Path, addresses: int, records: int) -> None:
    """So many addresses, one refusal each; those that found room are counted, and those that did not are refused."""
    shared = Shared(path)
    strangers, refusal = Strangers(shared, 1), AuthenticationError()
    strangers.open()
    size = path.stat().st_size
    told = [strangers.told(refusal, str(IPv4Address(number << 4))) for number in range(addresses)]
    assert path.stat().st_size == size <= 4 * 2**20
    assert 0.9 * records < sum(one is refusal for one in told) <= records
    assert strangers.told(refusal, "0.0.0.0").status == 429, "the first is still known"
    shared.close()


@pytest.mark.usefixtures("minute_that_stays")
def test_R06_more_addresses_than_there_is_room_for_take_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxx.strangers.RECORDS", 4096)
    take_no_more_room(tmp_path / "shared", 12_000, 4096)


@pytest.mark.soak
@pytest.mark.usefixtures("minute_that_stays")
def test_R06_a_million_addresses_take_no_more_room(tmp_path: Path) -> None:
    take_no_more_room(tmp_path / "shared", 1_000_000, RECORDS)


def test_R06_an_address_makes_room_for_another_after_its_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(tmp_path / "shared")
    monkeypatch.setattr("muxx.strangers.RECORDS", 16)
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    strangers, refusal = Strangers(shared, 1), AuthenticationError()
    assert [strangers.told(refusal, f"10.0.0.{number}").status for number in range(17)] == [401] * 16 + [429]
    now += 60_000_000_000
    assert [strangers.told(refusal, f"10.1.0.{number}").status for number in range(17)] == [401] * 16 + [429]
    shared.close()


def test_A3_rows_are_kept_of_so_many_a_second_of_all_workers_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    workers = [Shared(tmp_path / "shared") for _ in range(3)]
    strangers = [Strangers(shared, 0) for shared in workers]
    assert sum(strangers[number % 3].keeps_row() for number in range(3 * ROWS_PER_SECOND)) == ROWS_PER_SECOND == 100
    now += 1_000_000_000
    assert sum(strangers[number % 3].keeps_row() for number in range(3 * ROWS_PER_SECOND)) == ROWS_PER_SECOND
    for shared in workers:
        shared.close()
