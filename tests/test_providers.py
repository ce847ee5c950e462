"""The providers' rows, what a file lays over them, and the commands that show and try them."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result
from tls_kit import self_signed

from muxx import health
from muxx.cli import cli
from muxx.config import Config
from muxx.errors import StartError
from muxx.providers import BUILT_IN, not_usable, provider_rows
from muxx.targets import FORMATS, Provider
from muxx.testing import RunningGateway, ScriptedUpstream, clean_environment
from muxx.testing import error as refusal
from muxx.testing import json as answer
from muxx.testing.settings import write_config
from muxx.unreachable import EXPIRED, _untrusted, why_unreachable

Run = Callable[..., Result]
SECRET = "sk-canary-7f3a"


@pytest.fixture(autouse=True)
def _nothing_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in BUILT_IN:
        for name in (row.api_key_env, *row.other_key_envs, row.address_env):
            if name is not None:
                monkeypatch.delenv(name, raising=False)


def rows(**providers: Any) -> dict[str, Provider]:
    return provider_rows(Config.model_validate({"providers": providers}), {})


# ── rows ──


def test_every_built_in_row_says_where_its_key_is_and_what_it_answers() -> None:
    assert len({row.name for row in BUILT_IN}) == len(BUILT_IN)
    for row in BUILT_IN:
        assert set(row.endpoints) <= set(FORMATS[row.format].endpoints)
        local = row.base_url.startswith("http://127.0.0.1")
        assert (row.api_key_env is None) == local
        assert local or row.address_env or re.fullmatch(r"https://[^/]+(/.*[^/])?", row.base_url)


def test_a_key_in_its_usual_variable_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows()["google"].missing == "GEMINI_API_KEY"
    monkeypatch.setenv("GOOGLE_API_KEY", "g")
    google = rows()["google"]
    assert (google.missing, google.keys, google.auth_header, google.auth_scheme) == (None, ("g",), "x-goog-api-key", "")
    monkeypatch.setenv("GEMINI_API_KEY", "first")
    assert rows()["google"].keys == ("first",)


def test_keys_of_the_file_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "environment")
    assert rows(openai={"api_keys": ["a", "", "b", "a"]})["openai"].keys == ("a", "b")
    assert rows(openai={"api_key": "x", "api_keys": ["a"]})["openai"].keys == ("x", "a")
    assert rows()["openai"].keys == ("environment",)


@pytest.mark.parametrize(
    "endpoint", ["https://me.openai.azure.com", "https://me.openai.azure.com/", "https://me.openai.azure.com/openai/v1/"]
)
def test_an_azure_resource_is_found_by_its_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    azure = rows()["azure"]
    assert azure.missing == "AZURE_OPENAI_ENDPOINT"
    assert "AZURE_OPENAI_ENDPOINT" in not_usable(azure)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint)
    azure = rows()["azure"]
    assert (azure.missing, azure.base_url) == (None, "https://me.openai.azure.com/openai/v1")
    assert (azure.auth_header, azure.auth_scheme) == ("api-key", "")


@pytest.mark.parametrize("format", FORMATS)
def test_a_new_row_takes_its_header_and_endpoints_from_its_format(format: str) -> None:
    row = rows(mine={"base_url": "http://mine.test/v1", "format": format})["mine"]
    defaults = FORMATS[format]
    assert (row.endpoints, row.auth_header, row.auth_scheme) == (defaults.endpoints, defaults.auth_header, defaults.auth_scheme)
    assert rows(mine={"base_url": "http://mine.test/v1", "auth_header": "X-Key"})["mine"].auth_header == "x-key"


def test_another_format_or_address_takes_what_belongs_to_it_along() -> None:
    google = rows(google={"format": "openai", "base_url": "http://mine.test/v1"})["google"]
    assert (google.endpoints, google.auth_header, google.openai_url) == (FORMATS["openai"].endpoints, "authorization", None)
    moved = rows(google={"base_url": "http://mine.test/v1beta"})["google"]
    assert (moved.format, moved.openai_url) == ("gemini", None), "its key must not go to Google's address"


def test_no_key_is_in_what_a_row_prints() -> None:
    assert SECRET not in repr(rows(openai={"api_key": SECRET, "api_keys": [SECRET + "2"]}))


def test_a_new_name_needs_an_address() -> None:
    with pytest.raises(StartError, match=r"providers\.mine: .* needs a base_url"):
        rows(mine={"api_key": "k"})


# ── the commands ──


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command beside a configuration file."""

    def invoke(*arguments: str, config: Any = None, **environment: str) -> Result:
        path = write_config(tmp_path, config or {})
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(cli, [*arguments, "--config", str(path)], env=clean_environment() | environment)

    monkeypatch.chdir(tmp_path)
    return invoke


