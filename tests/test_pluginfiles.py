"""A file in the folder of `--plugins-dir` is a plugin: found, checked, run and reloaded as any other."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from process_kit import gateway_process
from standard import STANDARD

from muxx.checking import load_checked
from muxx.configfile import ConfigError
from muxx.discovery import Found, discover
from muxx.errors import PluginLoadError, StartError
from muxx.pluginfiles import load_file, plugin_files
from muxx.plugins import PluginSet, build
from muxx.sources import Sources
from muxx.testing import GatewayProcess, ScriptedUpstream, chat, post_chat
from muxx.testing.installing import installed
from muxx.worker import serve_in_process

NOTE = """
from __future__ import annotations

from dataclasses import dataclass

import muxx
from pydantic import SecretStr


@dataclass
class Text:
    text: SecretStr


class Note:
    class Config(muxx.PluginConfig):
        text: SecretStr = SecretStr("one")

    def __init__(self, config: Config) -> None:
        self.note = Text(config.text)

    @muxx.hookimpl
    def pre_request(self, exchange: muxx.Exchange) -> None:
        exchange.reply_headers["X-Note"] = self.note.text.get_secret_value()
"""
HOOK = "    @muxx.hookimpl\n    def pre_request(self): ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plugins"
    made.mkdir()
    (made / "note.py").write_text(NOTE)
    return made


def refusal(path: Path, text: str) -> str:
    """What a file with this text is refused with: one line that names it."""
    path.write_text(text)
    with pytest.raises(PluginLoadError) as caught:
        load_file(path, Sources())
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


def started(folder: Path, config: str = "") -> PluginSet:
    """The plugins as a start builds them."""
    path = folder.parent / "muxx.toml"
    path.write_text(config)
    loaded = load_checked(path, folder)
    return build(loaded.found, loaded.config)


def of_files(plugins_dir: Path | None) -> dict[str, Found]:
    return {item.name: item for item in discover(plugins_dir) if item.origin.endswith(".py")}


# ── which files, by what name ──


def test_every_python_file_is_a_plugin_named_after_it_and_shown_with_its_path(folder: Path) -> None:
    (folder / "two-words.py").write_text(NOTE)
    for other in ("_off.py", ".#note.py", "note.txt", "__init__.py"):
        (folder / other).write_text("raise AssertionError('this is no plugin')")
    (folder / "note").mkdir()
    found = of_files(folder)
    assert {name: item.origin for name, item in found.items()} == {
        "note": str(folder / "note.py"),
        "two_words": str(folder / "two-words.py"),
    }
    assert [(item.version, item.problem) for item in found.values()] == [(None, None)] * 2


def test_without_a_folder_there_are_none() -> None:
    assert of_files(None) == {}


def test_a_folder_that_is_not_there_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"the folder of --plugins-dir, .*gone, cannot be read \(No such file.*make it") as caught:
        plugin_files(tmp_path / "gone", Sources())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["2fast", "a b", "a--b", "a.b", "only", "order", "é"])
def test_a_file_that_gives_no_good_name_is_refused(name: str, tmp_path: Path) -> None:
    assert "gives no name to a plugin; begin it with a letter" in refusal(tmp_path / f"{name}.py", NOTE)


# ── the class of a file ──


def test_the_plugin_is_the_one_class_with_hooks_that_the_file_defines(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        f"import muxx\nclass _Base:\n{HOOK}\nclass Helper: ...\nclass Some(_Base): ...\nAgain = Some\nfrom muxx import Exchange, Host\n"
    )
    assert load_file(path, Sources()).__name__ == "Some"


def test_a_class_that_is_only_imported_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "muxx_test_elsewhere.py").write_text(f"import muxx\nclass Elsewhere:\n{HOOK}")
    assert "defines no class with a hook" in refusal(tmp_path / "imports.py", "from muxx_test_elsewhere import Elsewhere")


def test_two_classes_with_hooks_are_refused_with_their_names(tmp_path: Path) -> None:
    said = refusal(tmp_path / "both.py", f"import muxx\nclass B:\n{HOOK}\nclass A:\n{HOOK}")
    assert "defines more than one class with hooks (A, B), and a file is one plugin" in said
    assert "begin the others' names with an underscore" in said


@pytest.mark.parametrize("text", ["", "x = 1", "class Forgetful:\n    def pre_request(self): ..."])
def test_a_file_without_a_plugin_is_refused_with_the_mend(text: str, tmp_path: Path) -> None:
    said = refusal(tmp_path / "none.py", text)
    assert "defines no class with a hook; put @muxx.hookimpl above" in said
    assert "begin the file's name with an underscore if it is no plugin" in said


# ── what goes wrong in it ──


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    assert re.search(r"bad\.py, line 2 is not valid Python \(.+\); mend it", refusal(tmp_path / "bad.py", "x = 1\ndef f(:\n"))


def test_a_file_with_a_nul_is_no_python(tmp_path: Path) -> None:
    assert "is not valid Python" in refusal(tmp_path / "bad.py", "x = '\0'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nimport no_such_module_anywhere", "line 2, cannot be imported (ModuleNotFoundError: No module named"),
        ("def f():\n    raise OSError('two\\nlines')\nf()", "line 2, cannot be imported (OSError: two lines)"),
        ("raise SystemExit(3)", "line 1, cannot be imported (SystemExit: 3)"),
        ("class Note(No): ...", "line 1, cannot be imported (NameError: name 'No' is not defined)"),
    ],
)
def test_whatever_its_code_raises_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / "raises.py", text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(PluginLoadError, match=r"folder\.py cannot be read \(Is a directory\)"):
        load_file(tmp_path / "folder.py", Sources())


def test_a_broken_file_leaves_no_module_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    refusal(tmp_path / "raises.py", "raise OSError")
    assert set(sys.modules) == before


def test_a_mark_above_staticmethod_is_told_as_what_it_is(folder: Path) -> None:
    (folder / "above.py").write_text("import muxx\nclass Above:\n    @muxx.hookimpl\n    @staticmethod\n    def pre_request(): ...")
    with pytest.raises(PluginLoadError, match=r"pre_request\(\) is marked above its @staticmethod, where nobody looks; put"):
        started(folder)


def test_a_broken_file_stops_the_start_unless_it_is_off(folder: Path) -> None:
    (folder / "torn.py").write_text("import no_such_module_anywhere")
    with pytest.raises(PluginLoadError, match=r"plugin 'torn': .*torn\.py, line 1, cannot be imported"):
        started(folder)
    plugins = started(folder, "[plugins.torn]\nenabled = false\nwhatever = 1")
    assert ([item.name for item in plugins.disabled], "note" in plugins.by_name) == (["torn"], True)


# ── names that are taken ──


def test_a_file_may_not_take_the_name_of_a_plugin_of_a_distribution(folder: Path, tmp_path: Path) -> None:
    (folder / "keys.py").write_text(NOTE)
    with pytest.raises(PluginLoadError, match=r"plugin 'keys': .*keys\.py has the name of a plugin that muxx brings; rename the file"):
        started(folder)
    (folder / "keys.py").unlink()

    class Guest: ...

    with installed({"note": Guest}, tmp_path), pytest.raises(PluginLoadError, match=r"note\.py has the name of a plugin that muxx_testing"):
        started(folder)


def test_two_files_that_give_one_name_are_refused(folder: Path) -> None:
    for name in ("a-b.py", "a_b.py"):
        (folder / name).write_text(NOTE)
    with pytest.raises(PluginLoadError, match=r"plugin 'a_b': .*a-b\.py and .*a_b\.py give this one name; rename one"):
        started(folder)


# ── as any other plugin ──


def test_its_settings_are_read_as_strictly_as_any_others(folder: Path) -> None:
    for settings, said in (("txt = 'canary'", "plugins.note.txt: unknown key (did you mean 'text'?)"), ("text = 1", "plugins.note.text")):
        with pytest.raises(ConfigError) as caught:
            started(folder, f"[plugins.note]\n{settings}")
        assert len(caught.value.errors) == 1
        assert said in str(caught.value)
        assert "canary" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"plugins\.noet: .*did you mean 'note'"):
        started(folder, "[plugins.noet]")


def test_a_file_that_is_off_is_not_built(folder: Path) -> None:
    assert [item.name for item in started(folder, "[plugins.note]\nenabled = false").disabled] == ["note"]
    assert "note" not in started(folder, "[plugins]\nonly = ['keys']").by_name
    assert "note" in started(folder, "[plugins]\nonly = ['keys', 'note']").by_name


@pytest.mark.parametrize(("value", "expected"), [("", set()), ("note", {"note"}), ("other", {"other"}), ("other,note", {"note", "other"})])
def test_muxx_load_plugins_limits_files_too_and_one_it_leaves_out_is_not_run(
    value: str, expected: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "other.py").write_text(NOTE)
    if "other" not in expected:
        (folder / "other.py").write_text("raise AssertionError('run')")
    monkeypatch.setenv("MUXX_LOAD_PLUGINS", value)
    assert of_files(folder).keys() == expected
    plugins = started(folder, "[plugins.note]\ntext = 'kept'\n[plugins.other]\nanything = 1" if "other" not in expected else "")
    assert plugins.by_name.keys() == {*STANDARD, *expected}


def test_a_setting_of_nobodys_plugin_is_refused_also_under_muxx_load_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXX_LOAD_PLUGINS", "")
    with pytest.raises(StartError, match=r"\[plugins\] names 'noet'.*did you mean 'note'"):
        started(folder, "[plugins.noet]")


def test_its_folder_comes_onto_no_path_and_nothing_is_written_into_it(folder: Path) -> None:
    before = list(sys.path)
    (folder / "other.py").write_text("import note")
    assert "No module named 'note'" in str(of_files(folder)["other"].problem)
    assert sys.path == before
    assert sorted(path.name for path in folder.iterdir()) == ["note.py", "other.py"]


def test_a_change_within_the_same_second_and_of_the_same_length_is_seen(folder: Path) -> None:
    """What Python keeps compiled beside a module knows neither."""
    old = of_files(folder)["note"].cls
    (folder / "note.py").write_text(NOTE.replace('"one"', '"two"'))
    new = of_files(folder)["note"].cls
    texts = [cls(cls.Config()).note.text.get_secret_value() for cls in (old, new)]  # type: ignore[attr-defined]
    assert texts == ["one", "two"]
    assert vars(sys.modules[old.__module__])["Note"] is old
    assert vars(sys.modules[new.__module__])["Note"] is new


async def test_two_gateways_in_one_process_have_their_own(folder: Path, tmp_path: Path) -> None:
    answers = []
    for text in ("one", "two"):
        (folder / "note.py").write_text(NOTE.replace('"one"', f'"{text}"'))
        path = tmp_path / f"{text}.toml"
        path.write_text(f"server.port = 0\ndatabase.path = '{text}.db'")
        async with serve_in_process(load_checked(path, folder), mock=True) as running:
            answers.append((await post_chat(running.base_url, running.key or "")).header("x-note"))
    assert answers == ["one", "two"]


# ── in processes: workers, the recorder, a reload ──

VERSIONED = """
import muxx

