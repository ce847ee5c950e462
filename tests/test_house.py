"""The rules of the house, read off the source: who may import whom, who owns tasks, how SQL is written, what lies where.

A rule that needs an exception names it here, with its reason; an exception nobody needs any more fails too.
"""

from __future__ import annotations

import ast
import configparser
import enum
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import muxx
from muxx.config import Config
from muxx.discovery import discover
from muxx.plugins import build

ROOT = Path(__file__).parent.parent
KERNEL = sorted((ROOT / "muxx").rglob("*.py"))
SLICES = sorted((ROOT / "plugins/muxx_std").rglob("*.py"))
MAPPED = sorted(init for root in ("muxx/wire", "plugins/muxx_std") for init in (ROOT / root).glob("*/__init__.py"))
"""Packages whose docstring says what each of their modules is for."""

FROM_THE_BOTTOM_UP = """
    version __init__ owner processes shown moments memory loop asked crashes errors money request targets reply row settings exchange textwindow hookspecs sources tomlfile validation
    configtypes config configfile projectsettings explain pluginfiles discovery plugins registering pluginlist scaffold driving watchdog chains wire wire.halves wire.failures wire.large wire.fragments wire.alike wire.sse wire.body wire.counts wire.seals wire.fields wire.prompt wire.members wire.wire wire.mending
    wire.openai.usage wire.openai.request wire.openai.answer wire.openai.stream wire.openai.pieces wire.openai.apart wire.openai.members
    wire.openai.thoughts wire.openai.chunks wire.openai.envelope wire.openai.content wire.openai.prompt_reading
    wire.openai.calls wire.openai.answer_reader wire.openai.prompt_writing wire.openai wire.models
    wire.openai.prompt wire.openai.completions wire.openai.gathered wire.openai.embeddings wire.responses.items wire.responses.request
    wire.responses.envelope wire.responses.facts wire.responses.writer wire.responses.reading wire.responses.adding
    wire.responses.codec wire.responses.plain wire.responses.answer_reader wire.responses.prompt_writing
    wire.responses.prompt_reading wire.responses wire.gemini.names wire.gemini.request wire.gemini.media
    wire.gemini.prompt_parts wire.gemini.reasons wire.gemini.usage wire.gemini.pieces wire.gemini.prompt_writer
    wire.gemini.facts wire.gemini.envelope wire.gemini.writer wire.gemini.codec wire.gemini.plain wire.gemini.counting
    wire.gemini.paths wire.gemini.framing wire.gemini.answer_reader wire.gemini.schema wire.gemini.prompt_reader wire.gemini
    wire.anthropic.counting wire.anthropic.blocks wire.anthropic.thinking wire.anthropic.prompt_reading
    wire.anthropic.request wire.anthropic.usage wire.anthropic.envelope wire.anthropic.reading wire.anthropic.writer
    wire.anthropic.codec wire.anthropic.facts wire.anthropic.plain wire.anthropic.answer_reader
    wire.anthropic.prompt_writing wire.anthropic wire.wires bodies openapi headers ids providers outages unreachable selecting routing checking console breaker
    budget keypool health tries transport brought lean complete upstream segments tail outbox journal counters shared scanprocess scanning sqlite db sealing secret audit projectstore host rotation recorder
    strangers unpriced projects running call noting accounting collecting reader flight relay hookedrelay written translating plain refusing answering replying again ahead
    unusable attempts pipeline innercall gateway endpoints incoming answer connection accepting arrays server worker stderr
    agreement supervisor workers catalogue probing plugincommands providercommands modelcommands secretcommands bench bench.said bench.upstream
    bench.children bench.machine bench.load bench.gateway bench.measuring bench.running bench.verdict benchcommand cli __main__
    testing.waiting testing.aside testing.leak testing.cutting testing.http1 testing.settings testing.steps testing.said testing.asking
    testing.speaking.framing testing.speaking.openai testing.speaking.responses testing.speaking.anthropic
    testing.speaking.gemini testing.speaking testing.reading.events testing.reading.openai testing.reading.responses
    testing.reading.anthropic testing.reading.gemini testing.reading testing.answers testing.client testing.upstream
    testing.values testing testing.installing testing.running testing.process testing.watching testing.outcome
    testing.played testing.stage testing.driving testing.state testing.tables testing.advice testing.checking
    testing.conformance.cases testing.conformance.troupe testing.conformance.evidence testing.conformance.provider
    testing.conformance.leftovers testing.conformance.carrying testing.conformance.examining
    testing.conformance.hook_rules testing.conformance.answer_rules testing.conformance.row_rules
    testing.conformance.sharing_rules testing.conformance.conduct_rules testing.conformance.invariants
    testing.conformance.suite testing.conformance testing.conformance.test_installed testing.fixtures
"""
ORDER = FROM_THE_BOTTOM_UP.split()
"""A file of the kernel imports only what stands before it here. A package stands for its `__init__.py`."""

