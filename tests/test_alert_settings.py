"""`[plugins.alerts]`: what a file and a project may say, and that none of its secrets is shown. And the pure parts: rules, windows, words."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alerts_kit import SECRET, SLACK_PATH, alerting, receiving, slack, webhook
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from muxx import Alert, ConfigError, Host, InvalidRequest, PluginConfig, ProjectSettings, SpendCap, iso_time, load_config
from muxx.cli import cli
from muxx.testing import RunningGateway, eventually, leak, rst
from muxx.testing.settings import write_config
from muxx_std.alerts import message
from muxx_std.alerts.rules import Crossing, Rule, bounds, rules_of
from muxx_std.alerts.settings import AlertsConfig, Smtp
from muxx_std.alerts.store import Event

CANARY = "alert-secret-canary-2b7f09"
HOOK = {"kind": "webhook", "url": "https://ops.example/hook", "secret": SECRET}


def errors(directory: Path, alerts: dict[str, Any], **more: Any) -> list[str]:
    """What is said of a file with these settings, without the file's name."""
    path = write_config(directory, {"plugins": {"alerts": alerts}, **more})
    with pytest.raises(ConfigError) as raised:
        load_config(path, {"alerts": AlertsConfig})
    assert CANARY not in str(raised.value)
    return [line.partition("muxx.toml: ")[2] for line in raised.value.errors]


@pytest.mark.parametrize(
    ("receiver", "words"),
    [
        ({"kind": "webhook", "url": "https://ops.example"}, "receivers.ops: of this kind it has secret and url, and nothing else"),
        ({"kind": "slack", "url": "https://x.example", "to": ["a@b.example"]}, "of this kind it has url, and nothing else"),
        ({"kind": "email"}, "receivers.ops: of this kind it has to, and nothing else"),
        ({"kind": "slack", "url": CANARY}, "receivers.ops.url: must be an http:// or https:// URL with a host"),
        ({"kind": "webhook", "url": "https://x.example", "secret": CANARY}, "receivers.ops.secret: must be 24 to 64 bytes in base64"),
        ({"kind": "email", "to": [CANARY + "@"]}, "receivers.ops.to[0]: must be an e-mail address"),
        ({"kind": "sms", "to": []}, "receivers.ops.kind: must be 'webhook', 'slack' or 'email'"),
        ({"kind": "slack", "ulr": CANARY}, "receivers.ops.ulr: unknown key (did you mean 'url'?)"),
    ],
)
def test_a_receiver_that_cannot_be_reached_is_refused_without_its_secret(
    tmp_path: Path, receiver: dict[str, Any], words: str
) -> None:
    assert any(words in line for line in errors(tmp_path, {"receivers": {"ops": receiver}}))


@pytest.mark.parametrize(
    ("smtp", "words"),
    [
        ({"host": "mail.example"}, "smtp.from: is required"),
        ({"host": "x", "form": "a@b.example"}, "smtp.form: unknown key (did you mean 'from'?)"),
        ({"host": "x", "from": "a@b.example", "user": "me"}, "smtp: user and password come together"),
        ({"host": "x", "from": "a@b.example", "user": "me", "password": CANARY, "security": "none"}, "over a safe connection only"),
    ],
)
def test_a_mail_server_that_cannot_be_used_is_refused(tmp_path: Path, smtp: dict[str, Any], words: str) -> None:
    assert any(words in line for line in errors(tmp_path, {"smtp": smtp}))


def test_mail_needs_a_server(tmp_path: Path) -> None:
    [line] = errors(tmp_path, {"receivers": {"team": {"kind": "email", "to": ["a@b.example"]}}})
    assert line == "plugins.alerts: a receiver gets mail, so [plugins.alerts.smtp] needs host and from"


