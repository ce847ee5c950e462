"""`muxx projects …`: what the commands say and do, beside a running server and without one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from process_kit import gateway_process

from muxx.cli import cli
from muxx.testing import GatewayProcess, ScriptedUpstream, leak
from muxx.testing.settings import PROVIDER_KEY

CANARY = "sk-project-canary-c05e7f21"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a database of its own; `stdin` is what it reads."""
    for name in ("MUXX_CONFIG", "MUXX_PLUGINS_DIR", "MUXX_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "muxx.toml").write_text("[project]\ncontent_retention_days = 7\n")

    def muxx(*arguments: str, stdin: str | None = None, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, arguments, input=stdin)
        assert result.exit_code == code, result.output
        return result

    return muxx


def said(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("projects", "show", "\udcff"), ("projects", "audit", "--project", "\udcff"), ("caps", "list", "--project", "\udcff"),
        ("limits", "show", "--project", "\udcff"), ("cache", "purge", "--project", "\udcff"),
    ],
)  # fmt: skip
def test_an_argument_that_is_no_text_is_one_line_and_exit_code_2(arguments: tuple[str, ...], run: Run) -> None:
    result = run(*arguments, code=2)
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "UTF-8" in result.stderr


def test_a_project_is_made_set_shown_and_archived(run: Run) -> None:
    made = said(run("projects", "create", "shop", "cache.ttl=1h", "--json"))
    assert made["settings"] == {"cache": {"ttl": 3600}}
    changed = said(run("projects", "set", "shop", "cache.ttl=60", "cache.enabled=false", "store_content=false", "--json"))
    assert changed["settings"] == {"cache": {"ttl": 60, "enabled": False}, "store_content": False}
    changed = said(run("projects", "unset", "shop", "cache.ttl", "store_content", "--json"))
    assert changed["settings"] == {"cache": {"enabled": False}}
    assert changed["effective"]["content_retention_days"] == 7
    assert said(run("projects", "show", "shop", "--json")) == changed
    lines = run("projects", "show", "shop").stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["setting", "value", "its", "own"],
        ["cache.enabled", "false", "yes"],
        ["cache.ttl", "86400"],
    ]
    caps = run("projects", "set", "shop", 'spend_caps=[{window="day",usd="5"}]').stdout.splitlines()
    assert ["spend_caps", '[{"window":"day","usd":"5","action":"block"}]', "yes"] in [line.split() for line in caps]
    assert 'settings.spend_caps=[{"window":"day","usd":"5"}]' in run("projects", "audit").stdout
    assert run("projects", "archive", "shop").stderr == "Archived shop.\n"
    assert [row["name"] for row in said(run("projects", "list", "--json"))] == ["default"]
    assert [row["name"] for row in said(run("projects", "list", "--all", "--json"))] == ["default", "shop"]
    assert "cache.enabled=false" in run("projects", "list", "--all").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "default"), "already"),
        (("create", "a/b"), "letters"),
        (("set", "default", "cache.tll=5"), "did you mean 'ttl'"),
        (("set", "default", "cache.ttl=0"), "greater than or equal to 1"),
        (("set", "default", "cache.ttl"), "KEY=VALUE"),
        (("set", "default", "=5"), "KEY=VALUE"),
        (("set", "default"), "KEY=VALUE"),
        (("set", "default", 'store_content=1\ncache = {}'), "true or false"),
        (("unset", "default", "cache.tll"), "did you mean 'ttl'"),
        (("provider-keys", "set", "default", "opnai"), "Did you mean 'openai'"),
        (("provider-keys", "set", "default", "openai", "--from-env", "MUXX_NOT_SET"), "is not set"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_usage_error_that_says_why_and_changes_nothing(
    arguments: tuple[str, ...], words: str, run: Run
) -> None:
    before = said(run("projects", "list", "--json"))
    assert words in " ".join(run("projects", *arguments, stdin=CANARY, code=2).stderr.split())
    assert said(run("projects", "list", "--json")) == before
    assert said(run("projects", "audit", "--json")) == []


@pytest.mark.parametrize(
    "arguments", [("show", "x"), ("set", "x", "store_content=true"), ("archive", "x"), ("provider-keys", "list", "x")]
)
def test_a_project_that_does_not_exist_is_one_line_and_1(arguments: tuple[str, ...], run: Run) -> None:
    assert run("projects", *arguments, code=1).stderr == "Error: There is no such project.\n"


def test_a_provider_key_comes_from_stdin_or_the_environment_and_is_never_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [run("projects", "provider-keys", "set", "default", "openai", stdin=CANARY + "\n")]
    monkeypatch.setenv("THE_KEY", "sk-from-the-environment-9d41")
    outputs.append(run("projects", "provider-keys", "set", "default", "google", "--from-env", "THE_KEY", "--json"))
    assert said(outputs[-1])["last4"] == "9d41"
    outputs.append(run("projects", "provider-keys", "list", "default"))
    listed = run("projects", "provider-keys", "list", "default", "--json")
    assert [(row["provider"], row["last4"]) for row in said(listed)] == [("google", "9d41"), ("openai", CANARY[-4:])]
    run("projects", "provider-keys", "remove", "default", "google")
    run("projects", "provider-keys", "remove", "default", "google", code=1)
    outputs += [listed, run("projects", "audit"), run("projects", "show", "default", "--json")]
    assert leak.find([CANARY, os.environ["THE_KEY"]], tmp_path, *(output.output for output in outputs)) == []


def test_the_audit_log_names_the_shells_user(run: Run) -> None:
    run("projects", "create", "shop")
    key = said(run("keys", "create", "--project", "shop", "--json"))
    successor = said(run("keys", "rotate", key["id"], "--json"))
    run("keys", "revoke", key["id"])
    rows = said(run("projects", "audit", "--project", "shop", "--json"))
    assert [(row["action"], row["subject"]) for row in rows] == [
        ("key.revoke", key["id"]), ("key.rotate", key["id"]), ("key.create", key["id"]), ("project.create", None),
    ]  # fmt: skip
    assert {row["actor"] for row in rows} == {f"uid:{os.getuid()}"}
    assert rows[1]["detail"] == {"environment": "live", "successor": successor["id"]}
    assert key["id"] in run("projects", "audit").stdout
    assert leak.find([key["key"], successor["key"]], json.dumps(rows)) == []


def test_a_key_of_an_archived_project_cannot_be_made_and_of_a_new_one_makes_it(run: Run) -> None:
    assert "is new" in run("keys", "create", "--project", "fresh").stderr
    assert "is new" not in run("keys", "create", "--project", "fresh").stderr
    assert [row["name"] for row in said(run("projects", "list", "--json"))] == ["default", "fresh"]
    run("projects", "archive", "fresh")
    assert "archived" in run("keys", "create", "--project", "fresh", code=1).stderr


def test_an_archived_project_is_restored(run: Run) -> None:
    run("projects", "create", "pilot")
    run("projects", "archive", "pilot")
    assert run("projects", "restore", "pilot").stderr == "Restored pilot.\n"
    assert [row["name"] for row in said(run("projects", "list", "--json"))] == ["default", "pilot"]
    assert said(run("projects", "restore", "pilot", "--json"))["archived_at"] is None
    run("projects", "restore", "nobody", code=1)


def test_where_a_project_pays_itself_models_explain_says_so(run: Run) -> None:
    run("projects", "create", "payer")
    key = said(run("keys", "create", "--project", "payer", "--json"))
    run("projects", "provider-keys", "set", "payer", "groq", stdin=CANARY)
    [everyone] = said(run("models", "explain", "groq/llama", "--json"))["targets"]
    assert (everyone["key"], everyone["skipped"]) == ("missing: set GROQ_API_KEY", "no key: set GROQ_API_KEY")
    for option in (("--project", "payer"), ("--key", key["id"])):
        [own] = said(run("models", "explain", "groq/llama", *option, "--json"))["targets"]
        assert (own["key"], own["skipped"]) == ("the project's", None)
    run("models", "explain", "groq/llama", "--project", "payer", "--key", key["id"], code=2)
    [stranger] = said(run("models", "explain", "groq/llama", "--project", "nobody", "--json"))["targets"]
    assert stranger == everyone


def test_an_address_that_is_missing_is_not_mended_by_a_key(run: Run) -> None:
    run("projects", "provider-keys", "set", "default", "azure", stdin=CANARY)
    [target] = said(run("models", "explain", "azure/gpt-4o", "--project", "default", "--json"))["targets"]
    assert target["skipped"].startswith("set AZURE")


def test_a_key_is_shown_and_changed(run: Run) -> None:
    key = said(run("keys", "create", "--name", "ci", "--models", "gpt-*", "--expires", "30d", "--json"))
    shown = said(run("keys", "show", key["id"], "--json"))
    assert (shown["name"], shown["models"], shown["status"]) == ("ci", ["gpt-*"], "active")
    changed = said(run("keys", "change", key["id"], "--name", "", "--never-expires", "--all-models", "--json"))
    assert (changed["name"], changed["models"], changed["expires_at"]) == (None, [], None)
    changed = said(run("keys", "change", key["id"], "--models", "o1*", "--models", "o3*", "--expires", "1h", "--json"))
    assert changed["models"] == ["o1*", "o3*"]
    assert "o1*, o3*" in run("keys", "show", key["id"]).stdout
    for wrong in ((), ("--never-expires", "--expires", "1h"), ("--models", "x", "--all-models")):
        run("keys", "change", key["id"], *wrong, code=2)
    assert said(run("keys", "show", key["id"], "--json")) == changed
    for options, listed in ((("--project", "default", "--status", "active"), [changed]), (("--status", "revoked"), []), (("--project", "x"), [])):
        assert said(run("keys", "list", *options, "--json")) == listed
    for command in (("show", "key_0"), ("change", "key_0", "--name", "x")):
        assert "muxx keys list" in run("keys", *command, code=1).stderr


def test_explain_names_the_layer_of_each_of_a_projects_values(run: Run, tmp_path: Path) -> None:
    nothing = run("config", "explain", "--project", "shop", "--json")
    assert "no project shop yet" in nothing.stderr
    assert not (tmp_path / "muxx.db").exists()
    run("projects", "create", "shop", "cache.ttl=60")
    rows = {row["key"]: (row["value"], row["layer"]) for row in said(run("config", "explain", "--project", "shop", "--json"))}
    assert (
        rows.items()
        >= {
            "project.cache.ttl": (60, "project"),
            "project.cache.enabled": (True, "built in"),
            "project.content_retention_days": (7, "file"),
        }.items()
    )
    assert rows.keys() == {row["key"] for row in said(nothing)}
    everyones = {row["key"]: row["value"] for row in said(run("config", "explain", "--json"))}
    assert everyones["project.cache.ttl"] == 86_400


def test_a_project_that_is_not_there_is_doubted_where_nothing_would_be_found_of_it(run: Run) -> None:
    run("projects", "create", "shop")
    doubt = "There is no project of the name 'shpo'. Did you mean 'shop'?"
    for command in (("logs", "tail"), ("logs", "search", "x"), ("logs", "stats"), ("logs", "export", "--format", "csv"), ("costs",)):
        assert run(*command, "--project", "shpo").stderr == f"{doubt}\n", command
        assert run(*command, "--project", "shop").stderr == "", command
    assert run("cache", "stats", "--project", "shpo").stderr == f"{doubt}\n"
    assert run("cache", "purge", "--project", "shpo", code=1).stderr == f"Error: {doubt}\n"
    assert "There is no project of the name ''" in run("cache", "purge", "--project", "", code=1).stderr


# ── two workers ──


async def test_commands_beside_two_workers_bind_on_the_next_request_in_both(
    tmp_path: Path, scripted_upstream: ScriptedUpstream
) -> None:
    """Each request has a connection of its own, and so one of the workers: that all 24 meet the same one does not happen."""
    async with gateway_process(tmp_path, scripted_upstream, workers=2) as gateway:
        assert await keys_used(gateway, scripted_upstream) == {f"Bearer {PROVIDER_KEY}"}
        await run_with_stdin(gateway, CANARY, "projects", "provider-keys", "set", "default", "openai")
        assert await keys_used(gateway, scripted_upstream) == {f"Bearer {CANARY}"}
        await gateway.run("projects", "set", "default", "store_content=false")
        rows = [await gateway.get_row((await gateway.chat()).request_id) for _ in range(24)]
        assert {row["input"] for row in rows} == {None}
        await gateway.run("projects", "archive", "default")
        assert {(await gateway.chat()).status for _ in range(24)} == {401}
        assert leak.find([CANARY], tmp_path) == []


async def keys_used(gateway: GatewayProcess, upstream: ScriptedUpstream) -> set[str | None]:
    before = len(upstream.requests)
    for _ in range(24):
        assert (await gateway.chat()).status == 200
    return {request.header("authorization") for request in upstream.requests[before:]}


async def run_with_stdin(gateway: GatewayProcess, text: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "muxx", *arguments, "--config", str(gateway.config_path)]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate(text.encode() + b"\n")
    assert process.returncode == 0, errors.decode()
