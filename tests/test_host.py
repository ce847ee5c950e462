"""What a host holds in common: paths, databases, the secret, the instance lock."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from pathlib import Path

import pytest
from journal_kit import config_in, kill, spawn

from muxx.db import Connection
from muxx.errors import StartError
from muxx.host import Host


@pytest.fixture(autouse=True)
def _no_secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUXX_SECRET", raising=False)


async def with_a_key(host: Host) -> None:
    async def insert(connection: Connection) -> None:
        await connection.execute("CREATE TABLE keys (id TEXT)")
        await connection.execute("INSERT INTO keys VALUES ('k')")

    await host.db.write(insert)


async def derived(directory: Path, **server: str) -> bytes:
    async with Host.open(config_in(directory, **server)) as host:
        return host.derive("keys")


class TestFiles:
    async def test_everything_lies_beside_the_database(self, tmp_path: Path) -> None:
        host = await Host.open(config_in(tmp_path))
        await host.close()
        await host.close()
        paths = host.paths
        assert paths.logs.name == "muxx-logs.db"
        assert [path.name for path in (paths.secret, paths.shared, paths.journal, paths.lock)] == [
            "muxx.db.secret", "muxx.db.shared", "muxx.db.journal", "muxx.db.lock",
        ]  # fmt: skip
        assert paths.ballast.parent == paths.journal

    async def test_a_failed_start_leaves_nothing_open(self, tmp_path: Path) -> None:
        (tmp_path / "muxx.db.shared").write_bytes(b"\x01" * 4096)
        with pytest.raises(StartError):
            await Host.open(config_in(tmp_path))

    async def test_a_file_of_somebody_else_under_the_name_of_the_counters_stays_as_it_is(self, tmp_path: Path) -> None:
        file = tmp_path / "muxx.db.shared"
        file.write_bytes(b"notes of somebody")
        with pytest.raises(StartError, match="not written by this version"):
            await Host.open(config_in(tmp_path))
        assert file.read_bytes() == b"notes of somebody"

    @pytest.mark.parametrize("name", ["muxx.db.shared", "muxx.db.lock"])
    async def test_nothing_is_made_or_changed_where_a_link_in_place_of_our_files_leads(self, tmp_path: Path, name: str) -> None:
        """Whoever may write into a directory such as /tmp could have muxx write wherever its user may."""
        elsewhere = tmp_path / "elsewhere"
        (tmp_path / name).symlink_to(elsewhere)
        with pytest.raises(StartError, match=name):
            async with Host.open(config_in(tmp_path)) as host:
                host.lock_instance()
        assert not elsewhere.exists()

    async def test_two_hosts_live_in_one_process(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        async with Host.open(config_in(tmp_path)) as first, Host.open(config_in(tmp_path / "b")) as other:
            first.shared.bump("keys")
            assert other.shared.version("keys") == 0
            assert first.derive("keys") != other.derive("keys")

    async def test_two_hosts_on_one_database_see_each_other(self, tmp_path: Path) -> None:
        async with Host.open(config_in(tmp_path)) as server, Host.open(config_in(tmp_path)) as command:
            seen = server.shared.version("keys")
            await with_a_key(command)
            command.shared.bump("keys")
            assert server.shared.version("keys") > seen
            assert len(await server.db.read("SELECT * FROM keys")) == 1

    async def test_none_begins_counters_of_its_own_beside_an_instance_that_has_others(self, tmp_path: Path) -> None:
        """A key that it revoked would go on working there."""
        async with Host.open(config_in(tmp_path)) as server:
            server.lock_instance()
            assert not server.shared.is_lost
            server.paths.shared.unlink()
            assert server.shared.is_lost
            for _ in range(2):
                with pytest.raises(StartError, match=r"muxx.db.shared: was deleted while muxx runs"):
                    await Host.open(config_in(tmp_path))
            server.paths.shared.write_bytes(b"")
            assert server.shared.is_lost, "there is one of that name, but another"
        async with Host.open(config_in(tmp_path)) as server:
            server.lock_instance()
            assert not server.shared.is_lost


class TestSecret:
    async def test_it_is_made_once_for_its_owner_only(self, tmp_path: Path) -> None:
        first = await derived(tmp_path)
        file = tmp_path / "muxx.db.secret"
        assert len(file.read_bytes()) == 32
        assert file.stat().st_mode & 0o777 == 0o600
        assert await derived(tmp_path) == first

    async def test_the_environment_wins_over_the_config_and_that_over_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from_file = await derived(tmp_path)
        from_config = await derived(tmp_path, secret="configured")
        monkeypatch.setenv("MUXX_SECRET", "environment")
        from_environment = await derived(tmp_path, secret="configured")
        assert len({from_file, from_config, from_environment}) == 3
        assert await derived(tmp_path) == from_environment

    async def test_a_secret_in_the_environment_may_be_any_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MUXX_SECRET", os.fsdecode(b"\xff\x01 of a vault"))
        assert len(await derived(tmp_path)) == 32

    async def test_with_a_secret_given_no_file_is_made(self, tmp_path: Path) -> None:
        await derived(tmp_path, secret="configured")
        assert not (tmp_path / "muxx.db.secret").exists()

    async def test_a_database_with_keys_and_no_secret_stops_the_start(self, tmp_path: Path) -> None:
        async with Host.open(config_in(tmp_path)) as host:
            await with_a_key(host)
        (tmp_path / "muxx.db.secret").unlink()
        with pytest.raises(StartError) as caught:
            await Host.open(config_in(tmp_path))
        assert caught.value.exit_code == 3
        assert not (tmp_path / "muxx.db.secret").exists()

    async def test_a_damaged_secret_stops_the_start(self, tmp_path: Path) -> None:
        await derived(tmp_path)
        (tmp_path / "muxx.db.secret").write_bytes(b"short")
        with pytest.raises(StartError) as caught:
            await Host.open(config_in(tmp_path))
        assert caught.value.exit_code == 3

    async def test_derivation_is_hkdf_sha256_and_differs_by_purpose(self, tmp_path: Path) -> None:
        async with Host.open(config_in(tmp_path, secret="configured")) as host:
            extracted = hmac.new(b"muxx", b"configured", hashlib.sha256).digest()
            assert host.derive("keys") == hmac.new(extracted, b"keys\x01", hashlib.sha256).digest()
            assert host.derive("keys") != host.derive("providers")

    async def test_hosts_that_begin_at_once_agree_on_one_secret(self, tmp_path: Path) -> None:
        hosts = await asyncio.gather(*(Host.open(config_in(tmp_path)) for _ in range(4)))
        assert len({host.derive("keys") for host in hosts}) == 1
        for host in hosts:
            await host.close()

    async def test_neither_secret_nor_pepper_is_in_any_other_file(self, tmp_path: Path) -> None:
        pepper = await derived(tmp_path)
        secret = (tmp_path / "muxx.db.secret").read_bytes()
        for file in tmp_path.iterdir():
            if file.is_file() and file.name != "muxx.db.secret":
                assert pepper not in file.read_bytes()
                assert secret not in file.read_bytes()


HOLDER = """
import asyncio, sys
from pathlib import Path
from journal_kit import config_in
from muxx.host import Host
async def main():
    async with Host.open(config_in(Path(sys.argv[1]))) as host:
        host.lock_instance()
        print("locked", flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


class TestInstanceLock:
    async def test_a_second_instance_is_refused_until_the_first_is_gone(self, tmp_path: Path) -> None:
        process = spawn(HOLDER, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        async with Host.open(config_in(tmp_path)) as host:
            with pytest.raises(StartError, match="another instance owns the database") as caught:
                host.lock_instance()
            assert caught.value.exit_code == 3
            kill(process)
            host.lock_instance()

    async def test_commands_work_beside_the_instance(self, tmp_path: Path) -> None:
        async with Host.open(config_in(tmp_path)) as server:
            server.lock_instance()
            async with Host.open(config_in(tmp_path)) as command:
                await with_a_key(command)
            with pytest.raises(StartError):
                server.lock_instance()
