"""The command line: what scripts rely on, how it fails, and what it leaves alone."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from muxx import Limits, __version__, console
from muxx.cli import cli, path_argument
from muxx.config import Config
from muxx.discovery import Found
from muxx.errors import RateLimited, StartError

ROOT = Path(__file__).parent.parent

DEMO_PLUGIN = """
import click, muxx

class Demo:
    class Config(muxx.PluginConfig):
        greeting: str = "hello"
        token: str | None = None

    def __init__(self, config):
        self.greeting = config.greeting

    @muxx.hookimpl
    def pre_request(self, exchange):
        return None

    @muxx.hookimpl
    def register_commands(self, cli):
        @cli.command()
        @muxx.config_option
        @click.option("--fail", type=int)
        def greet(config, fail):
            "Say hello."
            async def work():
                if fail:
                    raise muxx.StartError("the cellar is locked", fail)
                return f"{self.greeting} from port {config.server.port}"
            click.echo(muxx.run_async(work()))
"""

Run = Callable[..., Result]


def write_distribution(folder: Path, name: str, version: str, **plugins: str) -> None:
    """What an installed package leaves for importlib.metadata to find."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[muxx]\n" + "".join(f"{key} = {value}\n" for key, value in plugins.items()))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    standard = {"keys": "Keys", "logs": "Logs", "mock": "Mock", "pricing": "Pricing"}
    write_distribution(folder, "muxx", __version__, **{name: f"muxx_std.{name}:{cls}" for name, cls in standard.items()})
    write_distribution(folder, "muxx-demo", "1.2", demo="muxx_demo:Demo")
    (folder / "muxx_demo.py").write_text(DEMO_PLUGIN)
    return folder


