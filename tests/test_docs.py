"""The pages say what is so: every block in them runs, and what they list is what there is."""

from __future__ import annotations

import asyncio
import configparser
import hashlib
import hmac
import inspect
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner
from docs_kit import GUIDE, PAGES, ROOT, TUTORIAL, Block, Clone, blocks, forking

from muxx import hookspecs
from muxx.cli import cli
from muxx.configfile import load_config
from muxx.discovery import config_classes, discover
from muxx.testing import RunningGateway, Said, ScriptedUpstream, clean_environment, eventually
from muxx.testing.installing import installed
from muxx.testing.speaking import plain, streamed
from muxx_std.logs.present import FIELDS

README = ROOT / "README.md"
SHELL_PAGES = [page for page in PAGES if blocks("bash", page=page)]
LANGUAGES = {"bash", "python", "toml", "json", "ini", "text"}


def name_of(value: Any) -> str:
    return value.place if isinstance(value, Block) else str(value.relative_to(ROOT))


# ── the commands ──


@pytest.fixture(scope="module")
def forks() -> Iterator[Path]:
    with forking() as socket:
        yield socket


@pytest.fixture
def clone(tmp_path: Path, forks: Path) -> Clone:
    return Clone(tmp_path, forks)


def served_by_make() -> str:
    """What the README's first command comes to, once everything is installed."""
    first = blocks("bash", page=README)[0].text.strip()
    assert first == "make serve"
    plan = subprocess.run(
        ["make", "--no-print-directory", "-n", "serve"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return plan.strip().splitlines()[-1]


def outside_the_tutorial(*languages: str, page: Path | None = None) -> list[Block]:
    """The tutorial's blocks build on one another: tests/test_tutorial.py runs them."""
    return [block for block in blocks(*languages, page=page) if block.section != TUTORIAL]


def script_of(page: Path) -> str:
    """The page's commands as one script, for what one block exports the next one uses. Python blocks run where they stand."""
    languages = ("bash", "python") if page == README else ("bash",)
    lines = []
    for block in outside_the_tutorial(*languages, page=page):
        body = block.text if block.language == "bash" else f"python - <<'BLOCK'\n{block.text}BLOCK\n"
        lines.append(f"echo '── {block.place}' >&2\n{body}")
    return "\n".join(lines)


def run_page(page: Path, clone: Clone) -> str:
    """What the page's commands print; beside a gateway that the README's first command started, where they talk to one."""
    script = script_of(page)
    with clone.serving(served_by_make()) if ":8080" in script else nullcontext():
        done = clone.run(script)
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("page", [page for page in SHELL_PAGES if page != README], ids=name_of)
def test_the_commands_of_a_page_run_as_they_stand(page: Path, clone: Clone) -> None:
    run_page(page, clone)


def test_the_start_in_60_seconds_runs_as_it_stands_and_shows_what_it_promises(clone: Clone) -> None:
    shown = run_page(README, clone)
    plain, streamed = shown.index('"object":"chat.completion"'), shown.index('"object":"chat.completion.chunk"')
    comment, done, said = shown.index(": muxx {"), shown.index("data: [DONE]"), shown.rindex("Hello!\nHello!" + "Hello!\nHello!\n")
    assert plain < streamed < comment < done < said
    assert "genai-prices" in shown


def test_the_first_start_prints_one_key_and_a_line_that_works(clone: Clone) -> None:
    with clone.serving(served_by_make()) as out:
        printed = out.read_text()
        keys = set(re.findall(r"muxx_sk_\w+", printed))
        line = re.search(r"^ +(curl .*)$", printed, re.M)
        assert len(keys) == 1
        assert line is not None
        assert "Hello!" in clone.run(line[1]).stdout
    with clone.serving(served_by_make()) as out:
        assert out.read_text() == ""


def test_files_that_a_start_leaves_are_ignored_by_git(clone: Clone, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    rules = (ROOT / ".gitignore").read_text().splitlines()
    with clone.serving(served_by_make()):
        made = {path.name for path in set(tmp_path.iterdir()) - before if path.suffix != ".log"}
    assert "muxx.db.journal" in made
    for name in made:
        assert any(Path(name).match(rule.rstrip("/")) for rule in rules), name


def test_a_block_names_its_language() -> None:
    for block in blocks():
        assert block.language in LANGUAGES, block.place


# ── the plugins' guide ──


def test_the_guide_holds_exactly_the_hooks_with_their_signatures() -> None:
    shown = re.findall(r"^### `(\w+\(.*)`$", GUIDE.read_text(), re.M)
    declared = [
        hook + str(inspect.signature(getattr(hookspecs, hook))).replace("'", "") for hook in hookspecs.HOOK_NAMES
    ]
    assert shown == declared


def test_the_guide_says_of_every_hook_when_it_runs_what_it_returns_and_what_a_crash_does() -> None:
    _, *sections = re.split(r"^### ", GUIDE.read_text(), flags=re.M)
    for section in sections:
        for word in ("**When**", "**Arguments**", "**Returns**", "**A crash**", "```python"):
            assert word in section, section.splitlines()[0]


@pytest.mark.parametrize("block", [b for b in outside_the_tutorial("python") if b.page != README], ids=name_of)
def test_a_python_block_runs(block: Block) -> None:
    block.run()


def example(name: str) -> type:
    """A plugin class of the guide."""
    for block in outside_the_tutorial("python", page=GUIDE):
        if re.search(rf"^class {name}\b", block.text, re.M):
            cls = getattr(block.run(), name)
            assert isinstance(cls, type)
            return cls
    raise AssertionError(f"the guide has no {name}")


async def greeter(gateway: RunningGateway) -> None:
    assert (await gateway.chat()).header("x-greeting") == "Good morning"


async def badge(gateway: RunningGateway) -> None:
    gateway.key = ""
    visitor = {"X-Badge": "0042"}
    assert (await gateway.chat(headers=visitor)).status == 200
    assert (await gateway.chat(headers=visitor, model="claude-3-5-haiku")).status == 403
    assert (await gateway.chat()).status == 401


async def masker(gateway: RunningGateway) -> None:
    answer = await gateway.chat("I am ada@example.org")
    assert "I am [e-mail]" in answer.text
    assert (await gateway.get_row(answer.request_id))["attributes"] == {"masked": True}
    assert (await gateway.chat(headers={"X-Muxx-User-Id": "nobody"})).error["code"] == "user_refused"
    for stream in (False, True):
        assert "It is noon." in (await gateway.chat(model="house/time", stream=stream)).text


async def stamp(gateway: RunningGateway) -> None:
    row = await gateway.get_row((await gateway.chat()).request_id)
    assert row["input"]["seed"] == 7


async def signs(gateway: RunningGateway) -> None:
    """It signs for one provider, not for the mock: a second gateway, which finds the plugin as the first one does, has that."""
    async with ScriptedUpstream() as upstream:
        config = {"providers": {"bank": {"base_url": upstream.base_url, "api_key": "none"}}}
        async with RunningGateway(config, upstream=upstream) as signing:
            assert (await signing.chat(model="bank/teller")).status == 200
        seal = hmac.new(b"a-secret-of-ours", upstream.last.body, hashlib.sha256).hexdigest()
        assert upstream.last.header("authorization") == f"HMAC-SHA256 {seal}"


async def shout(gateway: RunningGateway) -> None:
    assert "HELLO" in (await gateway.chat("Hello")).text
    streamed = await gateway.chat("Hello", stream=True)
    assert "HELLO" in streamed.text
    assert streamed.done


async def addressless(gateway: RunningGateway) -> None:
    assert "write to [e-mail]" in (await gateway.chat("write to ann@example.org")).text
    streamed = await gateway.chat("write to ann@example.org", stream=True)
    assert "ann" not in streamed.text
    assert streamed.done


async def motto(gateway: RunningGateway) -> None:
    first = await gateway.chat("Motto?", model="gpt-4o")
    again = await gateway.chat("Motto?", model="gpt-4o-mini", stream=True)
    assert "Motto?" in first.text
    assert (again.header("x-muxx-cache"), again.header("age")) == ("HIT", "0")
    assert {item["model"] for item in again.events} == {"gpt-4o"}
    assert (await gateway.get_row(again.request_id))["cost_usd"] == "0"


async def flat_price(gateway: RunningGateway) -> None:
    row = await gateway.get_row((await gateway.chat()).request_id)
    assert row["price_version"] == "flat-1"


def instance(gateway: RunningGateway, name: str) -> Any:
    return gateway.gateway.plugins.by_name[name].instance


async def counter(gateway: RunningGateway) -> None:
    await gateway.chat()
    await eventually(lambda: instance(gateway, "Counter").tokens > 0)


async def users(gateway: RunningGateway) -> None:
    answer = await gateway.chat(headers={"X-Muxx-User-Id": "ada"})
    async with asyncio.timeout(5):
        while not (rows := await gateway.gateway.db.read_logs("SELECT user_id, request_id FROM users_requests")):
            await asyncio.sleep(0.01)
    assert [tuple(row) for row in rows] == [("ada", answer.request_id)]


async def ship(_: RunningGateway) -> None:
    taken: list[str] = []
    answers = iter([500, 200])

    async def take(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer of-the-service"
        status = next(answers, 200)
        if status == 200:
            taken.extend(row["request_id"] for row in await request.json())
        return web.Response(status=status)

    service = web.Application()
    service.router.add_post("/rows", take)
    async with TestServer(service) as server:
        settings = {"url": str(server.make_url("/rows")), "token": "of-the-service"}
        async with RunningGateway({"plugins": {"Ship": settings}}, mock=True) as gateway:
            asked = [(await gateway.chat()).request_id for _ in range(3)]
            await eventually(lambda: taken == asked)


async def beacon(gateway: RunningGateway) -> None:
    assert (await gateway.chat()).status == 200


async def office(gateway: RunningGateway) -> None:
    assert gateway.gateway.providers["office"].base_url == "http://models.office.example/v1"


async def lines(_: RunningGateway) -> None:
    said = Said("Line by line.")

    async def answer(request: web.Request) -> web.Response:
        stream = (await request.json()).get("stream")
        body = b"".join(streamed("chat", said, "one", usage=True)) if stream else plain("chat", said, "one")
        return web.Response(body=body.replace(b"data: ", b"").replace(b"\n\n", b"\n"))

    service = web.Application()
    service.router.add_post("/v1/chat/completions", answer)
    async with TestServer(service) as server:
        settings = {"url": str(server.make_url("/v1"))}
        async with RunningGateway({"plugins": {"Lines": settings}}) as gateway:
            for endpoint in ("chat", "messages"):
                for stream in (False, True):
                    asked = await gateway.ask(endpoint, model="lines/one", stream=stream)
                    assert asked.said(endpoint).text == "Line by line."


async def short(_: RunningGateway) -> None:
    rules = {"rules": {"longest": 10}, "projects": {"default": {"longest": 300}}}
    async with RunningGateway({"plugins": {"Short": rules}}, mock=True) as gateway:
        assert (await gateway.chat("Hello")).status == 200
        assert (await gateway.chat("Hello" * 100)).error["code"] == "too_long"


async def whoami(gateway: RunningGateway) -> None:
    assert (await gateway.get("/v1/whoami")).json() == {"project": "default", "shouted": False}
    assert (await gateway.get("/v1/whoami?loud=true")).json() == {"project": "DEFAULT", "shouted": True}
    assert (await gateway.get("/v1/whoami?louder=true")).error["param"] == "louder"
    assert (await gateway.get("/v1/openapi.json")).json()["paths"]["/v1/whoami"]["get"]["summary"] == "Say whose key it is"


async def stopwatch(gateway: RunningGateway) -> None:
    assert (await gateway.chat()).status == 200


async def tokens(gateway: RunningGateway) -> None:
    assert await instance(gateway, "Tokens").first_key(gateway.gateway.host) == "a-token-made-now"


CHECKS: dict[str, Callable[[RunningGateway], Awaitable[None]]] = {
    "Tokens": tokens, "Greeter": greeter, "Badge": badge, "Masker": masker, "Stamp": stamp, "Signs": signs, "Shout": shout, "FlatPrice": flat_price, "Addressless": addressless, "Motto": motto,
    "Counter": counter, "Users": users, "Ship": ship, "Beacon": beacon, "Office": office, "Lines": lines, "Short": short, "Whoami": whoami, "Stopwatch": stopwatch,
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
async def test_an_example_plugin_does_what_it_is_shown_for(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with RunningGateway(plugins={name: example(name)}, mock=True) as gateway:
        await CHECKS[name](gateway)
    assert "failed" not in caplog.text


def test_every_example_plugin_is_checked() -> None:
    classes = {name for block in outside_the_tutorial("python", page=GUIDE) for name in re.findall(r"^class (\w+)", block.text, re.M)}
    tested_in_their_blocks = {"Curfew", "Exclaim", "Loud", "Stamped", "TestStamped", "Told", "TestTold", "Forgetful"}
    parts_of_others = {"Caller", "How", "Rules", "LineAnswer", "LineTransport"}
    assert classes == CHECKS.keys() | tested_in_their_blocks | parts_of_others | {"Port"}, "Port has a test of its own"


def test_the_example_command_prints_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with installed({"port": example("Port")}, tmp_path):
        assert CliRunner().invoke(cli, ["port"]).output == "8080\n"


def test_the_example_entry_point_names_an_example_plugin() -> None:
    [block] = blocks("ini", page=GUIDE)
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    entry = re.fullmatch(r"greeter = muxx_greeter:(\w+)", parser["options.entry_points"]["muxx"].strip())
    assert entry is not None
    assert example(entry[1])


# ── the configuration ──


def is_muxxs_own(block: Block) -> bool:
    """Codex has files in TOML, too: tests/e2e/test_agents.py reads them."""
    return "`~/.codex/config.toml`" not in block.introduced


@pytest.mark.parametrize("block", [block for block in blocks("toml") if is_muxxs_own(block)], ids=name_of)
def test_an_example_configuration_is_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "STATE_DIRECTORY", "OPENAI_API_KEY", "FAR_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "muxx.toml"
    path.write_text(block.text)
    load_config(path, config_classes(discover()))


def test_the_shipped_configuration_passes_its_own_check(clone: Clone) -> None:
    done = clone.run("muxx config check --config config.example.toml")
    assert done.stdout.endswith("config.example.toml: ok\n"), done.stderr


def test_every_environment_variable_is_documented() -> None:
    sources = [path for folder in ("muxx", "plugins") for path in (ROOT / folder).rglob("*.py") if "testing" not in path.parts]
    read = {name for path in sources for name in re.findall(r"[\"'](MUXX_[A-Z_]+)[\"']", path.read_text())}
    shown = set(re.findall(r"^\| `(MUXX_\w+)`", (ROOT / "docs/configuration.md").read_text(), re.M))
    assert read == shown


# ── what the pages name ──


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_links_to_what_exists(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose(page)):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_commands_that_exist(page: Path) -> None:
    for code in inline_code(page):
        if code.startswith("muxx "):
            assert is_command(code.split()[1:]), code


def is_command(words: list[str]) -> bool:
    """Whether these words, up to the first that is no plain word, lead through the command line."""
    command: click.Command = cli
    for word in words:
        if not re.fullmatch(r"[a-z]+", word) or not isinstance(command, click.Group):
            return True
        found = command.get_command(click.Context(command), word)
        if found is None:
            return False
        command = found
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_make_targets_that_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for code in inline_code(page):
        if code.startswith("make "):
            assert code.split()[1] in targets, code


def test_every_field_of_a_row_is_explained() -> None:
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/logs.md").read_text(), re.M)
    explained = [name for row in table for name in re.findall(r"`(\w+)`", row)]
    assert [name for name in FIELDS if explained.count(name) == 0] == []


async def test_a_row_has_exactly_the_fields_that_are_explained() -> None:
    async with RunningGateway(mock=True) as gateway:
        row = await gateway.get_row((await gateway.chat()).request_id)
    assert tuple(row) == FIELDS


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    declared = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.M)[0].split())
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in shown.stdout.splitlines()} == declared


def test_the_schema_is_printed_as_json(clone: Clone) -> None:
    assert orjson.loads(clone.run("muxx config schema").stdout)["title"] == "muxx.toml"
