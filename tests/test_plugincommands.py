"""`muxx plugins` says what there is and why, also when something is broken; `--plugins-dir` reaches every command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from standard import STANDARD

from muxx import Exchange, hookimpl
from muxx.cli import cli
from muxx.testing.installing import installed

Run = Callable[..., Result]

GREET = """
import click, muxx

class Greet:
    class Config(muxx.PluginConfig):
        whom: str = "world"

    def __init__(self, config):
        self.whom = config.whom

    @muxx.hookimpl
    def register_commands(self, cli):
        @cli.command()
        @muxx.config_option
        def greet(config):
            click.echo(f"hello {self.whom} from port {config.server.port}")
"""


class Plain:
    @hookimpl
    def pre_request(self, exchange: Exchange) -> None: ...

    @hookimpl
    def post_response(self) -> None: ...


class First:
    @hookimpl(tryfirst=True)
    def pre_request(self, exchange: Exchange) -> None: ...

    @hookimpl
    def post_response(self) -> None: ...


class Last:
    @hookimpl(trylast=True)
    def pre_request(self, exchange: Exchange) -> None: ...


class Broken:
    def pre_request(self) -> None: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run muxx in an empty directory, with these plugins beside the standard ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("MUXX_CONFIG", "MUXX_LOAD_PLUGINS", "MUXX_PLUGINS_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "installed").mkdir()
    with installed({"b_plain": Plain, "c_first": First, "a_last": Last}, tmp_path / "installed"):
        yield lambda *args: CliRunner().invoke(cli, list(args), prog_name="muxx", catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    (made / "greet.py").write_text(GREET)
    return made


def rows_of(result: Result) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(result.stdout)}


# ── the list ──


@pytest.mark.parametrize("command", [("plugins",), ("plugins", "list")])
def test_it_lists_name_version_order_hooks_origin_and_state(run: Run, command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[plugins]\norder = ['c_first']\n[plugins.mock]\nenabled = false")
    rows = rows_of(run(*command, "--json"))
    assert list(rows) == ["c_first", *sorted({"a_last", "b_plain", *STANDARD} - {"mock"}), "mock"]
    assert rows["keys"] == {
        "name": "keys", "version": "0.1.0", "order": list(rows).index("keys") + 1, "origin": "muxx", "state": "on", "reason": None,
        "hooks": ["authenticate", "first_key", "lifespan", "register_routes", "register_commands"],
    }  # fmt: skip
    assert (rows["mock"]["order"], rows["mock"]["state"], rows["mock"]["reason"]) == (None, "off", "enabled = false")
    lines = [line.split(maxsplit=3) for line in run(*command).stdout.splitlines()]
    assert lines[0][:3] == ["name", "version", "order"]
    assert lines[0][3].split() == ["hooks", "origin", "state"]
    assert [line[:3] for line in lines[1:3]] == [["c_first", "0", "1"], ["a_last", "0", "2"]]


def test_a_hook_that_stands_elsewhere_than_its_plugin_is_marked(run: Run) -> None:
    table = {line.split()[0]: line for line in run("plugins").stdout.splitlines()}
    assert "pre_request (tryfirst), post_response" in table["c_first"]
    assert "pre_request (trylast)" in table["a_last"]
    assert "authenticate (trylast), first_key" in table["keys"]
    assert "(" not in table["b_plain"]
    assert table["b_plain"].endswith(" on")


def test_the_order_shows_each_hooks_chain_as_it_is_called(run: Run, tmp_path: Path) -> None:
    chains = json.loads(run("plugins", "order", "--json").stdout)
    assert chains["pre_request"] == [
        {"plugin": "alerts", "mark": "tryfirst"}, {"plugin": "limits", "mark": "tryfirst"},
        {"plugin": "c_first", "mark": "tryfirst"}, {"plugin": "b_plain", "mark": None}, {"plugin": "a_last", "mark": "trylast"},
        {"plugin": "cache", "mark": "trylast"},
    ]  # fmt: skip
    assert [step["plugin"] for step in chains["post_response"]] == ["b_plain", "c_first"]
    assert "on_chunk" not in chains
    (tmp_path / "muxx.toml").write_text("[plugins]\norder = ['c_first']")
    rows = [line.split() for line in run("plugins", "order").stdout.splitlines()]
    assert rows[0] == ["hook", "order", "plugin", "mark"]
    assert rows[1:11] == [
        ["authenticate", "1", "keys", "trylast"],
        ["pre_request", "1", "alerts", "tryfirst"],
        ["pre_request", "2", "limits", "tryfirst"],
        ["pre_request", "3", "c_first", "tryfirst"],
        ["pre_request", "4", "b_plain", "-"],
        ["pre_request", "5", "a_last", "trylast"],
        ["pre_request", "6", "cache", "trylast"],
        ["pre_attempt", "1", "spend_caps", "-"],
        ["price", "1", "pricing", "-"],
        ["post_response", "1", "c_first", "-"],
    ]


def test_who_is_left_out_is_listed_with_the_reason(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "muxx.toml").write_text("[plugins]\nonly = ['keys', 'logs', 'a_last']")
    monkeypatch.setenv("MUXX_LOAD_PLUGINS", "c_first")
    rows = rows_of(run("plugins", "--json"))
    states = {name: (row["state"], row["reason"]) for name, row in rows.items()}
    only, variable = ("left out", "[plugins] only"), ("left out", "MUXX_LOAD_PLUGINS")
    assert states == {
        **dict.fromkeys(STANDARD, only),
        "keys": ("on", None), "logs": ("on", None), "a_last": variable, "b_plain": variable, "c_first": only,
    }
    lines = run("plugins").stdout.splitlines()
    assert any(line.startswith("a_last") and line.endswith("left out by MUXX_LOAD_PLUGINS") for line in lines)
    assert any(line.startswith("mock") and line.endswith("left out by [plugins] only") for line in lines)


def test_only_without_an_authenticator_is_refused_by_the_check_and_listed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[plugins]\nonly = ['b_plain']")
    result = run("config", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no plugin implements `authenticate`, so nobody could call; enable the standard plugin `keys`" in result.stderr
    assert [name for name, row in rows_of(run("plugins", "--json")).items() if row["state"] == "on"] == ["b_plain"]


# ── when something is broken ──


def test_broken_plugins_are_listed_with_their_reasons_and_the_command_fails_as_a_start_would(
    run: Run, tmp_path: Path, folder: Path
) -> None:
    (folder / "torn.py").write_text("import no_such_module_anywhere")
    (tmp_path / "muxx.toml").write_text("[plugins.torn]\ntoken = 'canary'\n[plugins.b_plain]\ntimeout_s = 1")
    with installed({"unmarked": Broken}, tmp_path):
        result = run("plugins", "--json", "--plugins-dir", "mine")
        rows = rows_of(result)
        assert {name for name, row in rows.items() if row["state"] == "on"} == {*STANDARD, "a_last", "b_plain", "c_first", "greet"}
        assert [(row["state"], row["order"], row["hooks"]) for row in (rows["torn"], rows["unmarked"])] == [("broken", None, [])] * 2
        assert result.stderr.splitlines() == [f"Error: {rows[name]['reason']}" for name in ("torn", "unmarked")]
        assert "torn.py, line 1, cannot be imported (ModuleNotFoundError" in rows["torn"]["reason"]
        assert "put @muxx.hookimpl above it" in rows["unmarked"]["reason"]
        assert result.exit_code == 2
        for command in (("plugins",), ("plugins", "order")):
            shown = run(*command, "--plugins-dir", "mine")
            assert (shown.exit_code, shown.stderr) == (2, result.stderr)
        assert "canary" not in run("config", "explain", "--plugins-dir", "mine").output
        assert run("serve", "--plugins-dir", "mine").stderr in [f"{line}\n" for line in result.stderr.splitlines()]


def test_a_broken_plugin_that_is_off_disturbs_nobody(run: Run, tmp_path: Path, folder: Path) -> None:
    (folder / "torn.py").write_text("import no_such_module_anywhere")
    (tmp_path / "muxx.toml").write_text("[plugins.torn]\nenabled = false\ntoken = 'canary'")
    result = run("plugins", "--json", "--plugins-dir", "mine")
    assert (result.exit_code, rows_of(result)["torn"]["state"]) == (0, "off")
    assert run("config", "check", "--plugins-dir", "mine").exit_code == 0
    row = {"key": "plugins.torn.token", "value": "********", "layer": "file"}
    assert row in json.loads(run("config", "explain", "--json", "--plugins-dir", "mine").stdout)


def test_a_wrong_configuration_is_said_instead_of_a_list(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[plugins]\nonly = ['kyes']")
    result = run("plugins")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "plugins.only[0]: no plugin of this name is installed (did you mean 'keys'?)" in result.stderr


# ── the folder, for every command ──


def test_every_command_that_loads_plugins_takes_the_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[plugins.greet]\nwhom = 'you'")
    for command in (["config", "check"], ["config", "explain"], ["plugins"]):
        assert "'greet'" in run(*command).stderr or "plugins.greet" in run(*command).stderr
        assert run(*command, "--plugins-dir", "mine").exit_code == 0, command
    assert run("greet", "--plugins-dir", "mine").stdout == "hello you from port 8080\n"
    assert run("greet", "--plugins-dir=mine").stdout == "hello you from port 8080\n"
    assert "No such command 'greet'" in run("greet", "--config", "/dev/null").stderr
    assert "greet" in json.loads(run("config", "schema", "--plugins-dir", "mine").stdout)["$defs"]["PluginsConfig"]["properties"]
    assert rows_of(run("plugins", "--json", "--plugins-dir", "mine"))["greet"]["origin"] == "mine/greet.py"


def test_the_variable_names_the_folder_where_the_option_does_not(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/another.py").write_text(GREET.replace("Greet:", "Another:").replace("def greet", "def another"))
    monkeypatch.setenv("MUXX_PLUGINS_DIR", "mine")
    assert run("greet").stdout == "hello world from port 8080\n"
    assert run("another", "--plugins-dir", "other").stdout == "hello world from port 8080\n"
    assert run("greet", "--plugins-dir", "other").exit_code == 2
    monkeypatch.setenv("MUXX_PLUGINS_DIR", "")
    assert run("greet").exit_code == 2


def test_a_folder_that_is_not_there_is_one_line_and_help_works_without_it(run: Run) -> None:
    for command in (["plugins"], ["config", "check"], ["serve"], ["keys", "list"], ["plugins", "new", "x"]):
        result = run(*command, "--plugins-dir", "gone")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("Error: the folder of --plugins-dir, gone, cannot be read")
    assert run("--help").exit_code == 0


# ── the group ──


def test_alone_it_lists_and_asked_for_help_it_helps(run: Run) -> None:
    assert run("plugins").stdout == run("plugins", "list").stdout
    for option in ("-h", "--help"):
        assert "order" in run("plugins", option).stdout.partition("Commands:")[2]
    assert "No such command 'lsit'. Did you mean 'list'?" in run("plugins", "lsit").stderr.replace("\n", " ")


def test_completion_knows_its_commands(run: Run) -> None:
    complete = ShellComplete(cli, {}, "muxx", "_MUXX_COMPLETE")
    assert {item.value for item in complete.get_completions(["plugins"], "")} == {"list", "new", "order"}
    assert "--directory" in {item.value for item in complete.get_completions(["plugins", "new"], "--")}
    assert "--plugins-dir" in {item.value for item in complete.get_completions(["plugins", "list"], "--")}