TASK_OWNERS = {
    "muxx/gateway.py: Gateway._begin": "what every plugin and the kernel itself use; ended in Gateway.stop",
    "muxx/sqlite.py: Writer.run": "the one task of a writing connection; ended in Writer.close",
    "muxx/accepting.py: Accepting._take_more": "a connection on its way to its protocol; over in the next turn",
    "muxx/worker.py: Worker.start": "the journal's upkeep; ended in Worker.stop",
    "muxx/worker.py: Worker._retire": "a replaced gateway on its way out; ended in Worker.stop",
    "muxx/worker.py: Worker._in_time": "a gateway's end; over when it returns",
    "muxx/worker.py: _first": "waits; ended where they are made",
    "muxx/workers.py: Changing.obey": "getting ready for a reload; ended by the next word, or at the stop",
    "muxx/flight.py: Flight.start": "the pump of a shared answer; ended when its last reader leaves",
    "muxx/ahead.py: Ahead.wait": "the pump of one answer; ended in Ahead.close",
    "muxx/answering.py: answer_stream": "the pump of one answer; ended where it is made",
    "muxx/testing/stage.py: Stage._carry": "the exchange on the stage; awaited where it is made",
    "muxx/testing/upstream.py: Connection.connection_made": "a scripted provider's connection; ended when it is lost",
}

PROCESS_WIDE: dict[str, str] = {
}
"""Classes that keep something in themselves instead of in an instance."""

TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
    "config.example.toml", "docs", "muxx", "plugins", "pyproject.toml", "requirements-dev.lock", "requirements.lock",
    "setup.cfg", "tests",
}  # fmt: skip


# ── reading the source ──


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def nodes(path: Path, with_types: bool = False) -> tuple[tuple[str, ast.AST], ...]:
    """Every node of a file with the qualified name it stands in; what stands under TYPE_CHECKING only on request."""

    def walk(node: ast.AST, place: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
        typing_only = node.body if isinstance(node, ast.If) and is_type_checking(node) else []
        for child in ast.iter_child_nodes(node):
            if child in typing_only and not with_types:
                continue
            yield ".".join(place), child
            named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, (*place, child.name) if named else place)  # type: ignore[attr-defined]

    return tuple(walk(ast.parse(path.read_text(), str(path)), ()))


