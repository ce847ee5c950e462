"""`muxx alerts …` and `POST /v1/alerts/test`: what they say and do, beside a running server and without one."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alerts_kit import OK, SECRET, MailServer, alerting, is_signed, receiving, settled, slack, webhook
from click.testing import CliRunner, Result
from http_kit import add_key
from tls_kit import self_signed

from muxx.cli import cli
from muxx.testing import RawClient, RawResponse, RunningGateway, rst
from muxx.testing.settings import write_config

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a database of its own."""
    for name in ("MUXX_CONFIG", "MUXX_PLUGINS_DIR", "MUXX_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    receivers = {"ops": {"kind": "webhook", "url": "http://127.0.0.1:9/hook", "secret": SECRET}}
    write_config(tmp_path, {"project": {"alerts": [{"usd": "9.50"}]}, "plugins": {"alerts": {"receivers": receivers}}})

    def muxx(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == code, result.output
        return result

    return muxx


def names(result: Result) -> list[str]:
    return [row["alert"] for row in json.loads(result.stdout)]


def test_alerts_are_added_listed_and_removed_and_each_change_is_in_the_audit_log(run: Run) -> None:
    assert names(run("alerts", "list", "--json")) == ["spend:day:9.5"]
    added = run("alerts", "add", "--usd", "$80", "--window", "month", "--to", "ops", "--json")
    assert names(added) == ["spend:day:9.5", "spend:month:80"]
    run("alerts", "add", "--limit", "rpm", "--share", "0.7")
    assert names(run("alerts", "list", "--project", "default", "--json"))[2] == "rpm:0.7"
    lines = [line.split() for line in run("alerts", "list").stdout.splitlines()]
    assert lines[0] == ["project", "alert", "window", "spent", "of", "at", "told", "to"]
    assert lines[2] == ["default", "spend:month:80", "month", "$0", "$80", "100", "%", "0", "ops"]
    assert lines[3] == ["default", "rpm:0.7", "hour", "-", "-", "70", "%", "0", "ops"]
    removed = run("alerts", "remove", "spend:day:9.5")
    assert removed.stderr == "Of default somebody is told now: spend:month:80, rpm:0.7.\n"
    changes = json.loads(run("projects", "audit", "--json").stdout)
    assert [change["action"] for change in changes] == ["project.change"] * 3
    assert changes[0]["detail"]["settings"]["alerts"] == [
        {"usd": "80", "window": "month", "to": ["ops"]},
        {"limit": "rpm", "share": 0.7, "window": "day", "to": []},
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add",), "say either --usd AMOUNT or --limit NAME"),
        (("add", "--usd", "1", "--limit", "rpm"), "say either"),
        (("add", "--usd", "1", "--share", "0.8"), "--share is of a --limit"),
        (("add", "--usd", "much"), "--usd is an amount in US dollars"),
        (("add", "--usd", "-1"), "alerts[1].usd: must be greater than 0"),
        (("add", "--usd", "1", "--to", "opps"), "did you mean 'ops'?"),
        (("remove", "spend:day:1"), "the project has no alert of this name; it has spend:day:9.5"),
        (("test", "opps"), "did you mean 'ops'?"),
    ],
)
def test_what_cannot_be_says_why_and_changes_nothing(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in " ".join(run("alerts", *arguments, code=2).stderr.split())
    assert names(run("alerts", "list", "--json")) == ["spend:day:9.5"]
    assert json.loads(run("projects", "audit", "--json").stdout) == []


def test_of_a_project_that_is_not_there_nothing_is_shown(run: Run) -> None:
    for arguments in (("list", "--project", "nobody"), ("add", "--project", "nobody", "--usd", "1")):
        assert run("alerts", *arguments, code=1).stderr == "Error: There is no such project.\n"


def test_an_alert_whose_receiver_is_gone_is_told_of(run: Run, tmp_path: Path) -> None:
    run("alerts", "add", "--usd", "1", "--to", "ops")
    write_config(tmp_path, {})
    assert run("alerts", "list").stderr == "Warning: spend:day:1 of default names ops, and there is no such receiver.\n"


def test_a_receiver_that_nobody_is_at_fails_the_test(run: Run) -> None:
    assert run("alerts", "test", "ops", code=1).stderr == "Error: not delivered to ops: no connection\n"


async def test_events_are_shown_with_their_deliveries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as hook, alerting({"alerts": [{"usd": "1"}]}, {"ops": webhook(hook)}) as gateway:
        await gateway.chat()
        [event] = await settled(gateway)
        config = str(gateway.directory / "muxx.toml")
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["alerts", "events", "--json", "--config", config])
        assert json.loads(shown.stdout) == [event]
        shown = await asyncio.to_thread(CliRunner().invoke, cli, ["alerts", "events", "--config", config])
        assert shown.stdout.splitlines()[1].split() == [event["at"], "default", "spend:day:1", "-", "$1", "ops", "delivered"]


async def ask_for_test(gateway: RunningGateway, key: str, receiver: str) -> RawResponse:
    async with await RawClient.connect(gateway.base_url) as client:
        body = json.dumps({"receiver": receiver}).encode()
        await client.request("POST", "/v1/alerts/test", {"Authorization": f"Bearer {key}"}, body)
        return await client.read_response()


async def test_an_admin_sends_a_test_which_is_no_event() -> None:
    async with (
        receiving([rst()], OK) as hook,
        receiving() as room,
        alerting({}, {"ops": webhook(hook), "chat": slack(room)}) as gateway,
    ):
        admin = await add_key(gateway, "admin", None)
        assert (await ask_for_test(gateway, gateway.key, "ops")).status == 403
        failed = (await ask_for_test(gateway, admin, "ops")).json()
        assert (failed["delivered"], failed["status"]) == (False, None)
        assert failed["problem"] == "the connection broke before an answer"
        assert (await ask_for_test(gateway, admin, "ops")).json() == {
            "object": "alert_test", "receiver": "ops", "delivered": True, "status": 200, "problem": None,
        }  # fmt: skip
        assert hook.last.json()["type"] == "alert.test"
        assert is_signed(hook.last)
        assert (await ask_for_test(gateway, admin, "chat")).json()["delivered"] is True
        assert room.last.json()["text"].startswith("This is a test.")
        refused = await ask_for_test(gateway, admin, "opps")
        assert (refused.status, refused.error["param"]) == (400, "receiver")
        assert (await gateway.get("/v1/alerts/events")).json()["data"] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls") / "cert.pem")


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_goes_over_a_safe_connection_only_and_the_password_too(
    security: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    mail = MailServer(tls=context, wrapped=security == "tls")
    async with mail.running():
        smtp = {
            "host": "127.0.0.1", "port": mail.port, "security": security, "from": "muxx@example.org", "user": "muxx",
            "password": "sesame",
        }  # fmt: skip
        receivers = {"team": {"kind": "email", "to": ["a@example.org", "b@example.org"]}}
        write_config(tmp_path, {"plugins": {"alerts": {"receivers": receivers, "smtp": smtp}}})
        command = ["alerts", "test", "team", "--config", str(tmp_path / "muxx.toml")]
        refused = await asyncio.to_thread(CliRunner().invoke, cli, command)
        assert "its certificate is not trusted" in refused.stderr
        assert mail.logins == []
        monkeypatch.setitem(os.environ, "SSL_CERT_FILE", str(certificate))
        done = await asyncio.to_thread(CliRunner().invoke, cli, command)
        assert done.stderr == "Delivered to team.\n"
        assert mail.logins == [b"\0muxx\0sesame"]
        assert mail.envelopes == [["a@example.org", "b@example.org"]]
        assert set(mail.plain_commands) <= {"EHLO", "STARTTLS", "QUIT"}
        assert mail.mails[0]["subject"] == "muxx: a test"


async def test_a_mail_server_without_tls_gets_nothing_where_it_is_asked_for(tmp_path: Path) -> None:
    mail = MailServer()
    async with mail.running():
        smtp: dict[str, Any] = {"host": "127.0.0.1", "port": mail.port, "from": "muxx@example.org"}
        receivers = {"team": {"kind": "email", "to": ["a@example.org"]}}
        write_config(tmp_path, {"plugins": {"alerts": {"receivers": receivers, "smtp": smtp}}})
        command = ["alerts", "test", "team", "--json", "--config", str(tmp_path / "muxx.toml")]
        refused = await asyncio.to_thread(CliRunner().invoke, cli, command)
        assert json.loads(refused.stdout)["delivered"] is False
        assert "does not offer what is set" in refused.stderr
        assert mail.mails == []