def test_an_alert_of_the_file_that_names_nobody_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    project = {"alerts": [{"usd": "1", "to": ["ops"]}, {"limit": "rpm", "to": ["ops", "opps"]}]}
    [line] = errors(tmp_path, {"receivers": {"ops": HOOK}}, project=project)
    assert line == (
        "project.alerts[1].to[1]: there is no receiver of this name in [plugins.alerts.receivers] (did you mean 'ops'?)"
    )


def test_where_the_plugin_is_off_nobody_looks_at_whom_alerts_name(tmp_path: Path) -> None:
    project = {"alerts": [{"usd": "1", "to": ["ops"]}]}
    for plugins in ({"alerts": {"enabled": False}}, {"only": ["keys"]}):
        path = write_config(tmp_path, {"project": project, "plugins": plugins})
        assert load_config(path, {"alerts": AlertsConfig, "keys": PluginConfig}).project.alerts[0].to == ("ops",)


async def test_a_projects_own_alert_that_names_nobody_is_refused_and_stands_in_the_way_of_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"plugins": {"alerts": {"receivers": {"ops": HOOK}}}})
    async with Host.open(load_config(path, {"alerts": AlertsConfig})) as host:
        with pytest.raises(InvalidRequest, match="did you mean 'ops'") as refused:
            await host.projects.create("shop", {"alerts": [{"usd": "1", "to": ["opss"]}]})
        assert refused.value.param == "alerts[0].to[0]"
        await host.projects.create("shop", {"alerts": [{"usd": "1", "to": ["ops"]}]})
        with pytest.raises(InvalidRequest, match="no receiver of this name"):
            await host.projects.change("shop", {"alerts": [{"usd": "1", "to": ["elsewhere"]}]})
    write_config(tmp_path, {})
    async with Host.open(load_config(path, {"alerts": AlertsConfig})) as host:
        changed = await host.projects.change("shop", {"store_content": False})
        assert changed.own["alerts"] == [{"usd": "1", "to": ["ops"]}]
        await host.projects.change("shop", lambda own: {"alerts": [{"usd": "2"}, *own["alerts"]]})
        with pytest.raises(InvalidRequest, match="no receiver of this name"):
            await host.projects.change("shop", lambda own: {"alerts": [*own["alerts"], {"usd": "3", "to": ["ops"]}]})


async def test_a_receiver_that_a_reload_brings_can_be_named_at_once(tmp_path: Path) -> None:
    async with receiving() as hook, RunningGateway({"plugins": {"alerts": {}}}, directory=tmp_path) as gateway:
        with pytest.raises(InvalidRequest, match="no receiver"):
            await gateway.gateway.host.projects.change("default", {"alerts": [{"usd": "1", "to": ["ops"]}]})
        path = tmp_path / "muxx.toml"
        entry = f'{{ops = {{kind = "webhook", url = "{hook.url}", secret = "{SECRET}"}}}}'
        path.write_text(path.read_text().replace('"alerts" = {}', f'"alerts" = {{receivers = {entry}}}'))
        assert gateway._running is not None
        assert await gateway._running.worker.reload()
        await gateway.gateway.host.projects.change("default", {"alerts": [{"usd": "1", "to": ["ops"]}]})


def test_no_secret_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    alerts = {
        "receivers": {
            "ops": {"kind": "webhook", "url": f"https://x.example/{CANARY}", "secret": "${HOOK_SECRET}"},
            "chat": {"kind": "slack", "url": f"https://x.example/{CANARY}"},
            "team": {"kind": "email", "to": ["team@example.org"]},
        },
        "smtp": {"host": "mail.example", "from": "muxx@example.org", "user": "muxx", "password": CANARY},
    }
    write_config(tmp_path, {"plugins": {"alerts": alerts}})
    shown = CliRunner().invoke(cli, ["config", "explain", "--json"]).output
    rows = {row["key"]: row["value"] for row in json.loads(shown)}
    assert rows["plugins.alerts.receivers.ops.secret"] == "********"
    assert rows["plugins.alerts.smtp.from"] == "muxx@example.org"
    assert leak.find([CANARY, SECRET], shown.encode()) == []
    loaded = load_config(tmp_path / "muxx.toml", {"alerts": AlertsConfig})
    assert leak.find([CANARY, SECRET], repr(loaded.plugin_settings).encode()) == []


