"""`make compat` without its clients: who is tried, what counts as right, what the scripted provider refuses, what the table says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from compat import report, run, trial
from compat.catalogue import CASES, CLIENTS, MODELS, NODE, PYTHON, Client, Face
from compat.clients import kit
from compat.environments import CannotInstall, Environments, client_environment
from compat.provider import Providers
from compat.schemas import EXPECTED, value_of
from compat.trial import Outcome, Row, Target, tried

from muxx.testing import PROVIDER_KEY, RawResponse, post_chat

SCRIPTS = Path(kit.__file__).parent
PROMISED = {
    PYTHON: {
        "openai", "anthropic", "google-genai", "langchain-openai", "langchain-anthropic", "llama-index-llms-openai-like", "litellm",
        "pydantic-ai-slim", "instructor",
    },
    NODE: {"openai", "@anthropic-ai/sdk", "@google/genai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"},
}  # fmt: skip
FACE = Face("a client", "chat", "/v1/chat/completions", ("a-package",))
CLIENT = Client("a-client", PYTHON, "script.py", ("a-package",), (FACE,))
MODEL = "gpt-4o"


def faces() -> list[tuple[Client, Face]]:
    return [(client, face) for client in CLIENTS for face in client.faces]


def outcomes(*, without: tuple[str, str] | None = None, bad: tuple[str, str] | None = None) -> list[Outcome]:
    every = [(format, case) for format in MODELS for case in CASES]
    return [Outcome(format, case, (format, case) != bad, "seen") for format, case in every if (format, case) != without]


# ── who is tried ──


def test_every_promised_client_is_tried() -> None:
    tried = {
        language: {package for client, face in faces() if client.language == language for package in face.packages}
        for language in PROMISED
    }
    for language, packages in PROMISED.items():
        assert packages <= tried[language]


def test_a_client_shows_the_versions_of_packages_it_installs() -> None:
    for client, face in faces():
        assert set(face.packages) <= {re.sub(r"\[.*", "", package) for package in client.packages}


@pytest.mark.parametrize(("client", "face"), faces(), ids=lambda value: getattr(value, "name", None) or value.argument)
def test_a_script_has_the_endpoints_of_its_client(client: Client, face: Face) -> None:
    [last] = re.findall(r"^(?:await )?main\(\{(.*)\}\)", (SCRIPTS / client.script).read_text(), re.M | re.S)
    assert re.search(rf"\b{face.argument}\b", last)


def test_the_page_has_a_row_of_every_client_at_every_endpoint() -> None:
    page = report.DOCS.read_text()
    for client, face in faces():
        row = rf"^\| {re.escape(face.title)} \| [\d., ]+ \| {re.escape(client.language)} \| `{re.escape(face.path)}` \| .+ \| .+ \| .+ \|.*\|$"
        assert re.search(row, page, re.M), f"{client.name} {face.path}"


# ── what counts as right ──


class Right(kit.Face):
    """A client that works, as the kit's judge sees it."""

    def plain(self, model: str, prompt: str) -> kit.Answer:
        if model.endswith("-missing") or model == EXPECTED["unknown_model"]:
            raise NotFoundError
        if self.key == EXPECTED["wrong_key"]:
            raise AuthenticationError
        return kit.Answer(EXPECTED["sentence"], EXPECTED["input_tokens"], EXPECTED["output_tokens"])

    def stream(self, model: str, prompt: str) -> kit.Stream:
        if prompt == EXPECTED["prompts"]["broken"]:
            raise RuntimeError(f"The provider {EXPECTED['broken']}.")
        return kit.Stream([EXPECTED["sentence"][:5], EXPECTED["sentence"][5:]])

    def tools(self, model: str, prompt: str) -> kit.Tools:
        return kit.Tools("weather", {"city": "Köln"}, EXPECTED["tool_result"])

    def schema(self, model: str, prompt: str) -> list[Any]:
        return [{"place": "Köln", "days": 7}]

    def abort(self, model: str, prompt: str) -> str:
        return "Good "


class NotFoundError(Exception): ...


class AuthenticationError(Exception): ...


def judged(face: kit.Face, case: str) -> bool:
    return bool(kit._outcome(face, case, MODEL)["ok"])


def test_a_client_that_works_passes_every_case() -> None:
    assert all(judged(Right("key"), case) for case in CASES)


