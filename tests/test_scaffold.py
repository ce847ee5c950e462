"""`muxx plugins new` writes a package that works as it is, under any name it takes, and overwrites nothing."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from docs_kit import ROOT
from workshop_kit import Workshop

from muxx import PluginConfig, scaffold
from muxx.cli import cli
from muxx.errors import StartError
from muxx.scaffold import FILES, MAX_NAME, Names, names_of, write
from muxx.testing.installing import installed

LONGEST = "a" + "_bc" * ((MAX_NAME - 1) // 3)


def new(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plugins", "new", *arguments], prog_name="muxx", catch_exceptions=False)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MUXX_PLUGINS_DIR", raising=False)
    monkeypatch.delenv("MUXX_LOAD_PLUGINS", raising=False)
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# ── names ──


@pytest.mark.parametrize("given", ["rate-note", "rate_note", "muxx-rate-note", "muxx_rate_note"])
def test_a_name_is_turned_into_all_the_others(given: str) -> None:
    assert names_of(given) == Names("rate_note", "muxx-rate-note", "muxx_rate_note", "RateNote", "X-Rate-Note", "muxx>=0.1,<1")


@pytest.mark.parametrize(
    "given",
    ["", "muxx-", "Shout", "2fast", "a b", "a--b", "-a", "a-", "a.b", "../a", "é", "only", "order", "none", "true", "a" * (MAX_NAME + 1)],
)
def test_what_cannot_be_a_name_everywhere_is_refused_and_nothing_is_made(given: str, empty: Path) -> None:
    result = new("--", given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{given!r} cannot be a plugin's name: it begins with a letter" in result.stderr
    assert list(empty.iterdir()) == []


def test_a_name_that_is_taken_is_refused_with_who_has_it(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guest:
        class Config(PluginConfig): ...

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/torn.py").write_text("raise AssertionError('nothing is imported to learn a name')")
    with installed({"guest": Guest}, tmp_path):
        for name, said in (
            ("keys", "there is a plugin 'keys' already, from muxx."),
            ("guest", "there is a plugin 'guest' already, from muxx_testing"),
            ("torn", "there is a plugin 'torn' already, from ../mine/torn.py."),
            ("std", "a package muxx_std is installed already."),
        ):
            result = new(name, "--plugins-dir", "../mine")
            assert (result.exit_code, result.stdout) == (2, "")
            assert said in result.stderr
    (tmp_path / "muxx_other-1.dist-info").mkdir()
    (tmp_path / "muxx_other-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: muxx-other\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "a distribution muxx-other is installed already" in new("other").stderr
    assert list(empty.iterdir()) == []


# ── folders ──


def test_it_says_what_it_made_and_what_to_type_next(empty: Path) -> None:
    shown = new("shout").stdout
    made = {str(path.relative_to(empty / "muxx-shout")) for path in empty.rglob("*") if path.is_file()}
    listed = shown.partition("Next")[0].split()[2:]
    assert made == set(listed)
    assert {"setup.cfg", "src/muxx_shout/__init__.py", "src/muxx_shout/py.typed", "tests/test_shout.py"} < made
    assert shown.startswith("Made muxx-shout:")
    assert "    cd muxx-shout\n    pip install -e '.[test]'\n    pytest\n    muxx plugins\n" in shown
    assert "no licence yet" in shown


@pytest.mark.parametrize("there", ["README.md", ".hidden"])
def test_a_folder_with_anything_in_it_is_left_as_it_is(there: str, empty: Path) -> None:
    (empty / "muxx-shout").mkdir()
    (empty / "muxx-shout" / there).write_text("mine")
    result = new("shout")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: muxx-shout is not empty. Give another folder with --directory, or empty that one\n"
    assert [(path.name, path.read_text()) for path in (empty / "muxx-shout").iterdir()] == [(there, "mine")]


def test_an_empty_folder_and_one_that_is_not_there_will_do(empty: Path) -> None:
    assert new("shout", "--directory", ".").exit_code == 0
    assert (empty / "setup.cfg").exists()
    shown = new("shout", "--directory", "deep/my plugin").stdout
    assert "    cd 'deep/my plugin'\n" in shown
    assert (empty / "deep/my plugin/setup.cfg").exists()


def test_where_it_cannot_write_it_says_why(empty: Path) -> None:
    (empty / "file").write_text("mine")
    result = new("shout", "--directory", "file")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: file cannot be written (Not a directory). Give another folder with --directory\n"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))
    (tmp_path / "setup.cfg").write_text("mine")
    with pytest.raises(StartError, match="File exists"):
        write(names_of("shout"), tmp_path)
    assert (tmp_path / "setup.cfg").read_text() == "mine"


# ── what it wrote ──


def test_every_template_is_used_and_goes_into_the_wheel_of_muxx() -> None:
    templates = {item.name for item in resources.files(scaffold).iterdir() if item.name.endswith(".txt")}
    assert templates == {template for template, _ in FILES}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "muxx.scaffold" in setup["options"]["packages"].split()
    patterns = setup["options.package_data"]["muxx.scaffold"].split()
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in templates)


def test_whatever_it_is_called_it_keeps_ruffs_rules_and_has_types(tmp_path: Path) -> None:
    """Among them names of what the plugin itself uses."""
    workshop = Workshop(tmp_path)
    for name in ("a", "config", "exchange", "muxx", "pydantic", "self", LONGEST):
        write(names_of(name), workshop.folder / name)
    shown = workshop.run(
        "python3 -m venv --without-pip ../.venv\n. ../.venv/bin/activate\n"
        "for name in *; do (cd $name && ruff check . && ruff format --check .); done\n"
        f"for name in config {LONGEST}; do (cd $name && mypy); done"
    )
    assert shown.count("Success: no issues found") == 2


@pytest.mark.soak  # the tutorial is in `make test`
@pytest.mark.timeout(300)
def test_its_tests_pass_and_a_running_gateway_loads_its_wheel(tmp_path: Path) -> None:
    """The tutorial does the same by another way: here it is a name of two words, and what was written stays as it is."""
    shown = Workshop(tmp_path).run(
        """
        python3 -m venv .venv
        . .venv/bin/activate
        muxx plugins new rate-note
        pip wheel -q --no-deps --wheel-dir dist ./muxx-rate-note
        pip install -q dist/muxx_rate_note-0.1.0-py3-none-any.whl
        (cd muxx-rate-note && pytest)
        printf '[plugins.rate_note]\\nnote = "from the file"\\n' > muxx.toml
        muxx config check
        muxx serve --mock --port 8080 2> muxx.log &
        curl -s --retry 50 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/readyz
        KEY=$(muxx keys create --name test)
        curl -si http://127.0.0.1:8080/v1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
          -d '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}'
        until grep "rate_note: req_" muxx.log; do sleep 0.1; done
        muxx plugins
        """
    )
    assert len(re.findall(r"=+ \d+ passed in", shown)) == 1
    assert "muxx.toml: ok" in shown
    assert "X-Rate-Note: from the file" in shown
    assert "tokens" in shown
    (listed,) = [line.split() for line in shown.splitlines() if line.startswith("rate_note ") and line.endswith(" on")]
    assert listed[1:2] + listed[3:] == ["0.1.0", "pre_request,", "post_response", "muxx-rate-note", "on"]