async def test_what_a_receiver_is_reached_with_is_neither_logged_nor_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Not when a delivery fails, nor when a test of it does."""
    async with receiving([rst()]) as room, receiving([rst()]) as hook:
        receivers = {"chat": slack(room), "ops": webhook(hook)}
        async with alerting({"alerts": [{"usd": "1"}]}, receivers) as gateway:
            await gateway.chat()
            await eventually(lambda: caplog.text.count("was not delivered") >= 3)
            shown = (await gateway.get("/v1/alerts/events")).body + (await gateway.get("/v1/alerts")).body
            assert leak.find([SLACK_PATH, SECRET], caplog.text.encode() + shown) == []
            databases = b"".join(path.read_bytes() for path in gateway.directory.glob("muxx*.db*") if path.is_file())
            assert leak.find([SLACK_PATH, SECRET], databases) == []


# ── rules ──


def settings(*alerts: Alert, caps: tuple[SpendCap, ...] = ()) -> ProjectSettings:
    return ProjectSettings(alerts=alerts, spend_caps=caps)


def test_alerts_that_differ_in_their_receivers_only_are_one_rule() -> None:
    def spend(*to: str) -> Alert:
        return Alert("day", 10**12, None, 0.8, to)

    assert [rule.to for rule in rules_of(settings(spend("a"), spend("b", "a")))] == [("a", "b")]
    assert [rule.to for rule in rules_of(settings(spend("a"), spend()))] == [()]


def test_of_several_block_caps_the_tightest_counts_and_a_changed_cap_is_another_crossing() -> None:
    alert = Alert("day", None, "spend_cap", 0.5)
    [one] = rules_of(settings(alert, caps=(SpendCap("day", 8), SpendCap("day", 6), SpendCap("month", 2))))
    [other] = rules_of(settings(alert, caps=(SpendCap("day", 8),)))
    assert (one.limit, other.limit) == (6, 8)
    assert one.name == other.name
    assert one.key != other.key
    assert [one.crossed_by(used) for used in (2, 3)] == [False, True]


@given(st.integers(1, 10_000), st.integers(1, 10**20))
def test_a_share_is_crossed_exactly(permille: int, limit: int) -> None:
    rule = Rule("x", "rpm", "hour", limit, permille / 10_000, ())
    least = -(-permille * limit // 10_000)
    assert rule.crossed_by(least)
    assert not rule.crossed_by(least - 1)


@pytest.mark.parametrize(
    ("moment", "month"),
    [("2026-02-28T23:59:59Z", ("2026-02-01", "2026-03-01")), ("2026-12-31T00:00:00Z", ("2026-12-01", "2027-01-01"))],
)
def test_windows_are_of_the_utc_calendar(moment: str, month: tuple[str, str]) -> None:
    now = datetime.fromisoformat(moment).timestamp()
    assert tuple(iso_time(edge)[:10] for edge in bounds("month", now)) == month
    assert [bounds(window, now)[1] - bounds(window, now)[0] for window in ("day", "hour")] == [86_400, 3_600]


# ── words ──


def test_a_user_can_write_neither_slacks_marks_nor_a_header_of_a_mail() -> None:
    rule = Rule("user_rpm:0.8", "user_rpm", "hour", 10, 0.8, ())
    event = Event.now("alert.limit", message.facts(Crossing("shop\nBcc: x", rule, 9, 3_600_000, "<!channel>\r\nBcc: a&b")))
    assert b"<!" not in message.slack(event)
    assert b"&lt;!channel&gt;" in message.slack(event)
    mail = message.mail(event, Smtp.model_validate({"host": "x", "from": "muxx@example.org"}), ("ops@example.org",))
    assert mail["bcc"] is None
    assert "\nBcc" not in mail.as_string()