@pytest.fixture
def run(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run muxx in an empty directory, with the standard plugins and `demo` installed."""
    monkeypatch.syspath_prepend(packages)
    monkeypatch.chdir(tmp_path)
    for name in ("MUXX_CONFIG", "MUXX_LOAD_PLUGINS", "MUXX_PLUGINS_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield lambda *args, **kwargs: CliRunner().invoke(cli, list(args), prog_name="muxx", **kwargs)
    sys.modules.pop("muxx_demo", None)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, bool]]:
    """What `serve` was called with; it answers that the address is in use."""
    calls: list[tuple[Config, bool]] = []

    def serve(config: Config, found: list[Found], *, mock: bool, new_log: bool) -> int:
        assert {item.name for item in found} == set(config.plugin_settings), "found once, for the check and for the start"
        calls.append((config, mock))
        if config.server.port == 1:
            raise StartError("127.0.0.1:1 is in use", 4)
        return 0

    workers: Any = types.ModuleType("muxx.workers")
    workers.serve = serve
    monkeypatch.setitem(sys.modules, "muxx.workers", workers)
    monkeypatch.setattr("muxx.workers", workers, raising=False)
    return calls


# ── which file ──


def test_the_file_is_the_one_given_else_the_environments_else_the_one_here(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for port, name in enumerate(("given", "named", "muxx"), start=1):
        (tmp_path / f"{name}.toml").write_text(f"[server]\nport = {port}")
    assert run("greet").stdout == "hello from port 3\n"
    monkeypatch.setenv("MUXX_CONFIG", "named.toml")
    assert run("greet").stdout == "hello from port 2\n"
    assert run("greet", "--config", "given.toml").stdout == "hello from port 1\n"
    assert run("greet", "--config=given.toml").stdout == "hello from port 1\n"


def test_without_any_file_the_defaults_hold(run: Run) -> None:
    assert run("greet").stdout == "hello from port 8080\n"
    assert run("config", "check").stdout == "built-in defaults: ok\n"


@pytest.mark.parametrize("kind", ["directory", "broken link"])
def test_a_file_here_that_cannot_be_read_is_an_error_and_not_the_defaults(run: Run, tmp_path: Path, kind: str) -> None:
    """A container engine makes a directory of a file it was told to mount and did not find."""
    here = tmp_path / "muxx.toml"
    here.mkdir() if kind == "directory" else here.symlink_to("gone.toml")
    result = run("config", "check")
    assert result.exit_code == 2
    assert result.stderr.startswith("muxx.toml: cannot be read: ")


def test_the_file_named_after_the_command_decides_which_commands_there_are(run: Run, tmp_path: Path) -> None:
    (tmp_path / "off.toml").write_text("[plugins.demo]\nenabled = false")
    result = run("greet", "--config", "off.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command 'greet'" in result.stderr
    assert path_argument(["x", "--", "--config", "f"], "--config") is None
    assert path_argument(["x", "--config"], "--config") is None


# ── failing ──


def test_a_bad_file_prints_every_error_at_once_and_exits_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[server]\nprot = 1\nworkers = 0\n[plugins.demo]\ngreetnig = 'canary'\n[plugins.dmo]\n")
    expected = [
        "muxx.toml: plugins.dmo: no plugin of this name is installed (did you mean 'demo'?)",
        "muxx.toml: plugins.demo.greetnig: unknown key (did you mean 'greeting'?)",
        "muxx.toml: server.workers: must be greater than or equal to 1",
        "muxx.toml: server.prot: unknown key (did you mean 'port'?)",
    ]
    for command in (["config", "check"], ["config", "explain"], ["plugins"], ["greet"], ["serve"]):
        result = run(*command)
        assert (result.exit_code, result.stdout, result.stderr.splitlines()) == (2, "", expected)


def test_names_of_providers_nobody_knows_are_told_all_at_once_with_file_and_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text(
        "[providers.opnai]\nask_usage = true\n[providers.mine]\nbase_url = 'http://127.0.0.1:9/v1'\n"
        "[[models]]\nname = 'fast'\ntargets = ['anthropc/a', 'mine/b', 'opnai/c']\n[[models]]\nname = 'slow'\ntargets = ['nobody/a']\n"
    )
    result = run("config", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    first, second, third = result.stderr.splitlines()
    assert first == (
        "muxx.toml: providers.opnai: no built-in provider has this name, so it needs a base_url (did you mean 'openai'?)"
    )
    assert second == "muxx.toml: models[0].targets[0]: names no known provider (did you mean 'anthropic'?)"
    assert third.startswith("muxx.toml: models[1].targets[0]: names no known provider (there are anthropic, ")
    assert "mine" in third


def test_names_of_providers_are_told_beside_every_other_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text(
        "[server]\nprt = 1\n[database]\ndurability = 'no'\n[providers.opnai]\nformat = 'none'\n[plugins.demo]\ngreting = 1\n"
        "[[models]]\nname = 'a'\nretires = 1\ntargets = ['anthropc/a', {target = 'mock/a', weigth = 1}, 'plain', 3]\n"
        "[[models]]\nname = 'b'\ntargets = [{target = 'nobody/a'}]\n"
    )
    for command in (["config", "check"], ["serve"]):
        said = run(*command).stderr.splitlines()
        keys = {line.split(": ")[1] for line in said}
        assert keys == {
            "server.prt", "database.durability", "providers.opnai", "providers.opnai.format", "plugins.demo.greting",
            "models[0].retires", "models[0].targets[0]", "models[0].targets[1].weigth", "models[0].targets[2].target",
            "models[0].targets[3]", "models[1].targets[0]",
        }  # fmt: skip
        assert len(said) == len(keys)


BRINGER = """
import muxx

class Bringer:
    class Config(muxx.PluginConfig):
        name: str = ""

    def __init__(self, config):
        self.name = config.name

    @muxx.hookimpl
    def register_providers(self):
        return [muxx.Provider(self.name, "http://127.0.0.1:9/v1")]
"""


def test_a_name_that_a_plugin_may_bring_is_not_called_unknown(run: Run, tmp_path: Path) -> None:
    """Where its settings are wrong, nobody can ask it."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "bringer.py").write_text(BRINGER)
    model = "[[models]]\nname = 'a'\ntargets = ['brought/a', 'nobody/a']\n[plugins.bringer]\n"
    for settings, unknown in (("name = 'brought'", ["models[0].targets[1]"]), ("nme = 'brought'", ["plugins.bringer.nme"])):
        (tmp_path / "muxx.toml").write_text(f"[server]\nprt = 1\n{model}{settings}\n")
        said = run("config", "check", "--plugins-dir", "files").stderr.splitlines()
        assert sorted(line.split(": ")[1] for line in said) == sorted(["server.prt", *unknown])


def test_a_start_error_is_one_line_with_its_exit_code(run: Run) -> None:
    for code in (1, 2, 3, 4):
        result = run("greet", "--fail", str(code))
        assert (result.exit_code, result.stdout, result.stderr) == (code, "", "Error: the cellar is locked\n")


def test_a_muxx_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def refused() -> None:
        raise RateLimited("Later, please.")

    with pytest.raises(click.exceptions.Exit) as raised:
        console.run_async(refused())
    assert raised.value.exit_code == 1
    assert capsys.readouterr().err == "Error: Later, please.\n"


def test_run_async_gives_back_what_the_work_returned() -> None:
    assert console.run_async(asyncio.sleep(0, 7)) == 7


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_lets_the_work_close_what_it_opened_and_a_second_one_ends_the_process(tmp_path: Path, times: int) -> None:
    """A thread that nobody ends, as that of a connection left open, would keep Python from ending."""
    script = tmp_path / "work.py"
    script.write_text(
        """
import asyncio, signal, threading
from muxx.console import run_async

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it

async def work():
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        print("closing", flush=True)
        await asyncio.sleep(0.5)
        done.set()
        print("closed", flush=True)

try:
    run_async(work())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            for line in ("working", "closing")[:times]:
                assert running.stdout.readline().strip() == line
                running.send_signal(signal.SIGINT)
            said, code = running.stdout.read().split(), running.wait(10)
        finally:
            running.kill()
    assert (said, code) == ((["closing", "closed", "interrupted"], 0) if times == 1 else ([], 130))


def test_a_full_disk_is_one_line_and_exit_code_1(packages: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = process(packages, "-m", "muxx", "config", "check", stdout=full)
    assert (result.returncode, result.stderr) == (1, "Error: No space left on device. Make room, and try again.\n")


@pytest.mark.parametrize("closed", ["1", "0 1 2"])
def test_a_command_without_its_standard_streams_does_its_work(packages: Path, closed: str) -> None:
    shell = "".join(f"exec {number}>&-; " for number in closed.split()) + f"exec {sys.executable} -m muxx plugins list"
    code = f"import subprocess, sys; sys.exit(subprocess.run(['sh', '-c', {shell!r}], timeout=60).returncode)"
    done = process(packages, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_usage_exits_2_and_names_the_nearest(run: Run) -> None:
    result = run("confg")
    assert result.exit_code == 2
    assert "config" in result.stderr.partition("No such command")[2]
    assert run("serve", "--port", "99999").exit_code == 2


def test_help_works_with_a_broken_file_and_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    assert "greet" in run("--help").stdout
    (tmp_path / "muxx.toml").write_text("prot = 1")
    result = run("--help")
    assert result.exit_code == 0
    assert "greet" not in result.stdout
    assert "serve" in result.stdout
    assert "muxx.toml: prot: unknown key" in result.stderr


def test_completion_stays_silent_on_a_broken_file(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "muxx.toml").write_text("prot = 1")
    complete = ShellComplete(cli, {}, "muxx", "_MUXX_COMPLETE")
    own = {"bench", "config", "models", "plugins", "providers", "secret", "serve"}
    assert {item.value for item in complete.get_completions([], "")} == own
    assert complete.get_completions(["greet"], "--fa") == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["config", "greet", "keys"])
def test_a_plugin_may_not_take_a_command_that_exists(run: Run, packages: Path, name: str) -> None:
    write_distribution(packages, "muxx-thief", "1", thief="muxx_thief:Thief")
    (packages / "muxx_thief.py").write_text(DEMO_PLUGIN.replace("cli.command()", f"cli.command({name!r})"))
    (packages / "muxx_thief.py").write_text((packages / "muxx_thief.py").read_text().replace("class Demo", "class Thief"))
    result = run("greet")
    sys.modules.pop("muxx_thief", None)
    assert result.exit_code == 2
    assert name == "greet" or result.stderr.startswith("Error: plugin 'thief'")
    assert f"there is a command '{name}' already" in result.stderr


@pytest.mark.parametrize(
    ("group", "name"), [("", "mine"), ("    @cli.group()\n        def of(): ...\n        cli = of\n    ", "of mine")], ids=["alone", "in a group"]
)
def test_a_command_nobody_would_await_is_refused(run: Run, tmp_path: Path, group: str, name: str) -> None:
    (tmp_path / "p").mkdir()
    source = f"import muxx\n\nclass Mine:\n    @muxx.hookimpl\n    def register_commands(self, cli):\n    {group}    @cli.command()\n        async def mine(): ...\n"
    (tmp_path / "p" / "mine.py").write_text(source)
    result = run("keys", "list", "--plugins-dir", str(tmp_path / "p"))
    assert result.exit_code == 2
    assert f"plugin 'mine': its command {name!r} is an `async def`, which nobody would await" in result.stderr


# ── muxx's own commands ──


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"muxx {__version__}\n"


def test_check_says_ok_with_the_files_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[server]\nport = 1")
    result = run("config", "check", "--config", "x.toml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "x.toml: ok\n", "")


def test_explain_prints_key_value_and_layer(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "muxx.toml").write_text("[server]\nport = 1\nsecret = 'canary-canary'")
    result = run("config", "explain")
    assert result.stdout.splitlines()[0].split() == ["key", "value", "layer"]
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in result.stdout.splitlines()}
    assert lines["server.port"].split() == ["1", "file"]
    assert lines["server.host"].split() == ['"127.0.0.1"', "built", "in"]
    assert "canary" not in result.output
    rows = json.loads(run("config", "explain", "--json").stdout)
    assert {"key": "server.secret", "value": "********", "layer": "file"} in rows
    monkeypatch.setenv("MUXX_SECRET", "canary-too")
    rows = json.loads(run("config", "explain", "--json").stdout)
    assert {"key": "server.secret", "value": "********", "layer": "environment"} in rows


def test_explain_of_a_project_shows_what_holds_for_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("[project]\nstore_content = false")
    rows = json.loads(run("config", "explain", "--project", "shop", "--json").stdout)
    assert rows == [
        {"key": "project.cache.enabled", "value": True, "layer": "built in"},
        {"key": "project.cache.ttl", "value": 86400, "layer": "built in"},
        *({"key": f"project.limits.{name}", "value": 0, "layer": "built in"} for name in Limits._fields),
        {"key": "project.spend_caps", "value": [], "layer": "built in"},
        {"key": "project.alerts", "value": [], "layer": "built in"},
        {"key": "project.store_content", "value": False, "layer": "file"},
        {"key": "project.content_retention_days", "value": 30, "layer": "built in"},
    ]


def test_schema_covers_the_installed_plugins_and_needs_no_valid_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("prot = 1")
    schema = json.loads(run("config", "schema").stdout)
    assert "demo" in schema["$defs"]["PluginsConfig"]["properties"]


def test_serve_hands_over_the_config_and_its_overrides(run: Run, tmp_path: Path, served: list[tuple[Config, bool]]) -> None:
    (tmp_path / "muxx.toml").write_text("[server]\nport = 5\nworkers = 2")
    assert run("serve").exit_code == 0
    assert run("serve", "--mock", "--host", "::1", "--port", "0").exit_code == 0
    (plain, mock), (overridden, mocked) = served
    assert (plain.server.port, plain.server.host, mock) == (5, "127.0.0.1", False)
    assert (overridden.server.port, overridden.server.host, overridden.server.workers, mocked) == (0, "::1", 2, True)
    assert overridden.path == Path("muxx.toml")


def test_serve_exits_4_when_the_address_is_in_use(run: Run, served: list[tuple[Config, bool]]) -> None:
    result = run("serve", "--port", "1")
    assert (result.exit_code, result.stderr) == (4, "Error: 127.0.0.1:1 is in use\n")
    assert gc.isenabled(), "only a start goes without the collector"


# ── what is shown ──


def test_a_table_is_aligned_plain_text_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("name", "n"), [("a", None), ("longer", True)])
    assert capsys.readouterr().out == "name    n\na       -\nlonger  true\n"


def test_a_table_on_a_terminal_has_no_colour_under_no_color(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    console.table(("name",), [("[red]x[/red]",)])
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "\x1b[3" not in out


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_table_on_a_narrow_terminal_cuts_nothing_short(
    terminal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", terminal)
    cells = ["key_R7TRab3dVv0cQpLmXw9Z", "req_01a2299ce6c1d6c55e6cc61e053fa1f8"]
    console.table(("id", "request"), [cells])
    assert any(all(cell in line for cell in cells) for line in capsys.readouterr().out.splitlines())


def test_what_is_shown_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("x",), [("\x1b[2Jgone\nline\u202e",)])
    assert capsys.readouterr().out == "x\n\\u001b[2Jgone\\u000aline\\u202e\n"


def test_echo_json_prints_one_value(capsys: pytest.CaptureFixture[str]) -> None:
    console.echo_json({"path": Path("/x"), "n": 1})
    assert json.loads(capsys.readouterr().out) == {"path": "/x", "n": 1}


# ── the process itself ──


def process(packages: Path, *args: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (packages, ROOT, ROOT / "plugins")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MUXX_")} | {"PYTHONPATH": paths}
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=packages, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_commands_that_need_no_server_import_none(packages: Path) -> None:
    """All in one process: what one of them imports stays in sys.modules."""
    code = """
import sys
from click.testing import CliRunner
from muxx.cli import cli
for args in (["--version"], ["--help"], ["plugins"], ["plugins", "order"], ["plugins", "new", "x"], ["config", "check"], ["config", "explain"], ["greet"], ["keys", "list"]):
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, (args, result.output, result.exception)
    assert "aiohttp" not in sys.modules, args
"""
    result = process(packages, "-c", code)
    assert (result.returncode, result.stderr) == (0, "")


def test_what_a_terminal_of_another_encoding_cannot_write_arrives_as_escapes_and_elsewhere_as_utf_8(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    key = process(packages, "-m", "muxx", "keys", "create").stdout.strip()
    assert f"{key[:13]}…{key[-4:]}" in process(packages, "-m", "muxx", "keys", "list").stdout
    terminal, end = os.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as shown:
        result = process(packages, "-m", "muxx", "keys", "list", stdout=end)
        os.close(end)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"{key[:13]}\\u2026{key[-4:]}".encode() in shown.read(65_536)


def test_python_m_muxx_is_muxx_with_its_exit_codes(packages: Path) -> None:
    assert process(packages, "-m", "muxx", "greet").stdout == "hello from port 8080\n"
    failed = process(packages, "-m", "muxx", "greet", "--fail", "3")
    assert (failed.returncode, failed.stdout, failed.stderr) == (3, "", "Error: the cellar is locked\n")


@pytest.mark.parametrize("module", ["muxx.cli", "muxx_demo"])
def test_an_interrupt_while_it_loads_leaves_no_stack_trace(packages: Path, module: str) -> None:
    """Also where somebody makes an error of it, as pydantic does while it builds a class."""
    code = f"""
import os, signal, sys
from muxx.__main__ import main

class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ValueError("no class can be built") from error

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
sys.meta_path.insert(0, Interrupts())
sys.argv = ["muxx", "config", "check"]
main()
"""
    result = process(packages, "-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (console.INTERRUPTED, "", "")