def test_the_list_says_where_each_key_comes_from_and_shows_none(run: Run) -> None:
    config = {"providers": {"mine": {"base_url": "http://m.test", "api_key": SECRET}, "openai": {"api_keys": [SECRET, "b"]}}}
    listed = run("providers", "list", "--json", config=config, GROQ_API_KEY=SECRET)
    assert SECRET not in listed.output
    found = {row["name"]: row for row in json.loads(listed.stdout)}
    assert [found[name]["key"] for name in ("mine", "openai", "groq", "mistral", "ollama")] == [
        "file", "file (2 keys)", "$GROQ_API_KEY", "missing: set MISTRAL_API_KEY", None,
    ]  # fmt: skip
    assert [found[name]["usable"] for name in ("mine", "groq", "mistral", "azure", "ollama")] == [True, True, False, False, True]
    shown = run("providers", config=config)
    assert SECRET not in shown.output
    assert "$AZURE_OPENAI_ENDPOINT/openai/v1" in shown.stdout


async def probed(run: Run, script: Any, *arguments: str, **provider: Any) -> tuple[Result, ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        upstream.script(script)
        config = {"providers": {"mine": {"base_url": upstream.base_url, "api_key": SECRET, **provider}}}
        result = await asyncio.to_thread(lambda: run("providers", "test", *arguments, config=config))
        return result, upstream


@pytest.mark.parametrize("format", FORMATS)
async def test_a_test_asks_for_the_list_of_models_with_the_key(run: Run, format: str) -> None:
    result, upstream = await probed(run, answer({"data": []}), "--json", format=format)
    assert result.exit_code == 0
    [probe] = json.loads(result.stdout)
    assert (probe["name"], probe["ok"], probe["status"], probe["advice"]) == ("mine", True, 200, None)
    assert (upstream.last.method, upstream.last.target) == ("GET", "/v1/models")
    assert (upstream.last.header(FORMATS[format].auth_header) or "").endswith(SECRET)
    assert "mine: ok" in result.stderr


@pytest.mark.parametrize(
    ("format", "path"),
    [("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages"), ("gemini", "/v1/models/m:generateContent")],
)
async def test_a_test_of_a_model_asks_it_for_one_token(run: Run, format: str, path: str) -> None:
    result, upstream = await probed(run, answer({}), "mine", "--model", "m", format=format)
    assert (result.exit_code, upstream.last.target) == (0, path)
    assert re.search(rb'"(max_tokens|maxOutputTokens)": ?1\b', upstream.last.body)


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "refuses the key"), (404, "no list of models"), (429, "over its limit"), (500, "fails")]
)
async def test_a_test_that_fails_says_what_to_do(run: Run, status: int, advice: str) -> None:
    result, _ = await probed(run, refusal(status, f"bad {SECRET}"))
    assert result.exit_code == 1
    assert advice in result.stdout
    assert SECRET not in result.output