@pytest.mark.parametrize(
    ("case", "method", "answer"),
    [
        ("plain", "plain", kit.Answer("Good evening")),
        ("plain", "plain", kit.Answer(EXPECTED["sentence"], 12, 7)),
        ("plain", "plain", kit.Answer(EXPECTED["sentence"], 11, 0)),
        ("stream", "stream", kit.Stream([EXPECTED["sentence"]])),
        ("stream", "stream", kit.Stream([EXPECTED["sentence"], ""])),
        ("stream", "stream", kit.Stream(["Good ", "evening"])),
        ("tools", "tools", kit.Tools("weather", '{"city": "Köln"}', EXPECTED["tool_result"])),
        ("tools", "tools", kit.Tools("weather", {"city": "Koln"}, EXPECTED["tool_result"])),
        ("tools", "tools", kit.Tools("weather", {"city": "Köln"}, "It rains.")),
        ("schema", "schema", [{"place": "Köln", "days": 7}, {"place": "Köln", "days": "7"}]),
        ("error", "plain", kit.Answer(EXPECTED["sentence"])),
        ("broken", "stream", kit.Stream(["Good "])),
        ("abort", "abort", "evening"),
    ],
)
def test_a_client_that_sees_something_else_fails(case: str, method: str, answer: Any) -> None:
    face = type("Wrong", (Right,), {method: lambda self, model, prompt: answer})("key")
    assert not judged(face, case)


def test_an_error_of_another_class_fails() -> None:
    def plain(self: Any, model: str, prompt: str) -> None:
        raise AuthenticationError

    assert not judged(type("Wrong", (Right,), {"plain": plain})("key"), "error")


class Scripts:
    """Environments in which every client's script is this Python code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def command(self, client: Client, argument: str) -> list[str]:
        return [sys.executable, "-c", self.code, argument]

    def version(self, client: Client, package: str) -> str:
        return "1.0"


async def row_of(code: str) -> Row:
    async with Providers() as providers:
        scripts: Any = Scripts(code)
        return await tried(CLIENT, FACE, scripts, Target(providers.url, PROVIDER_KEY, providers, direct=True))


async def test_an_abort_whose_request_nobody_has_seen_fails() -> None:
    saw = {"nonce": "abc", "piece": "Good "}
    line = {"format": "openai", "case": "abort", "ok": True, "saw": saw, "seconds": 0.1}
    row = await row_of(f"print('chatter'); print({json.dumps(line)!r}, flush=True); input()")
    assert [(outcome.case, outcome.ok, outcome.saw) for outcome in row.outcomes] == [
        ("abort", False, "the request never reached the provider")
    ]
    assert row.failure == ""


STREAM = f"""
import json, os, sys, urllib.request
body = {{"model": "gpt-4o", "stream": True, "messages": [{{"role": "user", "content": "abort abc"}}]}}
headers = {{"Authorization": "Bearer {PROVIDER_KEY}", "Content-Type": "application/json"}}
url = os.environ["COMPAT_URL"] + "/v1/chat/completions"
answer = urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))
answer.readline()
LEAVE
saw = {{"nonce": "abc", "piece": "Good "}}
print(json.dumps({{"format": "openai", "case": "abort", "ok": True, "saw": saw, "seconds": 0.1}}), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("leave", "ok"), [("answer.close()", True), ("", False)])
async def test_an_abort_is_right_once_the_client_has_closed_its_connection(
    leave: str, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "LEFT_SECONDS", 5.0 if ok else 0.1)
    [outcome] = (await row_of(STREAM.replace("LEAVE", leave))).outcomes
    assert outcome.ok is ok, outcome.saw


async def test_a_script_that_crashes_is_a_failure_with_its_last_words() -> None:
    row = await row_of("raise SystemExit('no such module')")
    assert row.failure == "exit code 1: no such module"
    assert report.cell(row, "openai") == "did not run"


async def test_a_client_that_cannot_be_installed_is_told_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    class Nowhere(Environments):
        async def ready(self, client: Client, say: Any) -> None:
            raise CannotInstall("no such version")

    async with Providers() as providers:
        where = Target(providers.url, PROVIDER_KEY, providers, direct=True)
        [row] = await run._rows(CLIENT, Nowhere(), where)
    assert "no such version" in capsys.readouterr().err
    assert report.failures([row]) == ["a-client /v1/chat/completions: cannot be installed: no such version"]


async def test_an_environment_is_made_once_and_anew_when_it_has_to_be(tmp_path: Path) -> None:
    made: list[tuple[str, ...]] = []

    async def install(directory: Path, packages: tuple[str, ...]) -> None:
        assert list(directory.iterdir()) == []
        made.append(packages)

    for packages, fresh in ((("a",), False), (("a",), False), (("a", "b"), False), (("a", "b"), True)):
        await Environments(fresh=fresh, cache=tmp_path)._made("name", packages, install, lambda text: None)
    assert made == [("a",), ("a", "b"), ("a", "b")]


async def test_an_installation_that_was_broken_off_is_made_again(tmp_path: Path) -> None:
    async def breaks(directory: Path, packages: tuple[str, ...]) -> None:
        raise CannotInstall("no network")

    for _ in range(2):
        with pytest.raises(CannotInstall):
            await Environments(cache=tmp_path)._made("name", ("a",), breaks, lambda text: None)


