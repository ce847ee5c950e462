"""Projects: what each sets itself, the keys of providers it has, and both on the very next request."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest
from http_kit import add_key

from muxx import AuthenticationError, Host, InvalidRequest, MuxxError, NotFound, StartError, audit_log, load_config
from muxx.config import CacheConfig, Config, ProjectConfig
from muxx.projects import Projects
from muxx.projectsettings import changed, checked, flat, nested_setting, resolved_settings, settings_of
from muxx.projectstore import ensure_project
from muxx.sealing import CannotOpen, Seal
from muxx.secret import Secret
from muxx.settings import Alert, ProjectSettings, SpendCap
from muxx.testing import RunningGateway, chat_body, leak
from muxx.testing.client import post_chat
from muxx.testing.settings import PROVIDER_KEY
from muxx_std.keys.store import KeyStore

CANARY = "sk-project-canary-7d1e5b02"
OTHER = "sk-project-canary-a94c6f31"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    (tmp_path / "muxx.toml").write_text('[database]\npath = "muxx.db"\n')
    async with Host.open(load_config(tmp_path / "muxx.toml")) as opened:
        yield opened


# ── settings ──


class TestSettings:
    def test_a_projects_own_goes_before_the_file_and_the_file_before_what_is_built_in(self) -> None:
        file = ProjectConfig(cache=CacheConfig(ttl=60), content_retention_days=7)
        section = resolved_settings(file, {"cache": {"enabled": False}, "content_retention_days": 3})
        assert settings_of(section) == ProjectSettings(
            store_content=True, content_retention_days=3, cache_enabled=False, cache_ttl=60
        )

    def test_every_setting_that_requests_read_is_found_in_the_files_section(self) -> None:
        found = settings_of(ProjectConfig())
        assert found == ProjectSettings()
        assert {field.name for field in fields(ProjectSettings)} >= {"cache_enabled", "cache_ttl", "store_content"}

    def test_money_is_read_to_the_pico_dollar_and_caps_and_alerts_are_values(self) -> None:
        own = {
            "spend_caps": [{"window": "month", "usd": "0.000000000001", "action": "alert"}],
            "alerts": [{"usd": "80.10"}, {"limit": "rpm", "share": 0.5, "to": ["ops"]}],
        }
        found = settings_of(resolved_settings(ProjectConfig(), checked(own)))
        assert found.spend_caps == (SpendCap("month", 1, "alert"),)
        assert found.alerts == (Alert("day", 80_100_000_000_000, None, 0.8), Alert("day", None, "rpm", 0.5, ("ops",)))

    @pytest.mark.parametrize("usd", ["0", "-1", "1e99", "0.0000000000001", "NaN", "Infinity", "four", [], True])
    def test_an_amount_that_is_none_is_refused(self, usd: Any) -> None:
        with pytest.raises(InvalidRequest, match="spend_caps"):
            checked({"spend_caps": [{"window": "day", "usd": usd}]})

    @pytest.mark.parametrize("alert", [{}, {"usd": "1", "limit": "rpm"}, {"limit": "rpd", "share": 1.1}, {"usd": "80", "share": 0.5}])
    def test_an_alert_has_one_measure(self, alert: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest, match="alerts"):
            checked({"alerts": [alert]})

    def test_what_is_stored_is_only_what_is_set_and_durations_are_seconds(self) -> None:
        assert checked({"cache": {"ttl": "24h"}}) == {"cache": {"ttl": 86_400}}
        assert checked({"cache": {}}) == {}

    @pytest.mark.parametrize(
        ("data", "param", "words"),
        [
            ({"cache": {"tll": 1}}, "cache.tll", "did you mean 'ttl'?"),
            ({"store_contents": False}, "store_contents", "did you mean 'store_content'?"),
            ({"cache": {"ttl": 0}}, "cache.ttl", "greater than or equal to 1"),
            ({"store_content": "no"}, "store_content", "must be true or false"),
            ({"cache": 5}, "cache", "must be a table"),
            ([], "settings", "must be an object"),
        ],
    )
    def test_what_is_wrong_is_named_with_the_nearest_valid_name(self, data: Any, param: str, words: str) -> None:
        for act in (lambda: checked(data), lambda: changed({}, data)):
            with pytest.raises(InvalidRequest) as refusal:
                act()
            assert refusal.value.param == param
            assert words in refusal.value.message

    def test_null_takes_a_setting_back_and_nothing_else(self) -> None:
        own = {"cache": {"ttl": 60, "enabled": False}, "store_content": False}
        assert changed(own, {"cache": {"ttl": None}}) == {"cache": {"enabled": False}, "store_content": False}
        assert changed(own, {"cache": None}) == {"store_content": False}
        assert changed(own, {"cache": {"ttl": None, "enabled": None}}) == {"store_content": False}
        with pytest.raises(InvalidRequest, match="did you mean 'ttl'"):
            changed(own, {"cache": {"tll": None}})

    def test_a_key_is_the_path_of_its_value(self) -> None:
        assert dict(flat(nested_setting("cache.ttl", 60))) == {"cache.ttl": 60}


# ── sealing ──


class TestSeal:
    def test_what_was_sealed_opens_at_its_own_place_under_its_own_secret_only(self) -> None:
        seal = Seal(lambda: b"k" * 32)
        sealed = seal.shut(CANARY, "shop", "openai")
        assert seal.open(sealed, "shop", "openai") == CANARY
        assert CANARY.encode() not in sealed
        for place in (("other", "openai"), ("shop", "google"), ("shop",)):
            with pytest.raises(CannotOpen):
                seal.open(sealed, *place)
        for wrong in (b"", sealed[:-2], sealed[:20] + b"A" + sealed[21:]):
            with pytest.raises(CannotOpen):
                seal.open(wrong, "shop", "openai")
        with pytest.raises(CannotOpen):
            Seal(lambda: b"x" * 32).open(sealed, "shop", "openai")

    def test_nobody_is_asked_for_a_key_that_is_not_needed(self) -> None:
        def never() -> bytes:
            raise AssertionError

        Seal(never)


# ── the tables ──


class TestStore:
    async def test_a_new_database_has_the_default_project(self, host: Host) -> None:
        assert [row.name for row in await host.projects.rows()] == ["default"]

    async def test_a_project_is_made_once_and_its_name_is_never_given_again(self, host: Host) -> None:
        made = await host.projects.create("shop", {"cache": {"ttl": "1h"}})
        assert (made.name, made.own, made.archived_at) == ("shop", {"cache": {"ttl": 3600}}, None)
        assert await host.projects.with_id(made.id) == made
        with pytest.raises(InvalidRequest, match="already"):
            await host.projects.create("shop")
        await host.projects.archive("shop")
        with pytest.raises(InvalidRequest, match="already"):
            await host.projects.create("shop")

    @pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "ä", "x" * 65, "a\n", "'; DROP TABLE projects;--"])
    async def test_a_name_is_plain(self, host: Host, name: str) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            await host.projects.create(name)
        assert refusal.value.param == "name"

    async def test_an_archived_project_changes_no_more_and_keeps_its_date(self, host: Host) -> None:
        await host.projects.create("shop")
        first = await host.projects.archive("shop")
        assert first.archived_at is not None
        assert await host.projects.archive("shop") == first
        for change in (
            host.projects.change("shop", {"store_content": False}),
            host.projects.set_provider_key("shop", "openai", CANARY),
            host.db.write(lambda db: ensure_project(db, "shop")),
        ):
            with pytest.raises(InvalidRequest, match="archived"):
                await change

    async def test_what_does_not_exist_is_not_found(self, host: Host) -> None:
        store = host.projects
        for act in (
            store.named("x"), store.with_id("x"), store.change("x", {}), store.archive("x"), store.provider_keys("x"),
            store.set_provider_key("x", "openai", CANARY), store.remove_provider_key("default", "openai"),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                await act

    async def test_changes_that_depend_on_what_is_set_lose_none_of_one_another(self, host: Host) -> None:
        def longer(own: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"cache": {"ttl": own.get("cache", {}).get("ttl", 0) + 1}}

        await asyncio.gather(*(host.projects.change("default", longer) for _ in range(20)))
        assert (await host.projects.named("default")).own == {"cache": {"ttl": 20}}

    async def test_every_change_has_its_row_and_no_row_holds_a_secret(self, host: Host) -> None:
        store = host.projects
        await store.create("shop", {"store_content": False}, by="key_1")
        await store.change("shop", {"store_content": None, "cache": {"ttl": 60}}, by="key_2")
        await store.set_provider_key("shop", "openai", CANARY)
        await store.remove_provider_key("shop", "openai", by="key_1")
        await store.archive("shop", by="key_1")
        await store.archive("shop", by="key_9")
        rows = await audit_log(host.db, project="shop")
        assert [(row.action, row.subject, row.detail) for row in reversed(rows)] == [
            ("project.create", None, {"settings": {"store_content": False}}),
            ("project.change", None, {"settings": {"store_content": None, "cache.ttl": 60}}),
            ("provider_key.set", "openai", {}),
            ("provider_key.remove", "openai", {}),
            ("project.archive", None, {}),
        ]
        assert [row.actor for row in reversed(rows)][:2] == ["key_1", "key_2"]
        assert rows[2].actor.startswith("uid:")
        assert await audit_log(host.db, project="shop", before=rows[1].id) == rows[2:]
        assert await audit_log(host.db, limit=2) == rows[:2]

    async def test_a_change_that_is_refused_leaves_nothing_behind(self, host: Host) -> None:
        await host.projects.create("shop")
        before = await audit_log(host.db)
        with pytest.raises(InvalidRequest):
            await host.projects.change("shop", {"cache": {"ttl": -1}})
        assert (await host.projects.named("shop")).own == {}
        assert await audit_log(host.db) == before

    @pytest.mark.parametrize("key", ["", "a b", "a\n", "ä", "x" * 5000])
    async def test_a_provider_key_can_be_sent_in_a_header(self, host: Host, key: str) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            await host.projects.set_provider_key("default", "openai", key)
        assert refusal.value.param == "key"

    async def test_a_misspelt_provider_is_refused_with_the_nearest_and_a_plugins_is_not(self, host: Host) -> None:
        with pytest.raises(InvalidRequest, match="Did you mean 'openai'"):
            await host.projects.set_provider_key("default", "opnai", CANARY)
        await host.projects.set_provider_key("default", "from-a-plugin", CANARY)

    async def test_lists_show_the_end_of_a_long_key_and_nothing_of_a_short_one(self, host: Host) -> None:
        await host.projects.set_provider_key("default", "openai", CANARY)
        await host.projects.set_provider_key("default", "google", "short")
        assert [(row.provider, row.last4) for row in await host.projects.provider_keys("default")] == [
            ("google", ""),
            ("openai", CANARY[-4:]),
        ]

    async def test_projects_that_only_keys_named_are_made_when_an_older_database_is_opened(self, tmp_path: Path) -> None:
        config = config_at(tmp_path)
        async with Host.open(config) as host:
            await KeyStore.prepared(host)
        with closing(sqlite3.connect(tmp_path / "muxx.db", isolation_level=None)) as db:  # as it was before there were projects
            for table in ("provider_keys", "projects", "audit"):
                db.execute(f"DROP TABLE {table}")
            db.execute("DELETE FROM schema_migrations WHERE plugin = 'projects' OR (plugin = 'keys' AND number = 1)")
            db.execute("INSERT INTO keys VALUES ('k', 'shop', 'live', x'00', 'p', 'l', NULL, '[]', 12.5, NULL, NULL, NULL)")
            db.execute("INSERT INTO keys VALUES ('a', NULL, 'admin', x'01', 'p', 'l', NULL, '[]', 12.5, NULL, NULL, NULL)")
        async with Host.open(config) as host:
            await KeyStore.prepared(host)
            assert {row.name: row.own for row in await host.projects.rows()} == {"default": {}, "shop": {}}
            assert (await host.projects.named("shop")).created_at == 12.5

    async def test_a_share_that_an_alert_of_dollars_has_from_before_is_taken_out_and_all_else_is_kept(self, tmp_path: Path) -> None:
        config = config_at(tmp_path)
        of_limit, before = {"limit": "rpm", "share": 0.5}, {"usd": "80.00", "share": 0.5, "to": ["ops"]}
        settings = {"shop": {"alerts": [before, of_limit], "cache": {"ttl": 60}}, "plain": {"cache": {"ttl": 60}}}
        async with Host.open(config) as host:
            for name in settings:
                await host.projects.create(name)
        with closing(sqlite3.connect(tmp_path / "muxx.db", isolation_level=None)) as db:
            db.execute("DELETE FROM schema_migrations WHERE plugin = 'projects' AND number = 2")
            for name, own in settings.items():
                db.execute("UPDATE projects SET settings = ? WHERE name = ?", (orjson.dumps(own).decode(), name))
        async with Host.open(config) as host:
            assert (await host.projects.named("shop")).own == {
                "alerts": [{"usd": "80.00", "to": ["ops"]}, of_limit],
                "cache": {"ttl": 60},
            }
            assert (await host.projects.named("plain")).own == settings["plain"]


def config_at(directory: Path) -> Config:
    (directory / "muxx.toml").write_text('[database]\npath = "muxx.db"\n')
    return load_config(directory / "muxx.toml")


# ── resolving ──


class TestResolving:
    async def test_a_change_holds_as_soon_as_it_was_acknowledged_in_every_worker(self, host: Host) -> None:
        workers = [Projects(host.config, host) for _ in range(3)]
        await host.projects.create("shop")
        for worker in workers:
            await worker.admit("shop")
            assert worker.resolve("shop").settings.store_content
        await host.projects.change("shop", {"store_content": False})
        for worker in workers:
            assert worker.stale
            await worker.catch_up()
            assert not worker.resolve("shop").settings.store_content
            assert not worker.stale

    async def test_a_project_the_database_does_not_know_has_the_files_settings(self, host: Host) -> None:
        projects = Projects(host.config, host)
        await projects.admit("visitors")
        assert projects.resolve("visitors").settings == ProjectSettings()
        assert projects.provider_keys("visitors") == {}

    async def test_a_project_of_which_something_cannot_be_read_is_served_nothing(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        await host.projects.create("newer")
        await host.projects.create("copied")
        await host.projects.set_provider_key("default", "openai", CANARY)
        await host.db.write(spoil)
        projects = Projects(host.config, host)
        await projects.reread()
        for name in ("newer", "copied"):
            with pytest.raises(MuxxError) as refusal:
                projects.resolve(name)
            assert refusal.value.status == 500
            assert f"project {name}" in caplog.text
        assert projects.resolve("default").name == "default"
        assert CANARY not in caplog.text

    async def test_a_change_whose_bump_never_came_is_found_by_the_regular_reading(self, host: Host) -> None:
        projects = Projects(host.config, host)
        await projects.catch_up()
        await host.db.write(lambda db: db.execute("UPDATE projects SET archived_at = 1"))
        assert not projects.stale
        await projects.reread()
        with pytest.raises(AuthenticationError):
            projects.resolve("default")


async def spoil(db: Any) -> None:
    await db.execute("""UPDATE projects SET settings = '{"cache": {"of_tomorrow": 1}}' WHERE name = 'newer'""")
    await db.execute("INSERT INTO provider_keys SELECT 'copied', provider, sealed, last4, created_at FROM provider_keys")


# ── whole gateways ──


async def ask(gateway: Any, key: str, **members: Any) -> Any:
    return await post_chat(gateway.base_url, key, "Hello", model="gpt-4o", **members)


def paid_with(gateway: RunningGateway) -> str | None:
    return gateway.upstream.last.header("authorization")


class TestProviderKeys:
    async def test_a_project_pays_with_its_own_key_and_nobody_else_does(self) -> None:
        async with RunningGateway() as gateway:
            shop, store = await add_key(gateway, project="shop"), gateway.gateway.host.projects
            for key, expected in ((CANARY, CANARY), (OTHER, OTHER)):
                await store.set_provider_key("shop", "openai", key)
                assert (await ask(gateway, shop)).status == 200
                assert paid_with(gateway) == f"Bearer {expected}"
                assert (await ask(gateway, gateway.key)).status == 200
                assert paid_with(gateway) == f"Bearer {PROVIDER_KEY}"
            await store.remove_provider_key("shop", "openai")
            assert (await ask(gateway, shop)).status == 200
            assert paid_with(gateway) == f"Bearer {PROVIDER_KEY}"

    async def test_a_projects_key_goes_before_a_pool_and_serves_where_the_operator_has_none(self) -> None:
        config = {"providers": {"openai": {"api_key": "", "api_keys": ["sk-pool-a", "sk-pool-b"]}, "google": {"api_key": ""}}}
        async with RunningGateway(config) as gateway:
            store = gateway.gateway.host.projects
            assert (await gateway.ask("generate_content")).status == 502
            for provider in ("openai", "google"):
                await store.set_provider_key("default", provider, CANARY)
            for _ in range(2):
                assert (await gateway.chat()).status == 200
                assert paid_with(gateway) == f"Bearer {CANARY}"
            assert (await gateway.ask("generate_content")).status == 200
            assert gateway.upstream.last.header("x-goog-api-key") == CANARY

    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_refused_key_is_told_to_be_the_projects(self, status: int) -> None:
        async with RunningGateway() as gateway:
            await gateway.gateway.host.projects.set_provider_key("default", "openai", CANARY)
            gateway.upstream.refuses(status)
            response = await gateway.chat()
            assert (response.status, response.error["code"]) == (502, "upstream_auth")
            assert "provider-keys" in response.error["message"]

    async def test_nothing_is_left_of_a_key_that_begins_with_another_one(self) -> None:
        async with RunningGateway() as gateway:
            longer = f"{PROVIDER_KEY}-and-more"
            await gateway.gateway.host.projects.set_provider_key("default", "openai", longer)
            gateway.upstream.refuses(400, f"Your key {longer} is odd.")
            assert (await gateway.chat()).error["message"] == "Your key *** is odd."

    async def test_the_key_is_nowhere_in_what_is_kept_said_or_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async with RunningGateway() as gateway:
            await gateway.gateway.host.projects.set_provider_key("default", "openai", CANARY)
            answers = [await gateway.chat(), await gateway.chat(stream=True)]
            gateway.upstream.refuses(400, f"Your key {CANARY} is odd.")
            answers.append(await gateway.chat())
            assert answers[-1].status == 400
            assert "***" in answers[-1].text
            for answer in answers:
                await gateway.get_row(answer.request_id)
            assert paid_with(gateway) == f"Bearer {CANARY}"
            assert leak.find([CANARY], gateway.directory, caplog.text, *(answer.body for answer in answers)) == []

    async def test_a_database_copied_without_its_secret_reveals_nothing_and_does_not_start(self, tmp_path: Path) -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        async with Host.open(config_at(here)) as host:
            await host.projects.set_provider_key("default", "openai", CANARY)
        shutil.copy(here / "muxx.db", there / "muxx.db")
        shutil.copy(here / "muxx-logs.db", there / "muxx-logs.db")
        assert leak.find([CANARY], there) == []
        with pytest.raises(StartError, match="secret"):
            await Host.open(config_at(there))

    async def test_a_key_that_another_secret_encrypted_is_not_used_and_the_project_is_served_nothing(self, tmp_path: Path) -> None:
        async with Host.open(config_at(tmp_path)) as host:
            await host.projects.set_provider_key("default", "openai", CANARY)
            foreign = Secret(b"another").provider_keys.shut(CANARY, "default", "openai")
            await host.db.write(lambda db: db.execute("UPDATE provider_keys SET sealed = ?", (foreign,)))
            projects = Projects(host.config, host)
            await projects.catch_up()
            with pytest.raises(MuxxError):
                projects.resolve("default")


class TestArchived:
    async def test_its_keys_are_answered_as_keys_that_do_not_exist(self) -> None:
        async with RunningGateway() as gateway:
            shop, unknown = await add_key(gateway, project="shop"), gateway.key[:-1] + ("a" if gateway.key[-1] != "a" else "b")
            assert (await ask(gateway, shop)).status == 200
            await gateway.gateway.host.projects.archive("shop")
            asked = len(gateway.upstream.requests)
            refused = await ask(gateway, shop)
            assert (refused.status, refused.error) == (401, (await ask(gateway, unknown)).error)
            assert len(gateway.upstream.requests) == asked
            assert (await ask(gateway, gateway.key)).status == 200

    async def test_its_keys_read_nothing_any_more(self) -> None:
        async with RunningGateway() as gateway:
            await gateway.gateway.host.projects.archive("default")
            for path in ("/v1/logs", "/v1/models", "/v1/project", "/v1/cache"):
                assert (await gateway.get(path)).status == 401, path


async def test_store_content_of_the_project_decides_what_its_rows_keep() -> None:
    async with RunningGateway() as gateway:
        await gateway.gateway.host.projects.change("default", {"store_content": False})
        assert (await gateway.get_row((await gateway.chat()).request_id))["input"] is None
        await gateway.gateway.host.projects.change("default", {"store_content": None})
        assert (await gateway.get_row((await gateway.chat()).request_id))["input"] is not None


async def test_the_cache_of_a_project_is_as_it_is_set_now() -> None:
    async with RunningGateway({"plugins": {"cache": {"max_bytes": 1 << 20}}}) as gateway:
        store = gateway.gateway.host.projects
        assert [(await gateway.chat()).header("x-muxx-cache") for _ in range(2)] == ["MISS", "HIT"]
        await store.change("default", {"cache": {"enabled": False}})
        assert (await gateway.chat()).header("x-muxx-cache") == "MISS"
        await store.change("default", {"cache": {"enabled": None}})
        assert (await gateway.chat()).header("x-muxx-cache") == "HIT"
        async with await gateway.connect() as client:
            for enabled, expected in ((None, "HIT"), (False, "MISS"), (None, "HIT")):
                await store.change("default", {"cache": {"enabled": enabled}})
                await client.post_chat(gateway.key, chat_body())
                assert (await client.read_response()).header("x-muxx-cache") == expected, "on a connection that is kept"