@asynccontextmanager
async def behind_tls(folder: Path, name: str, days: int) -> AsyncIterator[tuple[int, Path]]:
    """The port of a server that speaks TLS, with a certificate of its own for this host name or address."""
    made = await asyncio.to_thread(self_signed, folder / "made.pem", name, days)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], made


@pytest.mark.parametrize(
    ("name", "trusted", "advice"),
    [
        ("IP:127.0.0.1", False, "its certificate is not trusted. Let ca_file name the authority"),
        ("DNS:other.example", True, "its certificate is another host's. Let base_url name the host"),
    ],
)
async def test_a_test_says_what_is_wrong_with_a_certificate(
    run: Run, tmp_path: Path, name: str, trusted: bool, advice: str
) -> None:
    async with behind_tls(tmp_path, name, 2) as (port, certificate):
        row = {"base_url": f"https://127.0.0.1:{port}/v1", "api_key": SECRET} | ({"ca_file": str(certificate)} if trusted else {})
        result = await asyncio.to_thread(lambda: run("providers", "test", "--json", config={"providers": {"mine": row}}))
    assert advice in json.loads(result.stdout)[0]["advice"]


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"base_url": "http://127.0.0.1:1/v1", "proxy": "http://127.0.0.1:1"}, "its proxy is not there. Check proxy"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "it is not running, or at another address"),
    ],
)
def test_a_test_says_who_cannot_be_reached(run: Run, row: dict[str, str], advice: str) -> None:
    result = run("providers", "test", "--json", config={"providers": {"mine": {"api_key": SECRET, **row}}})
    assert advice in json.loads(result.stdout)[0]["advice"]


async def plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that speaks no TLS."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_a_test_says_that_no_tls_is_spoken_there(run: Run) -> None:
    async with await asyncio.start_server(plainly, "127.0.0.1", 0) as server:
        row = {"base_url": f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "api_key": SECRET}
        result = await asyncio.to_thread(lambda: run("providers", "test", "--json", config={"providers": {"mine": row}}))
    assert "it speaks no TLS there" in json.loads(result.stdout)[0]["advice"]


UNREACHABLE = {
    "it is not running, or at another address": {"base_url": "http://127.0.0.1:1/v1"},
    "nobody knows its host's name. Check base_url": {"base_url": "http://nowhere.invalid/v1"},
    "its certificate is not trusted. Let ca_file": {"base_url": "https://127.0.0.1:{port}/v1"},
    "it speaks no TLS there": {"base_url": "https://127.0.0.1:{plain}/v1"},
}


@pytest.mark.parametrize("transport", ["lean", "aiohttp"])
@pytest.mark.parametrize(("why", "row"), UNREACHABLE.items())
async def test_the_log_says_once_in_an_outage_why_a_provider_cannot_be_reached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, transport: str, why: str, row: dict[str, str]
) -> None:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "muxx" and record.levelname == "WARNING"]

    async with behind_tls(tmp_path, "IP:127.0.0.1", 2) as (port, _), await asyncio.start_server(plainly, "127.0.0.1", 0) as plain:
        address = row["base_url"].format(port=port, plain=plain.sockets[0].getsockname()[1])
        config = {
            "server": {"transport": transport},
            "providers": {"mine": {"format": "openai", "api_key": SECRET, "base_url": address}},
            "models": [{"name": "mine", "targets": ["mine/m"]}],
        }
        async with RunningGateway(config) as gateway:
            codes = [(await gateway.chat(model="mine")).error["code"] for _ in range(2)]
            assert codes == ["upstream_unreachable"] * 2
            [line] = told()
            assert line.startswith(f"provider mine: Cannot be reached: {why}")
            monkeypatch.setattr(health, "OUTAGE_SECONDS", 0.0)
            await gateway.chat(model="mine")
            assert told() == [line] * 3  # the one replay fails as well
    assert SECRET not in caplog.text