def imports(path: Path, root: Path = ROOT, *, with_types: bool = False) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, wherever in the file; relative ones resolved. The name is "" for `import module`."""
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for _, node in nodes(path, with_types):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((module, alias.name) for alias in node.names)


def calls(path: Path) -> Iterator[tuple[str, ast.Call, str]]:
    """Every call with the place it stands in and the last word of what is called."""
    for place, node in nodes(path):
        if isinstance(node, ast.Call):
            yield place, node, getattr(node.func, "attr", getattr(node.func, "id", ""))


# ── imports ──


def test_every_file_of_the_kernel_has_its_place_in_the_order() -> None:
    files = {module_name(path).removeprefix("muxx").lstrip(".") or "__init__" for path in KERNEL}
    assert len(ORDER) == len(set(ORDER))
    assert files == set(ORDER)


@pytest.mark.parametrize("path", KERNEL, ids=shown)
def test_a_file_of_the_kernel_imports_only_what_stands_above_it(path: Path) -> None:
    names = {module_name(file) for file in KERNEL}
    rank = {("muxx." + name if name != "__init__" else "muxx"): number for number, name in enumerate(ORDER)}
    own = rank[module_name(path)]
    for module, name in imports(path):
        target = f"{module}.{name}" if f"{module}.{name}" in names else module
        if target in names and target != module_name(path):
            assert rank[target] < own, f"{module_name(path)} imports {target}, which stands below it"


@pytest.mark.parametrize("path", KERNEL, ids=shown)
def test_the_kernel_never_imports_a_slice(path: Path) -> None:
    assert [module for module, _ in imports(path, with_types=True) if module.split(".")[0] == "muxx_std"] == []


@pytest.mark.parametrize("path", SLICES, ids=shown)
def test_a_slice_imports_only_public_names_and_itself(path: Path) -> None:
    own = module_name(path, ROOT / "plugins").split(".")[:2]
    for module, name in imports(path, ROOT / "plugins", with_types=True):
        if module.split(".")[0] == "muxx":
            assert module == "muxx", f"{module} is not public: import from muxx itself"
            assert name in (*muxx.__all__, ""), f"muxx.{name} is not a public name"
        if module.split(".")[0] == "muxx_std":
            assert module.split(".")[:2] == own, f"{module} is another plugin's"


def test_the_public_names_are_those_of_the_lazy_table() -> None:
    assert sorted(muxx.__all__) == sorted([*muxx._MODULE_OF, "__version__"])
    assert sorted(muxx.__all__) == dir(muxx)
    for name, module in muxx._MODULE_OF.items():
        assert getattr(muxx, name) is getattr(importlib.import_module(f"muxx.{module}"), name)


def test_the_type_checker_sees_the_same_public_names() -> None:
    only_for_types = set(imports(ROOT / "muxx/__init__.py", with_types=True)) - set(imports(ROOT / "muxx/__init__.py"))
    assert {(module.removeprefix("muxx."), name) for module, name in only_for_types} == {
        (module, name) for name, module in muxx._MODULE_OF.items()
    }


def test_a_command_that_needs_no_server_loads_none(tmp_path: Path) -> None:
    code = "import sys; from muxx.cli import cli; cli(['keys', '--help'], standalone_mode=False); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "muxx_std.keys.commands" in done.stdout
    assert "aiohttp" not in done.stdout.split()


def test_the_default_install_compiles_an_empty_on_chunk_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXX_LOAD_PLUGINS", "")
    plugins = build(discover(), Config())
    assert set(plugins.by_name) >= {"keys", "logs", "pricing", "mock"}
    assert plugins.chain("on_chunk") == ()


# ── state and tasks ──


def test_a_task_has_an_owner_that_ends_it() -> None:
    made = {
        f"{shown(path)}: {place}"
        for path in (*KERNEL, *SLICES)
        for place, _, name in calls(path)
        if name in ("create_task", "ensure_future")
    }
    assert made == TASK_OWNERS.keys()


MUTATORS = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update",
}  # fmt: skip


def module_names(path: Path) -> set[str]:
    """Names bound at the top level of a file by assignment."""
    found = set()
    for place, node in nodes(path):
        if place == "" and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def changed_names(path: Path) -> Iterator[tuple[str, str]]:
    """(place, name) where an item, an attribute or the content of a bare name is changed."""
    for place, node in nodes(path):
        target: ast.AST | None = None
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            target = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            target = node.func.value
        if isinstance(target, ast.Name):
            yield place, target.id


def local_names(path: Path, place: str) -> set[str]:
    return {
        node.arg if isinstance(node, ast.arg) else node.id
        for where, node in nodes(path)
        if where.startswith(place)
        and (isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)))
    }


@pytest.mark.parametrize("path", [*KERNEL, *SLICES], ids=shown)
def test_nothing_at_module_level_changes(path: Path) -> None:
    assert [node.lineno for _, node in nodes(path) if isinstance(node, ast.Global)] == []
    bound = module_names(path)
    changed = [(place, name) for place, name in changed_names(path) if place and name in bound - local_names(path, place)]
    assert changed == []


def test_a_class_keeps_nothing_that_changes_in_itself() -> None:
    keeping = {
        f"{shown(path)}: {place.rpartition('.')[0]}"
        for path in (*KERNEL, *SLICES)
        for place, name in changed_names(path)
        if name == "cls"
    }
    assert keeping == PROCESS_WIDE.keys()


def is_constant(value: Any) -> bool:
    frozen = getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
    return frozen or isinstance(value, enum.Enum | tuple | click.Command) or not type(value).__module__.startswith("muxx")


@pytest.mark.parametrize("path", [path for path in KERNEL if path.name != "__main__.py"], ids=shown)
def test_a_module_holds_no_instance_that_can_change(path: Path) -> None:
    held = vars(importlib.import_module(module_name(path)))
    assert [name for name, value in held.items() if not isinstance(value, type) and not is_constant(value)] == []


# ── SQL ──

_SQL = re.compile(r"\s*(SELECT|INSERT|REPLACE|UPDATE|DELETE|WITH|CREATE|ALTER|DROP|PRAGMA|BEGIN|ATTACH)\b")


def text_of(node: ast.AST) -> str:
    """The constant text in a string, formatted or not."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(map(text_of, node.values)) if isinstance(node, ast.JoinedStr) else ""


def is_number_or_choice(node: ast.FormattedValue) -> bool:
    """`{n:d}`, which only an integer passes, or a choice between two constants."""
    number = node.format_spec is not None and text_of(node.format_spec) == "d"
    choice = isinstance(node.value, ast.IfExp) and all(isinstance(n, ast.Constant) for n in (node.value.body, node.value.orelse))
    return number or choice


