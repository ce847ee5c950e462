"""The standard plugin `keys`: who is calling, from memory, and never a key where it should not be."""

from __future__ import annotations

import asyncio
import json
import os
import string
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from muxx import (
    AuthenticationError,
    Environment,
    Gateway,
    Host,
    HttpRequest,
    Identity,
    MissingApiKey,
    StartError,
    load_config,
)
from muxx_std.keys import Keys, format
from muxx_std.keys.credential import credential
from muxx_std.keys.store import KeyRow, KeyStore, new_row

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def request(*headers: tuple[str, str]) -> HttpRequest:
    return HttpRequest("POST", "/v1/chat/completions", "", CIMultiDictProxy(CIMultiDict(headers)), "127.0.0.1")


class CountingDatabase:
    """The host's database, counting what is read from it, and able to do something in the middle of a reading."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.reads = 0
        self.after_read: Callable[[], Awaitable[None]] | None = None

    async def read(self, sql: str, params: Any = ()) -> Any:
        self.reads += 1
        rows = await self._db.read(sql, params)
        if self.after_read is not None:
            hook, self.after_read = self.after_read, None
            await hook()
        await asyncio.sleep(0)
        return rows


class Bench:
    """A host, one or more workers' worth of plugins on it, and what a command would do beside them."""

    def __init__(self, host: Host, config: Path) -> None:
        self.host = host
        self.config = config
        self.db = CountingDatabase(host.db)
        self.gateway = cast(Gateway, SimpleNamespace(db=self.db, shared=host.shared, host=host, every=self._every))
        self.keys = Keys()
        self.repeated: list[Callable[[], Awaitable[None]]] = []

    def _every(self, seconds: float, fn: Callable[[], Awaitable[None]], *, name: str = "") -> None:
        self.repeated.append(fn)

    async def store(self) -> KeyStore:
        return await KeyStore.prepared(self.host)

    async def add(self, environment: Environment = "live", *, project: str | None = "default", **more: Any) -> tuple[str, KeyRow]:
        text = format.generate(environment)
        row = new_row(text, self.host.derive("keys"), project=project, **more)
        await (await self.store()).add(row)
        self.host.shared.bump("keys")
        return text, row

    async def revoke(self, row: KeyRow) -> None:
        assert await (await self.store()).revoke(row.id)
        self.host.shared.bump("keys")

    async def call(self, text: str, plugin: Keys | None = None) -> Identity:
        return await (plugin or self.keys).authenticate(self.gateway, request(("X-Muxx-Api-Key", text)))

    async def is_refused(self, text: str, plugin: Keys | None = None) -> bool:
        try:
            await self.call(text, plugin)
        except AuthenticationError:
            return True
        return False


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "muxx.toml"
    path.write_text('[database]\npath = "muxx.db"\n')
    return path


@pytest.fixture
async def bench(config_file: Path) -> AsyncIterator[Bench]:
    async with Host.open(load_config(config_file)) as host:
        await KeyStore.prepared(host)
        yield Bench(host, config_file)


def muxx(config: Path, *arguments: str) -> Result:
    cli = click.Group()
    Keys().register_commands(cli)
    return CliRunner().invoke(cli, ["keys", arguments[0], "--config", str(config), *arguments[1:]])


def created(config: Path, *options: str) -> dict[str, Any]:
    result = muxx(config, "create", "--json", *options)
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def listed(config: Path) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(muxx(config, "list", "--json").stdout)
    return value


class TestKeyText:
    @pytest.mark.parametrize("environment", ["live", "test", "admin"])
    def test_a_key_is_its_environment_32_random_characters_and_the_crc_32_of_both(self, environment: Environment) -> None:
        text = format.generate(environment)
        head, check = text[:-6], text[-6:]
        assert head.startswith(f"muxx_sk_{environment}_")
        assert len(head) == len(f"muxx_sk_{environment}_") + 32
        number = 0
        for digit in check:
            number = number * 62 + DIGITS.index(digit)
        assert number == zlib.crc32(head.encode())
        assert format.is_key(text)
        assert format.environment_of(text) == environment
        assert format.prefix_of(text) == f"muxx_sk_{environment}_"

    def test_the_checksum_of_a_known_text_never_changes(self) -> None:
        assert format.checksum("muxx_sk_live_" + "0" * 32) == KNOWN_CHECKSUM

    @given(position=st.integers(0, 50), replacement=st.sampled_from(DIGITS + "_- é٣"))
    def test_one_wrong_character_is_always_noticed(self, position: int, replacement: str) -> None:
        text = "muxx_sk_live_" + "aZ09" * 8
        text += format.checksum(text)
        wrong = text[:position] + replacement + text[position + 1 :]
        assert format.is_key(wrong) == (wrong == text)

    @given(st.text())
    def test_any_text_may_be_asked_about(self, text: str) -> None:
        assert format.is_key(text) is False
        assert format.is_key("muxx_sk_live_" + text) is False