def test_a_client_sees_nothing_in_its_environment_that_leads_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN", "HTTPS_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "elsewhere")
    assert "elsewhere" not in client_environment({"COMPAT_URL": "here"}).values()


# ── the scripted provider ──


async def asked(body: dict[str, Any], key: str = PROVIDER_KEY) -> RawResponse:
    async with Providers() as providers:
        return await post_chat(providers.url, key, **body)


async def test_a_prompt_is_answered_by_its_rules() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": kit_schema({"city": "string"})}}
    form = {"type": "json_schema", "json_schema": {"name": "stay", "schema": kit_schema({"days": "integer"})}}

    async def message(**body: Any) -> dict[str, Any]:
        answer = await asked(body)
        found: dict[str, Any] = answer.json()["choices"][0]["message"]
        return found

    assert (await message(content="Hello"))["content"] == EXPECTED["sentence"]
    assert (await message(content="Hello", tools=[tool]))["content"] == EXPECTED["sentence"]
    assert (await message(content="Hello", response_format=form))["content"] == '{"days": 7}'
    for body in ({"content": "Use the tool"}, {"content": "Hello", "tool_choice": "required"}):
        [call] = (await message(tools=[tool], **body))["tool_calls"]
        assert orjson.loads(call["function"]["arguments"]) == {"city": "Köln"}


def kit_schema(members: dict[str, str], **more: Any) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in members.items()}
    return {"type": "object", "properties": properties, **more}


STRICT = {"name": "weather", "strict": True}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "gpt-missing"}, 404),
        ({"model": "claude-sonnet-4-5"}, 404),
        ({"max_output_tokens": 5}, 400),
        ({"tools": [{"type": "function", "function": STRICT | {"parameters": kit_schema({"city": "string"})}}]}, 400),
        ({"tools": [{"type": "function", "function": {"name": "weather", "parameters": kit_schema({"city": "STRING"})}}]}, 400),
        ({"messages": [{"role": "tool", "tool_call_id": "call_9", "content": "sunny"}]}, 400),
    ],
)
async def test_the_provider_refuses_what_its_vendor_would(body: dict[str, Any], status: int) -> None:
    assert (await asked(body)).status == status


async def test_the_provider_takes_no_key_but_its_own() -> None:
    for key in ("sk-another", EXPECTED["wrong_key"]):
        assert (await asked({}, key)).status == 401


def test_a_value_fits_its_schema_in_either_vocabulary() -> None:
    inner = {"type": "OBJECT", "properties": {"days": {"type": "INTEGER"}, "kind": {"enum": ["a", "b"]}}}
    schema = {
        "$defs": {"Inner": inner},
        "type": "object",
        "properties": {
            "inner": {"$ref": "#/$defs/Inner"},
            "list": {"type": "array", "items": {"type": ["string", "null"]}},
            "maybe": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        },
    }
    assert value_of(schema, schema) == {"inner": {"days": 7, "kind": "a"}, "list": ["Köln"], "maybe": True}


# ── the table ──


def test_ok_means_that_every_case_ran_and_was_right() -> None:
    def cell(**how: Any) -> str:
        return report.cell(Row(CLIENT, FACE, "1.0", outcomes=outcomes(**how)), "anthropic")

    assert cell() == "ok"
    assert cell(bad=("anthropic", "schema")) == "failed: structured output"
    assert cell(without=("anthropic", "abort")) == "failed: abort"
    assert cell(bad=("google", "tools")) == "ok"


def test_whatever_went_wrong_or_never_ran_is_told() -> None:
    row = Row(CLIENT, FACE, "1.0", outcomes=outcomes(bad=("google", "tools"), without=("openai", "plain")))
    assert report.failures([row]) == [
        "a-client /v1/chat/completions, google, tools: seen",
        "a-client /v1/chat/completions: never ran: openai plain",
    ]
    assert report.failures([Row(CLIENT, FACE, "1.0", outcomes=outcomes())]) == []


def test_only_what_stands_between_the_markers_is_written_anew() -> None:
    text = f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n"
    row = Row(CLIENT, FACE, "1.0", outcomes=outcomes())
    page = report.page(text, [row])
    assert page.startswith("Before.\n")
    assert page.endswith("\nAfter.\n")
    assert "old" not in page
    assert "| a client | 1.0 | Python | `/v1/chat/completions` | ok | ok | ok |  |\n" in page
    assert report.page(page, [row]) == page


def test_the_command_knows_its_clients_and_writes_no_half_a_table() -> None:
    def command(*arguments: str) -> str:
        line = [sys.executable, "-m", "tests.compat", *arguments]
        done = subprocess.run(line, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr

    assert "langchain-openai" in command("no-such-client")
    assert "every client" in command("openai", "--write-docs")
