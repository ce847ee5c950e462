"""FAULTS G03, K01, K02 and K03: what is never evaluated, what is installed, and which plugins are loaded."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from carrying_kit import serving
from http_kit import add_key
from standard import STANDARD

from muxx import hookimpl
from muxx.endpoints import KERNEL_PATHS, KERNEL_ROUTES
from muxx.testing import RunningGateway
from muxx.testing.settings import clean_environment
from muxx.workers import OLDEST_AIOHTTP

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(
    [
        *(ROOT / "muxx").rglob("*.py"),
        *(ROOT / "plugins/muxx_std").rglob("*.py"),
        *(ROOT / "plugins/muxx-redact/src").rglob("*.py"),
    ]
)

# ── G03: nothing is evaluated ───────────────────────────────────────────────────────────────────────────────────────────────

CODE_FROM_TEXT = {"eval", "exec", "compile", "__import__", "execfile", "literal_eval", "runpy", "run_path", "run_module"}
UNSAFE_MODULES = {
    "pickle", "cPickle", "dill", "marshal", "shelve", "code", "codeop", "jinja2", "mako", "yaml", "runpy", "pty", "telnetlib", "xml",
}  # fmt: skip
SHELLS = {"system", "popen", "getoutput", "getstatusoutput"}


ALLOWED: dict[tuple[str, str], str] = {
    ("muxx/pluginfiles.py", "compile"): "a file of the operator's plugin folder, as an import would",
    ("muxx/pluginfiles.py", "exec"): "the same; the folder is named on the command line or in the environment only",
}
"""(file, name) to the reason why it may stand there. A reason nobody needs any more fails too."""


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def called(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, the name before the dot, the last name) of every call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                owner = function.value.id if isinstance(function.value, ast.Name) else "…"
                yield node.lineno, owner, function.attr
            elif isinstance(function, ast.Name):
                yield node.lineno, "", function.id


def dangers(path: Path) -> set[str]:
    """What a source calls and imports of what makes code, or commands of a shell, of text."""
    calls = list(called(path))
    found = {name for _, owner, name in calls if name in CODE_FROM_TEXT and owner in ("", "builtins", "ast")}
    found |= {name for _, owner, name in calls if name in SHELLS and owner in ("os", "subprocess")}
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        found |= {module for module in modules if module.split(".")[0] in UNSAFE_MODULES}
        if isinstance(node, ast.keyword) and node.arg == "shell":
            found.add("shell=")
    return found


def test_G03_K03_no_source_evaluates_text_unpickles_renders_or_asks_a_shell() -> None:
    assert {(shown(path), name) for path in SOURCES for name in dangers(path)} == ALLOWED.keys()


@pytest.mark.parametrize(
    ("source", "danger"),
    [
        ("import pickle", "pickle"),
        ("from xml.etree import ElementTree", "xml.etree"),
        ("eval('1')", "eval"),
        ("import os\nos.system('id')", "system"),
        ("import subprocess\nsubprocess.run('id', shell=True)", "shell="),
    ],
)
def test_G03_the_gate_finds_what_it_looks_for(source: str, danger: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    assert dangers(path) == {danger}


TRICKS = [
    "${HOME}", "${MUXX_SECRET:-x}", "${file:/etc/passwd}", "$$", "{{ 7 * 7 }}", "{% raw %}", "<%= 7 %>", "#{7*7}", "%(levelname)s", "{0.__class__}",
    "os.environ/PATH", "__import__('os').system('id')", "!!python/object/apply:os.system ['id']", "file:///etc/passwd", "cos\nsystem\n(S'id'\ntR.",
]  # fmt: skip


async def test_G03_nothing_in_a_request_is_filled_in_or_evaluated() -> None:
    async with serving(config={"models": [{"name": "*", "targets": ["openai/*"]}]}) as gateway:
        for trick in TRICKS:
            metadata = orjson.dumps({"trick": trick}).decode()
            name = trick.replace("\n", " ")
            headers = {"X-Muxx-Metadata": metadata, "X-Muxx-User-Id": name}
            response = await gateway.chat(trick, model=name, headers=headers, user=trick, metadata={"a": trick})
            assert response.status == 200
            sent = gateway.upstream.last.json()
            assert (sent["model"], sent["messages"][0]["content"], sent["user"], sent["metadata"]) == (
                name,
                trick,
                trick,
                {"a": trick},
            )
            row = await gateway.get_row(response.request_id)
            assert (row["user_id"], row["metadata"], row["model_requested"]) == (name, {"trick": trick}, name)


async def test_G03_what_is_filled_into_the_file_is_text_and_not_looked_at_again(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text("${HOME} {{ 7 * 7 }} ${file:/etc/passwd}")
    text = f"${{file:{told}}} $${{HOME}} {{{{ 7 * 7 }}}} ${{MUXX_TEST_ABSENT:-none}}"
    async with serving(config={"plugins": {"mock": {"text": text}}}) as gateway:
        answer = await gateway.chat(model="mock")
    said = answer.json()["choices"][0]["message"]["content"]
    assert said == f"{told.read_text()} ${{HOME}} {{{{ 7 * 7 }}}} none"


UPDATES: list[tuple[str, str, Any]] = [
    # Shapes of CVE-2024-4264 and CVE-2026-35029: an endpoint that writes the configuration, and through it runs code.
    ("POST", "/config/update", {"environment_variables": {"UI_LOGO_PATH": "/etc/passwd"}}),
    ("POST", "/config/update", {"general_settings": {"pass_through_endpoints": [{"path": "/x", "target": "os.system"}]}}),
    ("POST", "/config/update", {"litellm_settings": {"callbacks": ["__import__('os').system('id')"]}}),
    ("POST", "/v1/config/update", {"plugins": {"only": []}}),
    ("POST", "/config/pass_through_endpoint", {"path": "/x", "target": "http://127.0.0.1:1"}),
    ("PATCH", "/v1/config", {"server": {"port": 1}}),
    ("PUT", "/v1/plugins/evil", {"module": "os:system"}),
    ("POST", "/model/new", {"model_name": "x", "litellm_params": {"api_key": "os.environ/PATH"}}),
]  # fmt: skip


async def test_G03_no_route_changes_the_file_or_what_was_read_from_it() -> None:
    async with serving() as gateway:
        file, admin = gateway.directory / "muxx.toml", await add_key(gateway, "admin", None)
        before, config = file.read_bytes(), repr(gateway.gateway.config)
        routes = [(route.method, route.path) for route in (*KERNEL_ROUTES, *gateway.gateway.routes)]
        routes += [(method, path) for path, method in KERNEL_PATHS.items()]
        body = orjson.dumps({"plugins": {"only": []}, "server": {"port": 1}, "model": "gpt-4o", "input": "x", "prompt": "x"})
        for key in (admin, gateway.key):
            for method, path, update in UPDATES:
                assert await status(gateway, key, method, path, orjson.dumps(update)) in (404, 405)
            for method, path in routes:
                await status(gateway, key, method, path.replace("{", "").replace("}", ""), body if method != "GET" else b"")
        assert (file.read_bytes(), repr(gateway.gateway.config)) == (before, config)
        assert {path.name for path in gateway.directory.glob("*.toml*")} == {"muxx.toml"}


async def status(gateway: RunningGateway, key: str, method: str, path: str, body: bytes) -> int:
    async with await gateway.connect() as client:
        await client.request(method, path, {"X-Muxx-Api-Key": key, "Content-Type": "application/json"}, body)
        return (await client.read_response()).status


def test_G03_the_kernel_writes_no_configuration_file() -> None:
    """Files are opened for writing in few places, none of which knows the file's name."""
    for path in (ROOT / "muxx/config.py", ROOT / "muxx/tomlfile.py", ROOT / "muxx/explain.py", ROOT / "muxx/validation.py"):
        assert [
            name for _, _, name in called(path) if name in ("write_text", "write_bytes", "write", "rename", "replace_file")
        ] == []