VERSION = "one"


class Versioned:
    migrations = (muxx.Migration("logs", "CREATE TABLE versioned (request_id TEXT PRIMARY KEY, version TEXT) STRICT"),)

    @muxx.hookimpl
    def pre_request(self, gateway, exchange):
        exchange.reply_headers["X-Version"] = f"{VERSION} in {gateway.worker}"

    @muxx.hookimpl
    async def record(self, db, records):
        rows = [(record["request_id"], VERSION) for record in records]
        await db.executemany("INSERT OR IGNORE INTO versioned VALUES (?, ?)", rows)
"""


async def versions(gateway: GatewayProcess, wanted: str, within: float = 20.0) -> set[str]:
    """Ask until both workers have answered with this version; every version seen."""
    seen: set[str] = set()
    async with asyncio.timeout(within):
        while not {f"{wanted} in 0", f"{wanted} in 1"} <= seen:
            seen.add((await gateway.chat()).header("x-version") or "")
    return seen


async def recorded_as(gateway: GatewayProcess, version: str, within: float = 20.0) -> None:
    """Ask until the recorder has written a row by this version of the plugin."""
    async with asyncio.timeout(within):
        while True:
            await gateway.chat()
            with closing(sqlite3.connect(gateway.directory / "muxx-logs.db")) as db:
                if db.execute("SELECT 1 FROM versioned WHERE version = ?", (version,)).fetchone():
                    return


async def test_workers_and_recorder_run_it_and_a_reload_takes_the_file_as_it_is_then(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    file = folder / "versioned.py"
    file.write_text(VERSIONED)
    async with ScriptedUpstream() as upstream:
        upstream.choose = chat("Hello")
        gateway = gateway_process(tmp_path, upstream, workers=2, MUXX_PLUGINS_DIR=str(folder))
        async with gateway:
            assert await versions(gateway, "one") == {"one in 0", "one in 1"}
            await recorded_as(gateway, "one")

            file.write_text("import no_such_module_anywhere")
            gateway.reload()
            while "reload refused, the old configuration stays" not in gateway.stderr:
                assert (await gateway.chat()).status == 200
            assert "versioned.py, line 1, cannot be imported (ModuleNotFoundError" in gateway.stderr
            assert await versions(gateway, "one") == {"one in 0", "one in 1"}

            file.write_text(VERSIONED.replace('"one"', '"two"'))
            gateway.reload()
            await versions(gateway, "two")
            assert await versions(gateway, "two") == {"two in 0", "two in 1"}
            await recorded_as(gateway, "two")
            gateway.terminate()
            assert await gateway.wait() == 0


async def test_serve_takes_the_folder_on_the_command_line_and_goes_without_a_file_that_a_reload_misses(tmp_path: Path) -> None:
    (tmp_path / "note.py").write_text(NOTE)
    async with ScriptedUpstream() as upstream:
        upstream.choose = chat("Hello")
        gateway = GatewayProcess(tmp_path, upstream.base_url, arguments=("--plugins-dir", "."))
        async with gateway:
            assert (await gateway.chat()).header("x-note") == "one"
            (tmp_path / "note.py").unlink()
            gateway.reload()
            async with asyncio.timeout(20):
                while (await gateway.chat()).header("x-note") is not None:
                    pass
