"""`muxx limits set` and `clear`, `muxx caps …`: what they change, what they show, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from muxx.cli import cli
from muxx_std.spend_caps.commands import caps

FILE = """
[project]
limits = { rpm = 100, tpm = 5000 }
spend_caps = [{ window = "month", usd = "1000.00" }]
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("MUXX_CONFIG", "MUXX_PLUGINS_DIR", "MUXX_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "muxx.toml").write_text(FILE)

    def muxx(*arguments: str, code: int = 0) -> Result:
        group, words = (caps, arguments[1:]) if arguments[0] == "caps" else (cli, arguments)
        result = CliRunner().invoke(group, words)
        assert result.exit_code == code, result.output
        return result

    return muxx


def limits_of(result: Result) -> dict[str, tuple[int, str]]:
    return {row["limit"]: (row["value"], row["layer"]) for row in json.loads(result.stdout)["limits"]}


def caps_of(result: Result) -> tuple[str, list[tuple[str, str, str]]]:
    told = json.loads(result.stdout)
    return told["layer"], [(cap["window"], cap["usd"], cap["action"]) for cap in told["caps"]]


# ── limits ──


def test_a_projects_limits_are_set_shown_with_their_layers_and_taken_back(run: Run) -> None:
    run("projects", "create", "shop")
    told = limits_of(run("limits", "set", "--project", "shop", "rpm=60", "user_rpd=1_000", "--json"))
    assert told["rpm"] == (60, "project")
    assert told["user_rpd"] == (1000, "project")
    assert told["tpm"] == (5000, "file")
    assert told["key_in_flight"] == (0, "built in")
    assert limits_of(run("limits", "set", "--project", "shop", "rpm=0", "--json"))["rpm"] == (0, "project")
    told = limits_of(run("limits", "clear", "--project", "shop", "rpm", "--json"))
    assert (told["rpm"], told["user_rpd"]) == ((100, "file"), (1000, "project"))
    lines = run("limits", "clear", "--project", "shop").stdout.splitlines()
    assert [line.split() for line in lines[:2]] == [["limit", "value", "from"], ["rpm", "100", "file"]]
    assert json.loads(run("projects", "show", "shop", "--json").stdout)["settings"] == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set",), "LIMIT=NUMBER"),
        (("set", "rpm"), "LIMIT=NUMBER"),
        (("set", "rpm=-1"), "LIMIT=NUMBER"),
        (("set", "rpm=1.5"), "LIMIT=NUMBER"),
        (("set", "=5"), "LIMIT=NUMBER"),
        (("set", "rpn=5"), "did you mean 'rpm'"),
        (("set", "rpm=999999999999"), "less than or equal to 4000000"),
        (("clear", "rpn"), "did you mean 'rpm'"),
    ],
)
def test_a_limit_that_cannot_be_is_a_usage_error_and_changes_nothing(arguments: tuple[str, ...], words: str, run: Run) -> None:
    assert words in " ".join(run("limits", *arguments, code=2).stderr.split())
    assert json.loads(run("projects", "audit", "--json").stdout) == []


# ── caps ──


def test_caps_of_the_file_hold_until_a_project_sets_its_own(run: Run) -> None:
    assert caps_of(run("caps", "list", "--json")) == ("file", [("month", "1000.00", "block")])
    told = caps_of(run("caps", "set", "day", "100.00", "--json"))
    assert told == ("project", [("month", "1000.00", "block"), ("day", "100.00", "block")])
    told = caps_of(run("caps", "set", "day", "80", "--action", "alert", "--json"))
    assert told[1] == [("month", "1000.00", "block"), ("day", "100.00", "block"), ("day", "80", "alert")]
    told = caps_of(run("caps", "set", "day", "50.5", "--json"))
    assert told[1] == [("month", "1000.00", "block"), ("day", "80", "alert"), ("day", "50.5", "block")]
    assert caps_of(run("caps", "clear", "day", "--action", "alert", "--json"))[1] == [
        ("month", "1000.00", "block"), ("day", "50.5", "block"),
    ]  # fmt: skip
    assert caps_of(run("caps", "clear", "month", "--json")) == ("project", [("day", "50.5", "block")])
    assert caps_of(run("caps", "clear", "day", "--json")) == ("project", [])
    assert caps_of(run("caps", "clear", "--json")) == ("file", [("month", "1000.00", "block")])
    assert run("caps", "list").stdout.split() == [
        "window", "usd", "action", "from", "spent", "held", "remaining",
        "month", "1000.00", "block", "file", "0", "0", "1000",
    ]  # fmt: skip


def test_without_any_the_layer_is_built_in(run: Run, tmp_path: Path) -> None:
    (tmp_path / "muxx.toml").write_text("")
    assert caps_of(run("caps", "list", "--json")) == ("built in", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "week", "5"), "day"),
        (("set", "day", "0"), "greater than 0"),
        (("set", "day", "-5"), "No such option"),
        (("set", "day", "lots"), "decimal"),
        (("set", "day", "NaN"), "finite"),
        (("set", "day", "0.0000000000001"), "decimal places"),
        (("set", "day", "5", "--action", "shout"), "block"),
        (("clear", "day"), "no such cap"),
    ],
)
def test_a_cap_that_cannot_be_is_a_usage_error_and_changes_nothing(arguments: tuple[str, ...], words: str, run: Run) -> None:
    before = run("caps", "list", "--json").stdout
    assert words in " ".join(run("caps", *arguments, code=2).stderr.split())
    assert run("caps", "list", "--json").stdout == before


@pytest.mark.parametrize("command", [("caps", "list"), ("caps", "set", "day", "5"), ("caps", "clear"), ("limits", "clear")])
def test_a_project_that_does_not_exist_is_one_line_and_1(command: tuple[str, ...], run: Run) -> None:
    assert run(*command, "--project", "nobody", code=1).stderr == "Error: There is no such project.\n"


def test_of_caps_set_at_once_none_is_lost(run: Run) -> None:
    """Each is laid over what holds in the moment of its writing."""
    wanted: list[tuple[str, ...]] = [(window, action) for window in ("day", "month") for action in ("block", "alert")]
    run("caps", "list")

    def set_one(cap: tuple[str, ...]) -> Any:
        return caps.main(["set", cap[0], "5", "--action", cap[1]], standalone_mode=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(set_one, wanted))
    assert sorted(cap[0] + cap[2] for cap in caps_of(run("caps", "list", "--json"))[1]) == sorted(map("".join, wanted))