# ── K01: what is installed ──────────────────────────────────────────────────────────────────────────────────────────────────

SITE = Path(sysconfig.get_paths()["purelib"])
KNOWN_PTH = (r"__editable__\.muxx[\w.-]*\.pth", r"a1_coverage\.pth", r"distutils-precedence\.pth")
"""Our own editable install; coverage measures child processes through one; setuptools brings its distutils."""


def test_K01_no_pth_file_runs_code_but_for_those_we_know() -> None:
    found = [path.name for path in SITE.glob("*.pth")]
    assert [name for name in found if not any(re.fullmatch(known, name) for known in KNOWN_PTH)] == []


def test_K01_everything_is_installed_from_the_lock_by_its_hash() -> None:
    installs = re.findall(r"^\t@?\$\(PIP\) install (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert installs
    for options in installs:
        from_the_lock = "--require-hashes -r requirements" in options
        ourselves = {"--no-deps", "--no-build-isolation", "--no-index"} <= set(options.split())
        assert from_the_lock or ourselves, options
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith(("#", "set", "cd"))]
    assert commands == ["make lint", "make test"], "a change is judged in what make has installed"


IMPORT_ALL = """
import importlib, pkgutil, sys
connected = []
def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request", "subprocess.Popen"):
        connected.append((event, repr(arguments)))
sys.addaudithook(heard)
for package in ("muxx", "muxx_std"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith("muxx")]), connected)
"""