async def test_the_log_says_that_a_proxy_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        address = f"http://user:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        row = {"format": "openai", "api_key": "k", "base_url": "https://127.0.0.1:1/v1", "proxy": address}
        config = {"providers": {"mine": row}, "models": [{"name": "mine", "targets": ["mine/m"]}]}
        async with RunningGateway(config) as gateway:
            assert (await gateway.chat(model="mine")).status == 502
    assert "provider mine: Cannot be reached: its proxy refuses with 407. Check proxy" in caplog.text
    assert SECRET not in caplog.text


def test_a_name_that_nobody_knows_is_told_from_a_server_that_is_away() -> None:
    error = aiohttp.ClientConnectorDNSError(None, OSError())  # type: ignore[arg-type]
    assert "nobody knows its host's name. Check base_url" in why_unreachable(Provider("p", "http://nowhere.invalid/v1"), error)


def test_an_expired_certificate_is_told_from_one_that_nobody_trusts() -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code = EXPIRED
    assert "has expired" in _untrusted(error)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("ollma",), "Near to it: ollama"), (("groq",), "GROQ_API_KEY"), ((), "No provider has a key")],
)
def test_a_test_of_nobody_fails_in_a_sentence(run: Run, arguments: tuple[str, ...], told: str) -> None:
    result = run("providers", "test", *arguments)
    assert result.exit_code == 1
    assert told in result.output


MODELS = {
    "models": [
        {"name": "fast", "targets": [{"target": "groq/a", "weight": 1}, {"target": "openai/b", "weight": 3}], "retries": 2},
        {"name": "team-*", "targets": ["openai/*"]},
    ]
}


def test_the_models_that_can_be_asked_for_are_listed(run: Run) -> None:
    listed = json.loads(run("models", "--json", config=MODELS, OPENAI_API_KEY="k").stdout)
    assert listed[0] == {
        "name": "fast", "targets": ["groq/a", "openai/b"], "strategy": "weighted", "rule": "the name in the file", "usable": True,
    }  # fmt: skip
    names = [row["name"] for row in listed]
    assert {"team-*", "gpt-4o", "mock"} <= set(names)
    assert "claude-3-5-haiku" not in names


def test_a_name_is_explained(run: Run) -> None:
    found = json.loads(run("models", "explain", "fast", "--json", config=MODELS, OPENAI_API_KEY="k").stdout)
    assert (found["rule"], found["matched"], found["strategy"]) == ("the name in the file", "fast", "weighted")
    first, second = found["targets"]
    assert (first["target"], first["weight"], first["skipped"]) == ("groq/a", 1, "no key: set GROQ_API_KEY")
    assert (second["target"], second["retries"], second["key"], second["skipped"]) == ("openai/b", 2, "$OPENAI_API_KEY", None)
    assert second["endpoints"]["chat"] == "native"
    assert first["endpoints"]["embeddings"] == "no"
    shown = run("models", "explain", "team-x", config=MODELS).stdout
    assert "team-x: a pattern in the file (team-*), strategy ordered" in shown
    assert "openai/x" in shown


def test_a_name_is_explained_for_a_key(run: Run) -> None:
    made = json.loads(run("keys", "create", "--models", "openai/*", "--json", config=MODELS).stdout)
    explained = run("models", "explain", "fast", "--key", made["id"], "--json", config=MODELS)
    assert [target["skipped"] for target in json.loads(explained.stdout)["targets"]] == [
        "not allowed for this key", "no key: set OPENAI_API_KEY",
    ]  # fmt: skip
    run("keys", "revoke", made["id"], config=MODELS)
    gone = run("models", "explain", "fast", "--key", made["id"], config=MODELS)
    assert (gone.exit_code, "no working key" in gone.output) == (1, True)


def test_a_name_nobody_serves_fails_with_those_near_to_it(run: Run) -> None:
    result = run("models", "explain", "fst", config=MODELS)
    assert result.exit_code == 1
    assert "There is no model 'fst'. Near to it: fast" in result.output
