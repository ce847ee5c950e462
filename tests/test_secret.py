"""The secret: another one is told at the start, and `muxx secret rotate` exchanges it without a key being issued anew."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from journal_kit import config_in
from process_kit import Upstream, gateway_process, messages

from muxx import StartError, secret
from muxx.cli import cli
from muxx.config import Config
from muxx.host import Host
from muxx.projects import Projects
from muxx.testing import RunningGateway, clean_environment, leak

CANARY = "sk-provider-canary-51c2d80e"
OLD, NEW = "the-old-secret-canary-77", "the-new-secret-canary-88"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a database of its own, with these secrets in the environment."""
    for name in ("MUXX_CONFIG", "MUXX_PLUGINS_DIR", "MUXX_SECRET", "MUXX_SECRET_OLD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def muxx(*arguments: str, new: str | None = None, old: str | None = None, code: int = 0, stdin: str | None = None) -> Result:
        environment = {"MUXX_SECRET": new, "MUXX_SECRET_OLD": old}
        result = CliRunner().invoke(cli, arguments, input=stdin, env=environment)
        assert result.exit_code == code, result.output
        return result

    return muxx


def provider_key(directory: Path) -> str:
    """The key that requests to the provider are made with; raises what keeps the project from being served."""

    async def read() -> str:
        async with Host.open(config_at(directory)) as host:
            projects = Projects(host.config, host)
            await projects.catch_up()
            projects.resolve("default")
            return projects.provider_keys("default")["openai"]

    return asyncio.run(read())


def config_at(directory: Path) -> Config:
    return config_in(directory)


def made(run: Run, **secrets: str) -> dict[str, Any]:
    """A database with a key and a provider's key; the key."""
    run("projects", "provider-keys", "set", "default", "openai", stdin=CANARY + "\n", **secrets)
    key: dict[str, Any] = orjson.loads(run("keys", "create", "--json", **secrets).stdout)
    return key


async def works(directory: Path, key: str) -> bool:
    async with RunningGateway(directory=directory, mock=True) as gateway:
        gateway.key = key
        return (await gateway.chat()).status == 200


def test_another_secret_is_told_at_the_start_in_one_line(run: Run) -> None:
    """Not by a gateway that answers 401 to everybody."""
    made(run, new=OLD)
    command = [sys.executable, "-m", "muxx", "serve", "--mock", "--port", "0"]
    environment = {**clean_environment(), "MUXX_SECRET": NEW}
    served = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    listed = run("keys", "list", new=NEW, code=3)
    assert served.returncode == 3
    assert served.stdout == ""
    for output in (served.stderr, listed.stderr):
        [line] = [line for line in output.splitlines() if "not the one this database was made with" in line]
        assert "muxx secret rotate" in line
        assert leak.find([OLD, NEW], output) == []
    run("keys", "list", new=OLD)


def test_as_long_as_nothing_depends_on_it_any_secret_will_do(run: Run) -> None:
    run("keys", "list", new=OLD)
    run("keys", "list", new=NEW)
    run("keys", "create", new=NEW)
    run("keys", "list", new=OLD, code=3)


def test_a_configured_secret_is_exchanged_and_keys_go_on_working(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(run, new=OLD)
    done = run("secret", "rotate", "--json", new=NEW, old=OLD)
    assert orjson.loads(done.stdout) == {"rotated": True, "provider_keys": 1, "file": None}
    run("keys", "list", new=OLD, code=3)
    monkeypatch.setenv("MUXX_SECRET", NEW)
    assert provider_key(tmp_path) == CANARY
    assert asyncio.run(works(tmp_path, key["key"]))
    assert not (tmp_path / "muxx.db.secret").exists()
    assert leak.find([CANARY, OLD, NEW, key["key"]], tmp_path, done.output) == []
    [row] = [row for row in orjson.loads(run("projects", "audit", "--json", new=NEW).stdout) if row["action"] == "secret.rotate"]
    assert row["detail"] == {"provider_keys": 1}


def test_the_second_rotation_is_as_good_as_the_first(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(run, new=OLD)
    run("secret", "rotate", new=NEW, old=OLD)
    run("secret", "rotate", new="a third", old=NEW)
    for wrong in (OLD, NEW):
        run("keys", "list", new=wrong, code=3)
    monkeypatch.setenv("MUXX_SECRET", "a third")
    assert provider_key(tmp_path) == CANARY
    assert asyncio.run(works(tmp_path, key["key"]))


def test_a_file_is_replaced_by_a_new_one(run: Run, tmp_path: Path) -> None:
    key = made(run)
    file = tmp_path / "muxx.db.secret"
    before = file.read_bytes()
    done = run("secret", "rotate")
    assert "1 provider keys" in done.stderr
    assert len(file.read_bytes()) == 32
    assert file.read_bytes() != before
    assert file.stat().st_mode & 0o777 == 0o600
    assert provider_key(tmp_path) == CANARY
    assert asyncio.run(works(tmp_path, key["key"]))
    file.write_bytes(before)
    run("keys", "list", code=3)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
def test_a_file_that_root_exchanges_belongs_to_the_owner_of_the_database(run: Run, tmp_path: Path) -> None:
    """Who serves as somebody else could else not start."""
    made(run)
    os.chown(tmp_path / "muxx.db", 4321, 1234)
    run("secret", "rotate")
    secret_file = (tmp_path / "muxx.db.secret").stat()
    assert (secret_file.st_uid, secret_file.st_gid, secret_file.st_mode & 0o777) == (4321, 1234, 0o600)


def test_a_secret_moves_from_the_file_into_the_environment_and_back(run: Run, tmp_path: Path) -> None:
    made(run)
    file = tmp_path / "muxx.db.secret"
    assert "delete it" in run("secret", "rotate", new=NEW).stderr
    run("keys", "list", new=NEW)
    file.unlink()
    run("secret", "rotate", old=NEW)
    assert provider_key(tmp_path) == CANARY
    (tmp_path / "old").write_bytes(file.read_bytes())
    run("secret", "rotate", "--old-file", "old", new=NEW)
    (tmp_path / "old").write_text(NEW + "\n")
    run("secret", "rotate", "--old-file", "old", new=OLD)
    run("keys", "list", new=OLD)


def test_what_is_wrong_changes_nothing_and_says_what_to_do(run: Run, tmp_path: Path) -> None:
    assert "there is no database" in run("secret", "rotate", new=NEW, code=3).stderr
    made(run, new=OLD)
    for old in (None, "a wrong one"):
        assert "MUXX_SECRET_OLD" in run("secret", "rotate", new=NEW, old=old, code=3).stderr
    assert "Nothing to do" in run("secret", "rotate", new=OLD, old=OLD).stderr
    run("secret", "rotate", "--old-file", "nowhere", new=NEW, code=2)
    run("keys", "list", new=OLD)


async def test_beside_a_running_gateway_it_is_refused(run: Run, tmp_path: Path) -> None:
    async with RunningGateway(directory=tmp_path, mock=True) as gateway:
        config = str(tmp_path / "muxx.toml")
        refused = await asyncio.to_thread(run, "secret", "rotate", "--config", config, code=3)
        assert "another instance owns the database" in refused.stderr
        assert (await gateway.chat()).status == 200


def test_a_provider_key_that_cannot_be_opened_stops_it_whole(run: Run, tmp_path: Path) -> None:
    made(run, new=OLD)
    run("projects", "create", "shop", new=OLD)
    run("projects", "provider-keys", "set", "shop", "openai", stdin="sk-of-the-shop\n", new=OLD)

    async def move() -> None:
        async with Host.open(config_at(tmp_path)) as host:
            sql = "UPDATE provider_keys SET sealed = (SELECT sealed FROM provider_keys WHERE project = 'default') WHERE project = 'shop'"
            await host.db.write(lambda db: db.execute(sql))

    os.environ["MUXX_SECRET"] = OLD
    try:
        asyncio.run(move())
    finally:
        del os.environ["MUXX_SECRET"]
    refused = run("secret", "rotate", new=NEW, old=OLD, code=3)
    assert "muxx projects provider-keys remove shop openai" in refused.stderr
    run("projects", "provider-keys", "remove", "shop", "openai", new=OLD)
    run("secret", "rotate", new=NEW, old=OLD)


@pytest.mark.parametrize("moment", ["before the transaction", "after the transaction"])
def test_a_rotation_that_was_cut_off_is_finished_by_the_next(
    moment: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the power went: with the new file made, or with the database changed and the old file still in its place."""
    made(run)
    file = tmp_path / "muxx.db.secret"
    with monkeypatch.context() as patched:
        if moment == "before the transaction":
            patched.setattr("muxx.rotation._write", cut_off)
        else:
            patched.setattr(os, "replace", cut_off)
        assert isinstance(CliRunner().invoke(cli, ["secret", "rotate"]).exception, KeyboardInterrupt | SystemExit)
    assert (tmp_path / "muxx.db.secret.new").exists()
    if moment == "before the transaction":
        run("keys", "list")
    else:
        assert "muxx secret rotate" in run("keys", "list", code=3).stderr
    run("secret", "rotate")
    assert not (tmp_path / "muxx.db.secret.new").exists()
    assert len(file.read_bytes()) == 32
    assert provider_key(tmp_path) == CANARY


def cut_off(*_: Any) -> Any:
    raise KeyboardInterrupt


async def test_what_plugins_derive_stays_and_what_seals_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXX_SECRET", OLD)
    async with Host.open(config_in(tmp_path)) as host:
        await host.projects.set_provider_key("default", "openai", CANARY)
        before = host.derive("keys"), (await host.db.read("SELECT sealed FROM provider_keys"))[0]["sealed"]
    monkeypatch.setenv("MUXX_SECRET", NEW)
    monkeypatch.setenv("MUXX_SECRET_OLD", OLD)
    from muxx.rotation import rotate

    await rotate(config_in(tmp_path), None)
    async with Host.open(config_in(tmp_path)) as host:
        [row] = await host.db.read("SELECT sealed FROM provider_keys")
        assert host.derive("keys") == before[0]
        with pytest.raises(secret.CannotOpen):
            secret.Secret(OLD.encode()).provider_keys.open(row["sealed"], "default", "openai")
        assert before[0] not in (tmp_path / "muxx.db").read_bytes()


def test_a_mark_tells_secrets_apart_and_takes_too_long_to_try_guesses_on() -> None:
    assert secret.Secret(b"x").mark == secret.Secret(b"x").mark
    started = time.process_time()
    assert len({secret.Secret(b"%d" % number).mark for number in range(10)}) == 10
    assert (time.process_time() - started) / 10 > 0.001


async def test_a_database_of_before_is_marked_at_its_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXX_SECRET", OLD)
    async with Host.open(config_in(tmp_path)) as host:
        await host.projects.set_provider_key("default", "openai", CANARY)
        await host.db.write(lambda db: db.execute("DELETE FROM secret"))
    await (await Host.open(config_in(tmp_path))).close()
    monkeypatch.setenv("MUXX_SECRET", NEW)
    with pytest.raises(StartError):
        await Host.open(config_in(tmp_path))


@pytest.mark.parametrize(("given", "warned"), [("fifteen-bytes-!", 1), ("sixteen-bytes-!!", 0), ("", 0)])
async def test_a_start_with_a_secret_that_can_be_guessed_warns_of_it(given: str, warned: int, tmp_path: Path) -> None:
    async with Upstream() as upstream, gateway_process(tmp_path, upstream, MUXX_SECRET=given) as gateway:
        assert messages(gateway).count("a secret of fewer than 16 bytes can be guessed") == warned
        assert not given or given not in gateway.stderr