def test_K01_importing_everything_opens_no_connection(tmp_path: Path) -> None:
    """The interpreter tells of each connection, and where there is strace, so does the kernel of the system."""
    command = [sys.executable, "-c", IMPORT_ALL]
    trace = tmp_path / "trace"
    if shutil.which("strace"):
        command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace), *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if "ptrace" in done.stderr.lower():  # not allowed here; the interpreter's word has to do
        done = subprocess.run(
            command[-3:], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    count, _, connected = done.stdout.strip().partition(" ")
    assert int(count) > 80
    assert connected == "[]"
    outward = [line for line in (trace.read_text().splitlines() if trace.exists() else []) if "AF_INET" in line]
    assert outward == []


# ── K02: what reads every request ───────────────────────────────────────────────────────────────────────────────────────────

RUN_AS_OLD = "import aiohttp, runpy; aiohttp.__version__ = '3.14.4'; runpy.run_module('muxx', run_name='__main__')"


@pytest.mark.parametrize(
    ("how", "environment", "words"),
    [(["-m", "muxx"], {"AIOHTTP_NO_EXTENSIONS": "1"}, "C parser"), (["-c", RUN_AS_OLD], {}, "3.14.5 or newer")],
)
def test_K02_without_a_strict_parser_nothing_is_started(
    how: list[str], environment: dict[str, str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "muxx.toml").write_text("server = {port = 0}\n")
    command = [sys.executable, *how, "serve", "--config", str(tmp_path / "muxx.toml")]
    done = subprocess.run(
        command, env=clean_environment() | environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["muxx.toml"]


def test_K02_the_oldest_parser_is_that_of_the_metadata() -> None:
    wanted = ".".join(map(str, OLDEST_AIOHTTP))
    assert f"aiohttp>={wanted}," in (ROOT / "setup.cfg").read_text()


# ── K03: dangerous calls, and which plugins are loaded ──────────────────────────────────────────────────────────────────────


def test_K03_bandits_rules_are_part_of_lint_and_let_go_only_by_name() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if re.match(r"S\d", rule)} == {"S101", "S104", "S110", "S112"}
    assert {files for files, rules in lint["per-file-ignores"].items() if "S" in rules} == {"tests/**", "muxx/testing/**"}
    for path in SOURCES:
        for line in path.read_text().splitlines():
            assert not re.search(r"#\s*(noqa(?!: )|nosec|ruff: noqa)", line), f"{path.name}: name the rule that is let go"


class Loud:
    @hookimpl
    def pre_request(self) -> None: ...


async def loaded(gateway: RunningGateway) -> set[str]:
    return set(gateway.gateway.plugins.by_name)


async def test_K03_code_that_merely_lies_about_is_no_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a module beside the file, nor one on the path, nor an entry point of another group is loaded or even imported."""
    for directory in (tmp_path, tmp_path / "plugins", tmp_path / "muxx_plugins"):
        directory.mkdir(exist_ok=True)
        for name in ("evil.py", "muxx_evil.py", "sitecustomize_evil.py"):
            (directory / name).write_text("raise SystemExit('imported')\n")
    metadata = tmp_path / "evil-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[muxx.plugins]\nevil = evil:Evil\n[Muxx]\nevil = evil:Evil\n[pytest11_]\nevil = evil\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    async with serving(directory=tmp_path, plugins={"loud": Loud}) as gateway:
        assert (await gateway.chat()).status == 200
        names = await loaded(gateway)
    assert "loud" in names
    assert names >= STANDARD
    assert "evil" not in names
    assert not {"evil", "muxx_evil"} & sys.modules.keys()


async def test_K03_enabled_false_and_only_leave_a_plugin_out() -> None:
    plugins = {"loud": Loud, "quiet": Loud}
    async with serving(config={"plugins": {"loud": {"enabled": False}}}, plugins=plugins) as gateway:
        names = await loaded(gateway)
        assert "loud" not in names
        assert "quiet" in names
    async with serving(config={"plugins": {"only": ["keys", "logs", "quiet"]}}, plugins=plugins) as gateway:
        assert await loaded(gateway) == {"keys", "logs", "quiet"}
        assert (await gateway.chat()).status == 200


@pytest.mark.parametrize("name", ["X-Muxx-Plugin", "X-Muxx-Plugins", "X-Muxx-Config"])
async def test_K03_no_request_loads_a_plugin(name: str) -> None:
    async with serving() as gateway:
        before = await loaded(gateway)
        response = await gateway.chat(headers={name: "evil"}, plugins=["evil"], callbacks=["evil:Evil"])
        assert response.status == 200
        assert await loaded(gateway) == before