@pytest.mark.parametrize("path", [*KERNEL, *SLICES], ids=shown)
def test_sql_is_constant_text_with_bound_values(path: Path) -> None:
    for _, node in nodes(path):
        if isinstance(node, ast.JoinedStr) and _SQL.match(text_of(node)):
            pieces = [piece for piece in node.values if isinstance(piece, ast.FormattedValue)]
            assert all(map(is_number_or_choice, pieces)), f"line {node.lineno}: bind values, do not format them"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            assert not _SQL.match(text_of(node.left)), f"line {node.lineno}: bind values, do not format them"
    for _, call, name in calls(path):
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else call
        assert name != "format" or not _SQL.match(text_of(receiver)), f"line {call.lineno}: bind values"
        assert name != "executescript", f"line {call.lineno}: it commits the open transaction first"


# ── words and files ──


def test_public_names_have_docstrings() -> None:
    for name in muxx.__all__:
        value = getattr(muxx, name)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("muxx"):
            text = inspect.getdoc(value) or ""
            assert text, f"{name} has none"
            assert not text.startswith(f"{name}("), f"{name} has only the one dataclass makes"


def repository_files() -> list[Path]:
    """What belongs to the repository: neither ignored by git nor made by a run."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no clone: nobody can say which files belong to it")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("package", MAPPED, ids=shown)
def test_a_package_says_what_each_of_its_modules_is_for(package: Path) -> None:
    said = ast.get_docstring(ast.parse(package.read_text())) or ""
    modules = {path.stem for path in package.parent.glob("*.py")} - {"__init__"}
    assert not {name for name in modules if f"`{name}`" not in said}


def test_the_top_level_holds_only_what_belongs_there() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in repository_files()} - TOP_LEVEL == set()


def test_nothing_is_left_to_do_and_nothing_tells_of_a_machine() -> None:
    left = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")))
    machine = re.compile("|".join(("/ho" + "me/", "/ro" + "ot/", "/Us" + "ers/", "py" + r"pi\.org", "python" + "hosted")))
    for path in repository_files():
        text = path.read_bytes().decode(errors="replace")
        for pattern in (left, machine):
            found = pattern.search(text) if path.suffix != ".sse" else None
            assert found is None, f"{shown(path)}: {found}"
        assert len(ROOT.parent.parts) < 2 or str(ROOT.parent) + "/" not in text, shown(path)


# ── dependencies ──


def setup() -> Mapping[str, Mapping[str, str]]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements() -> dict[str, list[Requirement]]:
    """What is required for what: running, each extra, building."""
    options, extras = setup()["options"], setup()["options.extras_require"]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    lines = {"running": options["install_requires"].split("\n"), "building": build}
    lines |= {extra: text.split("\n") for extra, text in extras.items()}
    return {purpose: [Requirement(line) for line in found if line] for purpose, found in lines.items()}


def locked(file: str) -> dict[str, str]:
    """Package to version; every one of them with hashes, and nothing else in the file."""
    versions = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / file).read_text().strip()):
        if entry.startswith("#"):
            continue
        pinned = re.match(r"([a-z0-9.-]+)==(\S+)(?: ; [^\\]+)? \\\n", entry)
        assert pinned is not None, f"{file}: {entry.splitlines()[0]}"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"{file}: {pinned[1]} has no hash"
        versions[pinned[1]] = pinned[2]
    return versions


@pytest.mark.parametrize(
    ("file", "purposes"),
    [
        ("requirements.lock", ("running", "uvloop", "building")),
        ("requirements-dev.lock", ("running", "uvloop", "building", "dev")),
    ],
)
def test_a_lock_pins_with_hashes_what_is_required(file: str, purposes: tuple[str, ...]) -> None:
    versions = locked(file)
    for purpose in purposes:
        for requirement in requirements()[purpose]:
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_both_locks_agree() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_every_dependency_has_its_reason_written_down() -> None:
    rows = re.findall(r"^\| ([a-z][\w-]*) \| (.+) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    reasons = {name: (purposes, reason) for name, purposes, reason in rows if name != "package"}
    words = {"running": "running", "building": "building", "dev": "development", "uvloop": "extra `uvloop`", "otel": "extra `otel`"}
    wanted: dict[str, set[str]] = {}
    for purpose, found in requirements().items():
        for requirement in found:
            wanted.setdefault(requirement.name, set()).add(words[purpose])
    assert {name: set(purposes.split(", ")) for name, (purposes, _) in reasons.items()} == wanted