KNOWN_CHECKSUM = "0TpUBC"
LIVE = format.generate("live")
OTHER = format.generate("live")


class TestCredential:
    @pytest.mark.parametrize(
        "header",
        [
            ("X-Muxx-Api-Key", LIVE),
            ("x-muxx-api-key", LIVE),
            ("Authorization", "Bearer " + LIVE),
            ("authorization", "bearer " + LIVE),
            ("x-api-key", LIVE),
            ("x-goog-api-key", LIVE),
        ],
    )
    def test_every_sdk_finds_a_place_for_its_key(self, header: tuple[str, str]) -> None:
        assert credential(request(header).headers) == LIVE

    @pytest.mark.parametrize(
        "foreign",
        [("Authorization", "Bearer sk-x"), ("x-api-key", "sk-ant"), ("x-goog-api-key", "AIza"), ("Authorization", "Basic eDp5")],
    )
    def test_a_foreign_credential_beside_the_own_header_is_ignored(self, foreign: tuple[str, str]) -> None:
        assert credential(request(("X-Muxx-Api-Key", LIVE), foreign).headers) == LIVE

    def test_the_own_header_decides_even_when_it_holds_no_key(self) -> None:
        assert credential(request(("X-Muxx-Api-Key", "nonsense")).headers) == "nonsense"
        with pytest.raises(AuthenticationError):
            credential(request(("X-Muxx-Api-Key", "nonsense"), ("Authorization", "Bearer " + LIVE)).headers)

    def test_the_same_key_in_two_places_is_one_key(self) -> None:
        assert credential(request(("Authorization", "Bearer " + LIVE), ("x-api-key", LIVE)).headers) == LIVE

    @pytest.mark.parametrize(
        "headers",
        [
            [("X-Muxx-Api-Key", LIVE), ("X-Muxx-Api-Key", LIVE)],
            [("X-Muxx-Api-Key", LIVE), ("Authorization", "Bearer a"), ("authorization", "Bearer b")],
            [("Authorization", "Bearer " + LIVE), ("Authorization", "Bearer " + LIVE)],
            [("x-goog-api-key", LIVE), ("x-goog-api-key", OTHER)],
            [("X-Muxx-Api-Key", LIVE), ("Authorization", "Bearer " + OTHER)],
            [("Authorization", "Bearer " + LIVE), ("x-api-key", OTHER)],
        ],
    )
    def test_a02_a_header_twice_or_two_different_keys_are_refused(self, headers: list[tuple[str, str]]) -> None:
        with pytest.raises(AuthenticationError) as refusal:
            credential(request(*headers).headers)
        assert refusal.value.code == "invalid_api_key"

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [("Authorization", "Bearer sk-provider")],
            [("Authorization", LIVE)],
            [("Authorization", "Basic " + LIVE)],
            [("X_Muxx_Api_Key", LIVE)],
            [("Cookie", "key=" + LIVE)],
        ],
    )
    def test_a03_no_muxx_key_where_one_belongs_is_a_missing_key(self, headers: list[tuple[str, str]]) -> None:
        with pytest.raises(MissingApiKey):
            credential(request(*headers).headers)


class TestAuthenticate:
    async def test_a_key_says_whose_it_is(self, bench: Bench) -> None:
        text, row = await bench.add("test", project="shop", models=("gpt-4o*",))
        assert await bench.call(text) == Identity(
            project="shop",
            environment="test",
            role="project",
            key_id=row.id,
            key_prefix="muxx_sk_test_",
            key_last4=text[-4:],
            models=("gpt-4o*",),
        )

    async def test_an_admin_key_belongs_to_no_project(self, bench: Bench) -> None:
        text, _ = await bench.add("admin", project=None)
        identity = await bench.call(text)
        assert (identity.role, identity.environment, identity.project) == ("admin", "admin", "")

    async def test_a01_every_refusal_is_one_and_the_same(self, bench: Bench) -> None:
        _, gone = revoked = await bench.add()
        await bench.revoke(gone)
        expired, _ = await bench.add(expires_at=time.time() - 1)
        good, _ = await bench.add()
        refusals = set()
        for text in ("", "x", good[:-1] + "é", good[:-1], good + "0", revoked[0], expired, format.generate("live")):
            with pytest.raises(AuthenticationError) as caught:
                await bench.call(text)
            error = caught.value
            refusals.add((type(error), error.status, error.type, error.code, error.message, error.param, error.should_retry))
        assert len(refusals) == 1

    async def test_a01_a_wrong_checksum_costs_no_query(self, bench: Bench) -> None:
        text, _ = await bench.add()
        wrong = text[:-1] + ("0" if text[-1] != "0" else "1")
        for _ in range(10):
            assert await bench.is_refused(wrong)
        assert bench.db.reads == 0

    async def test_known_and_unknown_keys_are_judged_from_memory(self, bench: Bench) -> None:
        text, _ = await bench.add()
        await bench.call(text)
        reads = bench.db.reads
        for _ in range(100):
            await bench.call(text)
            assert await bench.is_refused(format.generate("live"))
        assert bench.db.reads == reads

    @pytest.mark.parametrize(
        "value",
        [
            "\x80",
            "\udc80",
            "ключ",
            "\x00",
            " ",
            "muxx_sk_live_" + "٣" * 38,
            "a" * 8190,
            "muxx_sk_live_" + "a" * 8000,
            "'; DROP TABLE keys;--",
        ],
    )
    async def test_a04_a06_naughty_values_are_refused_like_any_other(self, bench: Bench, value: str) -> None:
        for header in (("X-Muxx-Api-Key", value), ("Authorization", "Bearer " + value), ("Authorization", value)):
            with pytest.raises(AuthenticationError):
                await bench.keys.authenticate(bench.gateway, request(header))

    async def test_a04_spaces_around_a_key_make_it_another_text(self, bench: Bench) -> None:
        text, _ = await bench.add()
        assert await bench.is_refused(text + " ")
        assert await bench.is_refused(" " + text)
        assert await bench.is_refused(text + "\n")

    async def test_a_key_stops_at_its_expiry(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        text, _ = await bench.add(expires_at=time.time() + 60)
        await bench.call(text)
        later = time.time() + 61
        monkeypatch.setattr(time, "time", lambda: later)
        assert await bench.is_refused(text)

    async def test_a08_a_revoked_key_is_refused_on_the_very_next_request_by_every_worker(self, bench: Bench) -> None:
        text, row = await bench.add()
        workers = [Keys() for _ in range(3)]
        for worker in workers:
            await bench.call(text, worker)
        await bench.revoke(row)
        assert [await bench.is_refused(text, worker) for worker in workers] == [True] * 3

    async def test_a08_a_revoke_while_the_rows_are_being_read_is_not_missed(self, bench: Bench) -> None:
        text, row = await bench.add()
        bench.db.after_read = lambda: bench.revoke(row)
        assert await bench.is_refused(text)

    async def test_requests_that_find_the_counter_moved_share_one_reading(self, bench: Bench) -> None:
        text, _ = await bench.add()
        await asyncio.gather(*(bench.call(text) for _ in range(50)))
        assert bench.db.reads == 1

    async def test_a_request_cancelled_while_it_reads_leaves_the_reading_to_the_next(self, bench: Bench) -> None:
        text, _ = await bench.add()
        first = asyncio.create_task(bench.call(text))
        second = asyncio.create_task(bench.call(text))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).project == "default"

    async def test_a_change_whose_bump_never_came_is_found_by_the_regular_reading(self, bench: Bench) -> None:
        text, row = await bench.add()
        lifespan = bench.keys.lifespan(bench.gateway)
        await anext(lifespan)
        await bench.call(text)
        await (await bench.store()).revoke(row.id)
        (reread,) = bench.repeated
        await reread()
        assert await bench.is_refused(text)
        assert [step async for step in lifespan] == []

    async def test_a07_another_secret_verifies_nothing(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        text, _ = await bench.add()
        await bench.call(text)
        monkeypatch.setattr(bench.host, "derive", lambda purpose: b"another pepper")
        assert await bench.is_refused(text, Keys())

    async def test_authenticating_takes_microseconds(self, bench: Bench) -> None:
        text, _ = await bench.add()
        head = request(("Authorization", "Bearer " + text))
        await bench.keys.authenticate(bench.gateway, head)
        start = time.perf_counter()
        for _ in range(1000):
            await bench.keys.authenticate(bench.gateway, head)
        assert time.perf_counter() - start < 0.2, "200 µs each is an order of magnitude above what it takes"


class TestFirstKey:
    async def test_an_empty_database_gets_one_live_key_of_the_default_project(self, bench: Bench) -> None:
        text = await bench.keys.first_key(bench.host)
        assert text is not None
        identity = await bench.call(text)
        assert (identity.project, identity.environment, identity.role) == ("default", "live", "project")
        assert await bench.keys.first_key(bench.host) is None

    async def test_a_database_with_any_key_gets_none(self, bench: Bench) -> None:
        _, row = await bench.add()
        await bench.revoke(row)
        assert await bench.keys.first_key(bench.host) is None

    async def test_of_many_starting_at_once_one_makes_the_key(self, bench: Bench) -> None:
        made = await asyncio.gather(*(Keys().first_key(bench.host) for _ in range(8)))
        assert len([text for text in made if text]) == 1
        assert len(await (await bench.store()).rows()) == 1

    @pytest.mark.parametrize("environment", ["live", "test", "admin"])
    async def test_a_bootstrap_key_is_taken_told_to_nobody_and_inherited_by_none(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, environment: Environment
    ) -> None:
        text = format.generate(environment)
        monkeypatch.setenv("MUXX_BOOTSTRAP_KEY", text)
        assert await bench.keys.first_key(bench.host) is None
        assert (await bench.call(text)).environment == environment
        assert "MUXX_BOOTSTRAP_KEY" not in os.environ

    async def test_a_bootstrap_key_that_is_none_stops_the_start_without_showing_it(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MUXX_BOOTSTRAP_KEY", "hunter2")
        with pytest.raises(StartError) as stopped:
            await bench.keys.first_key(bench.host)
        assert "MUXX_BOOTSTRAP_KEY" in str(stopped.value)
        assert "hunter2" not in str(stopped.value)

    async def test_a_bootstrap_key_that_comes_too_late_is_told_of(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, other = format.generate("live"), format.generate("live")
        for text in (first, first, other):
            assert not caplog.messages
            monkeypatch.setenv("MUXX_BOOTSTRAP_KEY", text)
            assert await bench.keys.first_key(bench.host) is None
        assert ["no key of this database" in line and other not in line for line in caplog.messages] == [True]
        assert await bench.is_refused(other)


class TestCommands:
    def test_create_prints_the_four_fields_scripts_rely_on(self, config_file: Path) -> None:
        made = created(config_file)
        assert list(made) == ["id", "key", "project", "environment"]
        assert made["id"].startswith("key_")
        assert format.is_key(made["key"])
        assert (made["project"], made["environment"]) == ("default", "live")

    def test_create_makes_test_and_admin_keys(self, config_file: Path) -> None:
        test, admin = created(config_file, "--test", "--project", "shop"), created(config_file, "--admin")
        assert (test["project"], test["environment"]) == ("shop", "test")
        assert (admin["project"], admin["environment"]) == (None, "admin")

    def test_without_json_stdout_is_the_key_and_nothing_else(self, config_file: Path) -> None:
        result = muxx(config_file, "create")
        assert format.is_key(result.stdout.strip())
        assert result.stdout.strip() not in result.stderr

    def test_a_new_project_is_announced_on_stderr_once(self, config_file: Path) -> None:
        first, second = muxx(config_file, "create", "--project", "shop"), muxx(config_file, "create", "--project", "shop")
        assert "shop is new" in first.stderr
        assert "is new" not in second.stderr

    def test_list_shows_keys_without_their_secret_part(self, config_file: Path) -> None:
        made = created(config_file, "--name", "ci", "--expires", "30d", "--models", "gpt-4o", "--models", "claude-*")
        (row,) = listed(config_file)
        assert row["prefix"] + row["last4"] == made["key"][:13] + made["key"][-4:]
        assert (row["id"], row["project"], row["environment"], row["name"]) == (made["id"], "default", "live", "ci")
        assert row["models"] == ["gpt-4o", "claude-*"]
        assert row["status"] == "active"
        assert row["created_at"].endswith("Z")
        assert row["expires_at"] > row["created_at"]
        table = muxx(config_file, "list")
        assert made["id"] in table.stdout
        for output in (table.output, json.dumps(listed(config_file))):
            assert made["key"] not in output
            assert made["key"][13:-6] not in output

    def test_revoke_works_once_and_stays(self, config_file: Path) -> None:
        made = created(config_file)
        assert muxx(config_file, "revoke", made["id"]).exit_code == 0
        assert listed(config_file)[0]["status"] == "revoked"
        assert muxx(config_file, "revoke", made["id"]).exit_code == 0
        assert muxx(config_file, "revoke", "\udc80").exit_code == 2
        unknown = muxx(config_file, "revoke", "key_nothere")
        assert unknown.exit_code == 1
        assert "muxx keys list" in unknown.stderr

    @pytest.mark.parametrize(
        "options",
        [
            ["--expires", "soon"],
            ["--expires", "2001-01-01"],
            ["--expires", "30x"],
            ["--expires", "0d"],
            ["--expires", "999999999w"],
            ["--expires", "9999-12-31T23:59:59-12:00"],
            ["--project", "a b"],
            ["--project", ""],
            ["--project", "x" * 65],
            ["--admin", "--project", "shop"],
            ["--test", "--admin"],
            ["--admin", "--test"],
            ["--name", "evil\x1b[2J"],
            ["--name", "evil\u202e"],
            ["--models", "gpt\r\n*"],
            ["--models", ""],
        ],
    )
    def test_wrong_usage_exits_2_and_makes_nothing(self, config_file: Path, options: list[str]) -> None:
        assert muxx(config_file, "create", *options).exit_code == 2
        assert listed(config_file) == []

    def test_an_iso_moment_without_a_zone_is_utc(self, config_file: Path) -> None:
        created(config_file, "--expires", "2099-01-31T12:00:00")
        assert listed(config_file)[0]["expires_at"] == "2099-01-31T12:00:00.000Z"

    async def test_commands_beside_a_running_server_bind_on_the_next_request(self, bench: Bench) -> None:
        made = await asyncio.to_thread(created, bench.config)
        assert (await bench.call(made["key"])).key_id == made["id"]
        await asyncio.to_thread(muxx, bench.config, "revoke", made["id"])
        assert await bench.is_refused(made["key"])

    async def test_a08_both_keys_work_during_the_overlap_only(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        old = await asyncio.to_thread(created, bench.config, "--project", "shop", "--models", "gpt-*")
        result = await asyncio.to_thread(muxx, bench.config, "rotate", old["id"], "--overlap", "1h", "--json")
        new = json.loads(result.stdout)
        before, after = await bench.call(old["key"]), await bench.call(new["key"])
        assert (before.project, before.models) == (after.project, after.models) == ("shop", ("gpt-*",))
        later = time.time() + 3601
        monkeypatch.setattr(time, "time", lambda: later)
        assert await bench.is_refused(old["key"])
        assert (await bench.call(new["key"])).key_id == new["id"]

    def test_a_successor_lives_as_long_as_the_old_key_was_made_for(self, config_file: Path) -> None:
        old = created(config_file, "--expires", "30d")
        muxx(config_file, "rotate", old["id"], "--overlap", "1h")
        first, second = listed(config_file)
        assert first["expires_at"] < second["expires_at"]

    def test_a_successor_ends_before_dates_do(self, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        old = created(config_file, "--expires", "9999-12-30")
        later = time.time() + 7 * 86_400
        monkeypatch.setattr(time, "time", lambda: later)
        assert muxx(config_file, "rotate", old["id"]).exit_code == 0
        assert [key["expires_at"][:10] for key in listed(config_file)][1] == "9999-12-31"

    def test_only_a_working_key_can_be_rotated_and_only_once(self, config_file: Path) -> None:
        one, two = created(config_file), created(config_file)
        muxx(config_file, "revoke", one["id"])
        assert muxx(config_file, "rotate", two["id"]).exit_code == 0
        for key_id, why in ((one["id"], "revoked"), (two["id"], "already rotated"), ("key_nothere", "no such key")):
            result = muxx(config_file, "rotate", key_id)
            assert result.exit_code == 1
            assert why in result.stderr
            assert result.stdout == ""

    def test_a_key_that_could_be_shown_to_nobody_is_taken_back(self, config_file: Path) -> None:
        old = created(config_file, "--expires", "9d")
        before = listed(config_file)
        for command in ("create", "create --json", f"rotate {old['id']}"):
            for out, said in ((">/dev/full", "taken back"), (">&-", "Nothing was made")):
                line = f'exec "$0" -m muxx keys {command} --config "$1" {out}'
                done = subprocess.run(["sh", "-c", line, sys.executable, config_file], capture_output=True, text=True, check=False)
                assert done.returncode == 1
                assert said in done.stderr
        assert listed(config_file) == before
        assert muxx(config_file, "rotate", old["id"]).exit_code == 0

    def test_a07_no_key_text_is_written_to_any_file(self, config_file: Path) -> None:
        made = [created(config_file)["key"] for _ in range(5)]
        files = [path for path in config_file.parent.rglob("*") if path.is_file()]
        assert any(path.name == "muxx.db" for path in files)
        for path in files:
            data = path.read_bytes()
            assert not any(key[13:-6].encode() in data for key in made), path
