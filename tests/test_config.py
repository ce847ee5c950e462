"""What a configuration file may say, what is said about one that is wrong, and what never leaves it."""

from __future__ import annotations

import pickle
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from tls_kit import self_signed

from muxx.checking import load_checked
from muxx.config import Config, ModelConfig, PluginConfig, ProviderConfig, TargetConfig
from muxx.configfile import ConfigError, load_config
from muxx.discovery import Found, config_classes
from muxx.explain import MASK, json_schema, layers
from muxx.processes import usable_cores
from muxx.testing import RunningGateway
from muxx_std.alerts import Alerts
from muxx_std.cache import Cache
from muxx_std.keys import Keys
from muxx_std.limits import RateLimits
from muxx_std.logs import Logs
from muxx_std.metrics import Metrics
from muxx_std.mock import Mock
from muxx_std.otel import Traces
from muxx_std.pricing import Pricing
from muxx_std.spend_caps import SpendCaps

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
STANDARD = config_classes(
    [
        Found(name, cls, "muxx", "0")
        for name, cls in (
            ("alerts", Alerts), ("cache", Cache), ("keys", Keys), ("limits", RateLimits), ("logs", Logs),
            ("metrics", Metrics), ("mock", Mock), ("otel", Traces), ("pricing", Pricing), ("spend_caps", SpendCaps),
        )
    ]
)

Load = Callable[..., Config]


class DemoConfig(PluginConfig):
    url: str
    token: SecretStr | None = None
    limit: int = 3
    paths: tuple[Path, ...] = ()

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError(f"{value} is not https")
        return value


DEMO: dict[str, type[PluginConfig]] = {"demo": DemoConfig, "keys": PluginConfig}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the text given as a file's."""

    def from_text(text: str, plugins: dict[str, type[PluginConfig]] | None = None) -> Config:
        file = tmp_path / "muxx.toml"
        file.write_text(text)
        return load_config(file, plugins)

    return from_text


def errors(load: Load, text: str, plugins: dict[str, type[PluginConfig]] | None = None) -> list[str]:
    """The lines about a bad file, without the file's name, which every one must carry."""
    with pytest.raises(ConfigError) as raised:
        load(text, plugins)
    assert raised.value.exit_code == 2
    lines = str(raised.value).splitlines()
    assert lines == raised.value.errors
    files = {line.partition("muxx.toml: ")[0] for line in lines}
    assert len(files) == 1
    return [line.partition("muxx.toml: ")[2] for line in lines]


# ── the example and the defaults ──


def uncommented(text: str) -> str:
    """The example with the lines switched on that show an option without a default, or in another way."""
    return re.sub(r"^# (?=\w+ = |\[|\]|    )", "", text, flags=re.M).replace("prices = []  ", "# ")


def test_every_value_of_the_example_is_the_default() -> None:
    shown, default = load_config(EXAMPLE, STANDARD), load_config(None, STANDARD)
    for section in ("server", "project", "providers", "models"):
        assert getattr(shown, section) == getattr(default, section)
    assert shown.database.durability == default.database.durability
    assert shown.database.path.name == default.database.path.name
    assert shown.plugin_settings == default.plugin_settings
    assert (shown.plugins.only, shown.plugins.order) == (default.plugins.only, default.plugins.order)


def options(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def test_the_example_shows_every_option_with_a_reason() -> None:
    text = EXAMPLE.read_text()
    config = Config()
    plain = [type(config.server), type(config.database), type(config.project), type(config.plugins), PluginConfig]
    models: list[type[BaseModel]] = [*plain, ProviderConfig, ModelConfig, *STANDARD.values()]
    for name in set().union(*map(options, models)):
        assert re.search(rf"^(# )?{name} = .* # +\S", text, re.M), f"{name} is not explained"
    for name in options(TargetConfig):
        assert re.search(rf"[{{,] {name} = ", text), f"{name} is not shown"


def test_the_example_with_every_option_switched_on_is_valid(tmp_path: Path) -> None:
    self_signed(tmp_path / "ca.pem")
    text = uncommented(EXAMPLE.read_text()).replace("${file:/run/secrets/muxx}", "sesame")
    (tmp_path / "muxx.toml").write_text(text)
    config = load_config(tmp_path / "muxx.toml", STANDARD)
    assert config.server.secret is not None
    assert config.models[0].targets[0] == TargetConfig(target="openai/gpt-4o-mini")
    assert config.models[0].targets[1].parameters == {"temperature": 0}
    assert config.providers["openai"].ca_file == tmp_path / "ca.pem"


def test_auto_is_a_worker_for_each_core(load: Load) -> None:
    assert load('[server]\nworkers = "auto"').server.workers == usable_cores()


def test_the_defaults_of_the_contract_hold() -> None:
    server = load_config(None).server
    assert (server.host, server.port, server.workers) == ("127.0.0.1", 8080, 1)
    assert (server.head_timeout_s, server.body_idle_timeout_s, server.body_timeout_s) == (10, 30, 60)
    assert (server.max_body_bytes, server.max_headers, server.max_header_bytes) == (10 * 2**20, 128, 8190)
    assert (server.connect_timeout_s, server.first_byte_timeout_s, server.first_token_timeout_s) == (5, 120, 300)
    assert (server.between_events_timeout_s, server.request_timeout_s, server.keepalive_timeout_s) == (60, 600, 75)
    assert (server.max_event_bytes, server.json_max_depth, server.json_max_tokens) == (16 * 2**20, 64, 200_000)


# ── what is read ──


def test_paths_are_relative_to_the_file(load: Load, tmp_path: Path) -> None:
    self_signed(tmp_path / "ca.pem")
    config = load('[database]\npath = "data/x.db"\n[providers.openai]\nca_file = "ca.pem"')
    assert config.database.path == tmp_path / "data/x.db"
    assert config.providers["openai"].ca_file == tmp_path / "ca.pem"
    assert load("").database.path == tmp_path / "muxx.db"
    assert config.path == tmp_path / "muxx.toml"


def test_a_path_holds_no_nul(load: Load) -> None:
    assert errors(load, '[database]\npath = "a\\u0000b"') == ["database.path: may not hold a NUL character"]


def test_without_a_file_the_database_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None).database.path == tmp_path / "muxx.db"
    assert load_config(None).path is None


def test_values_are_frozen_and_survive_pickling(load: Load) -> None:
    config = load("[server]\nport = 1\n[plugins.keys]\non_error = 'ignore'", DEMO | {"demo": PluginConfig})
    with pytest.raises(ValidationError):
        config.server.port = 2  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert copy.path == config.path
    assert copy.plugins.tables == {"keys": {"on_error": "ignore"}}


def test_plugin_tables_are_read_by_the_plugins_own_class(load: Load) -> None:
    config = load("[plugins.demo]\nurl = 'https://x'\npaths = ['/a']", DEMO)
    settings = config.plugin_settings["demo"]
    assert isinstance(settings, DemoConfig)
    assert settings.paths == (Path("/a"),)
    assert config.plugin_settings["keys"] == PluginConfig()


def test_a_plugin_that_is_off_may_leave_out_what_it_requires(load: Load) -> None:
    assert "demo" not in load("[plugins.demo]\nenabled = false", DEMO).plugin_settings
    assert "demo" not in load("[plugins]\nonly = ['keys']", DEMO).plugin_settings
    assert errors(load, "", DEMO) == ["plugins.demo.url: is required"]
    assert "plugins.demo.limit: must be a whole number" in errors(load, "[plugins.demo]\nenabled = false\nlimit = 'x'", DEMO)


def test_settings_of_a_plugin_left_out_on_purpose_may_stay(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUXX_LOAD_PLUGINS", "")
    load("[plugins]\norder = ['other']\n[plugins.other]\na = 1", {"keys": PluginConfig})


# ── substitution ──


def test_substitutions_are_filled_in_once(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "${B}$$")
    (tmp_path / "key").write_text("from-file\r\n")
    config = load(
        '[server]\nhost = "${A}"\n[providers.a]\napi_key = "x-${file:key}-${NONE_SET:-d$ef}"\n'
        '[providers.b]\napi_key = "$$x$y${E:-}"'
    )
    assert config.server.host == "${B}$$"
    keys = [config.providers[name].api_key for name in "ab"]
    assert [key.get_secret_value() for key in keys if key] == ["x-from-file-d$ef", "$x$y"]


def test_a_substituted_text_may_be_a_number_or_a_boolean(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "12")
    monkeypatch.setenv("F", "0.5")
    text = (
        '[server]\nport = "${N}"\nstream_cost_comment = "${B:-false}"\nhead_timeout_s = "${F}"\n'
        '[plugins.demo]\nurl = "https://x"\nlimit = "${N}"\ntimeout_s = "${F}"'
    )
    config = load(text, DEMO)
    assert (config.server.port, config.server.stream_cost_comment, config.server.head_timeout_s) == (12, False, 0.5)
    assert config.plugins.tables["demo"] == {"url": "https://x", "limit": 12, "timeout_s": 0.5}


def test_a_key_whose_substitution_is_empty_counts_as_left_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    config = load('[server]\nport = "${EMPTY}"\nsecret = "${EMPTY:-}"\n[providers.openai]\napi_key = "${EMPTY}"')
    assert (config.server.port, config.server.secret) == (8080, None)
    assert config.providers["openai"].model_fields_set == set()


def test_a_failed_substitution_names_key_and_variable_and_no_value(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESENT", "canary-value")
    (tmp_path / "long").write_bytes(b"canary" * 20_000)
    (tmp_path / "binary").write_bytes(b"canary\xff")
    text = """
    [server]
    host = "${PRESENT}${MISSING_ONE}${MISSING_TWO}"
    secret = "${file:missing}"
    [providers.a]
    api_key = "${file:long}"
    [providers.b]
    api_key = "${file:binary}"
    [providers.c]
    api_key = "${sk-canary"
    [providers.d]
    api_key = "${PRESENT:-${sk_canary:-canary}}"
    """
    found = errors(load, text)
    assert found == [
        "server.host: the environment variable MISSING_ONE is not set",
        "server.host: the environment variable MISSING_TWO is not set",
        'server.secret: the file "missing" cannot be read: No such file or directory',
        'providers.a.api_key: the file "long" is longer than 64 KiB',
        'providers.b.api_key: the file "binary" is not UTF-8 text',
        "providers.c.api_key: has a '${' that is none of ${NAME}, ${NAME:-default}, ${file:/path}; $$ is a dollar sign",
        "providers.d.api_key: the default of PRESENT holds another '${'; only one substitution is made",
    ]


def test_keys_are_never_filled_in_and_nothing_is_evaluated(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "host")
    assert errors(load, '[server]\n"${A}" = "x"') == ['server."${A}": unknown key']
    assert load('[server]\nhost = "{{7*7}}$(id)`id`%(A)s"').server.host == "{{7*7}}$(id)`id`%(A)s"


# ── what is wrong ──

BAD = """
top = 1
[server]
port = 70000
prot = 1
workers = "many"
stream_cost_comment = 1
head_timeout_s = nan
body_timeout_s = -1
max_headers = 99999999999999999999
json_max_depth = 2026-01-01
[database]
durability = "powr"
[providers.openai]
api_key = "canary key"
base_url = "https://canary:pw@host/v1"
base_ulr = "canary"
request_headers = ["X-Fine", "Authorization", "X-Muxx-User-Id", "a b"]
proxy = "socks5://canary"
[providers."a b"]
format = "soap"
[[models]]
name = "a*"
targets = ["gpt-4o", {target = "openai/x", wieght = 2}, 7]
[[models]]
targets = []
[project]
budget = { enabled = true }
[plugins]
onyl = ["keys"]
order = ["kyes"]
[plugins.dmeo]
[plugins.keys]
enabeld = true
[plugins.demo]
url = "http://canary"
"""

COMPLAINTS = {
    "top: unknown key",
    "server.port: must be less than or equal to 65535",
    "server.prot: unknown key (did you mean 'port'?)",
    'server.workers: must be a whole number or "auto"',
    "server.stream_cost_comment: must be true or false",
    "server.head_timeout_s: must be a finite number",
    "server.body_timeout_s: must be greater than 0",
    "server.max_headers: must be less than or equal to 9007199254740992",
    "server.json_max_depth: must be a whole number",
    "database.durability: must be 'crash' or 'power' (did you mean 'power'?)",
    "providers.openai.api_key: may hold printable ASCII without spaces only, for it is sent in a header",
    "providers.openai.base_url: may not hold a user, a query or a fragment; put the key into api_key",
    "providers.openai.base_ulr: unknown key (did you mean 'base_url'?)",
    "providers.openai.request_headers[1]: is a header that muxx never passes on",
    "providers.openai.request_headers[2]: is a header that muxx never passes on",
    "providers.openai.request_headers[3]: must be a header's name",
    "providers.openai.proxy: must be an http:// or https:// URL with a host",
    "providers.\"a b\": a name may hold letters, digits, '.', '_' and '-' only",
    "providers.\"a b\".format: must be 'openai', 'anthropic' or 'gemini'",
    "models[0].targets[0].target: must be PROVIDER/MODEL, as in 'openai/gpt-4o'",
    "models[0].targets[1].wieght: unknown key (did you mean 'weight'?)",
    "models[0].targets[2]: must be a table",
    "models[1].name: is required",
    "models[1].targets: must have at least 1 item, not 0",
    "project.budget: unknown key",
    "plugins.onyl: unknown key: only a table may have a name of its own here (did you mean 'only'?)",
    "plugins.order[0]: no plugin of this name is installed (did you mean 'keys'?)",
    "plugins.dmeo: no plugin of this name is installed (did you mean 'demo'?)",
    "plugins.keys.enabeld: unknown key (did you mean 'enabled'?)",
    "plugins.demo.url: … is not https",
}


def test_every_error_is_reported_at_once_with_its_key_and_the_nearest_name(load: Load) -> None:
    found = errors(load, BAD, DEMO)
    assert set(found) == COMPLAINTS
    assert len(found) == len(COMPLAINTS)


@pytest.mark.parametrize("written", ["1hour", "an hour", "-5", "1.5h", "${MUXX_LENGTH}"])
def test_a_length_that_cannot_be_read_is_told_how_it_is_written(load: Load, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("MUXX_LENGTH", "soon")
    [error] = errors(load, f"[project]\ncache = {{ ttl = {written!r} }}")
    assert error.endswith('project.cache.ttl: must be seconds, or a length such as "90s", "15m", "1h" or "7d"')
    monkeypatch.setenv("MUXX_LENGTH", "3600")
    assert load("[project]\ncache = { ttl = '${MUXX_LENGTH}' }").project.cache.ttl == 3600


def test_no_error_repeats_a_value(load: Load) -> None:
    assert not any("canary" in line for line in errors(load, BAD, DEMO))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[models]]\nname='a'\ntargets=['x/a']\n" * 2, "models: entries 0 and 1 have the same name"),
        ("[[models]]\nname='a'\ntargets=['x/*']", "models[0]: a name may hold one *, its targets at most as many as the name"),
        ("[providers.x]\nca_file='nowhere.pem'", "providers.x.ca_file: there is no such file"),
        ("[providers.x]\nca_file='muxx.toml'", "providers.x.ca_file: holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----"),
        ("[providers.x]\nbase_url='https://[::1'", "providers.x.base_url: must be an http:// or https:// URL with a host"),
        ("[providers.x]\nbase_url='https://h:0'", "providers.x.base_url: must be an http:// or https:// URL with a host"),
        ("[providers.x]\nbase_url='https://h:port'", "providers.x.base_url: must be an http:// or https:// URL with a host"),
        ("server = 3", "server: must be a table"),
        ("models = {}", "models: must be an array"),
        ("plugins = 3", "plugins: must be a table"),
        ("[plugins]\nonly = 'keys'", "plugins.only: must be an array"),
        ("[server]\nhost = ''", "server.host: must have at least 1 character"),
        ("[project]\nspend_caps = [{ usd = '1e-13' }]", "project.spend_caps[0].usd: must have no more than 12 decimal places"),
        ("a.b = 1\n[server]\n\"x\\ny\" = 1", 'server."x\\ny": unknown key'),
    ],
)
def test_each_mistake_has_one_plain_line(load: Load, text: str, complaint: str) -> None:
    assert complaint in errors(load, text, {"keys": PluginConfig})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[server]\nport = sk-canary", "is not valid TOML"),
        (b"host = '\xff'", "is not UTF-8 text, at byte 8"),
        (b"a = " + b"9" * 5000, "is not valid TOML"),
        (b"a = " + b"[" * 5000, "is nested too deeply"),
        (b".".join([b"a"] * 5000) + b" = 1", "is nested too deeply"),
    ],
)
def test_a_file_that_is_no_toml_gives_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "muxx.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_config(file, DEMO)
    (line,) = raised.value.errors
    assert line.startswith(f"{file}: {complaint}")
    assert "canary" not in line


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "muxx.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 81\r\n")
    assert load_config(file).server.port == 81


def test_a_file_that_cannot_be_read_gives_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(ConfigError) as raised:
            load_config(path)
        (line,) = raised.value.errors
        assert line.startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize("path", [None, Path("muxx.toml")])
def test_a_file_in_a_working_directory_that_has_been_deleted_gives_one_line(
    path: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is read for: where a reload meets that, the old configuration stays."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError) as raised:
        load_checked(path, None)
    (line,) = raised.value.errors
    assert line.startswith(f"{path or 'built-in defaults'}: cannot be found: the working directory has been deleted. Change to")


def test_a_file_behind_a_loop_of_links_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "a" / "muxx.toml")
    assert len(raised.value.errors) == 1


MUTANTS: list[Any] = ["canary-text", -1, 0, 2**70, 1e308, float("inf"), True, [], ["canary-text"], {}, {"canary": 1}, ""]


@pytest.mark.parametrize("seed", range(100))
def test_a_mutated_file_is_read_or_refused_in_lines_and_never_crashes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value anywhere is replaced; the outcome is a Config or a ConfigError whose lines all name a key."""
    draw = random.Random(seed)
    data: dict[str, Any] = tomllib.loads(uncommented(EXAMPLE.read_text()))
    place: Any = data
    while True:
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.2:
            break
        place = place[key]
    place[key] = draw.choice(MUTANTS)
    monkeypatch.setattr("muxx.tomlfile.tomllib.loads", lambda _: data)
    for line in complaints(EXAMPLE):
        assert re.match(rf"{re.escape(str(EXAMPLE))}: \w[^ ]*: \S", line)
        assert "canary-text" not in line


def complaints(path: Path) -> list[str]:
    try:
        load_config(path, STANDARD)
    except ConfigError as error:
        return error.errors
    return []


# ── explain and schema ──


def explained(config: Config) -> dict[str, tuple[Any, str]]:
    return {row.key: (row.value, row.layer) for row in layers(config)}


def test_explain_names_the_layer_of_every_value(load: Load) -> None:
    text = "[server]\nport = 9\n[[models]]\nname = 'a'\ntargets = ['openai/x']\n[plugins.demo]\nurl = 'https://x'"
    rows = explained(load(text, DEMO))
    assert rows["server.port"] == (9, "file")
    assert rows["server.host"] == ("127.0.0.1", "built in")
    assert rows["server.secret"] == (None, "built in")
    assert rows["database.durability"] == ("crash", "built in")
    assert rows["models[0].targets[0].target"] == ("openai/x", "file")
    assert rows["models[0].retries"] == (0, "built in")
    assert rows["plugins.demo.url"] == ("https://x", "file")
    assert rows["plugins.keys.enabled"] == (True, "built in")


def test_explain_and_repr_show_no_secret(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "canary")
    (tmp_path / "key").write_text("canary")
    text = """
    [server]
    host = "${CANARY}.internal"
    secret = "canary"
    port = "${PORT_OF_CANARY:-77}"
    [providers.openai]
    base_url = "https://host/${file:key}"
    api_key = "canary"
    proxy = "http://user:canary@proxy:1"
    [[models]]
    name = "m"
    targets = ["x/${CANARY}", {target = "x/y", parameters = {user = "${CANARY}", list = ["${CANARY}"]}}]
    [plugins.demo]
    url = "https://${CANARY}"
    token = "canary"
    """
    for plugins in (DEMO, None):
        config = load(text, plugins)
        rows = explained(config)
        assert "canary" not in str(rows)
        assert rows["server.host"] == ("${CANARY}.internal", "file")
        assert rows["server.port"] == (77, "file")
        assert rows["providers.openai.api_key"] == (MASK, "file")
        assert rows["models[0].targets[0].target"] == ("x/${CANARY}", "file")
        assert rows["models[0].targets[1].parameters.list"] == (["${CANARY}"], "file")
        assert rows["plugins.demo.token"] == (MASK, "file")
        provider = config.providers["openai"].model_copy(update={"base_url": None})
        assert "canary" not in repr((config.server.secret, provider, config.plugins))


def test_the_schema_knows_every_option_and_every_plugin() -> None:
    schema = json_schema(STANDARD | DEMO)
    definitions = schema["$defs"]
    assert schema["additionalProperties"] is False
    assert set(definitions["ServerConfig"]["properties"]) == options(type(Config().server))
    assert "description" in definitions["ServerConfig"]["properties"]["port"]
    plugins = definitions["PluginsConfig"]["properties"]
    assert {"only", "order", *STANDARD, "demo"} == set(plugins)
    assert "url" in definitions[plugins["demo"]["$ref"].rpartition("/")[2]]["properties"]
    assert [len(kind) > 0 for kind in definitions["ModelConfig"]["properties"]["targets"]["items"]["anyOf"]] == [True, True]


class Inner(BaseModel):
    deep: int = 1
    """Two levels down."""


class Base(PluginConfig):
    plain: int = 1
    """The base's text."""
    said: str = Field("", description="What the field says.")
    """What stands under it."""


class Derived(Base):
    inner: tuple[Inner, ...] = ()
    plain: int = 2
    """The derived
    class's text."""


def test_an_options_description_is_the_text_under_it() -> None:
    definitions = json_schema({"derived": Derived, "made": type("Made", (Base,), {})})["$defs"]
    properties = definitions["Derived"]["properties"]
    assert properties["plain"]["description"] == "The derived\nclass's text."
    assert properties["said"]["description"] == "What the field says."
    assert properties["enabled"]["description"] == "false switches the plugin off."
    assert "description" not in properties["inner"]
    assert definitions["Inner"]["properties"]["deep"]["description"] == "Two levels down."
    assert definitions["Made"]["properties"]["plain"]["description"] == "The base's text.", "its own class has no source"


# ── what settings of plugins say of the rest ──


class PortConfig(PluginConfig):
    lowest: int = 1024

    def problems_in(self, config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if config.server.port < self.lowest:
            yield ("server", "port"), "is too low for this plugin"


def test_a_plugins_settings_may_find_fault_with_the_rest_of_the_file(load: Load) -> None:
    text = "[server]\nport = 80\n"
    assert errors(load, text + "prot = 1\n", {"port": PortConfig}) == ["server.prot: unknown key (did you mean 'port'?)"]
    assert errors(load, text, {"port": PortConfig}) == ["server.port: is too low for this plugin"]
    assert load(text + "[plugins.port]\nlowest = 80\n", {"port": PortConfig}).server.port == 80
    for off in ("[plugins.port]\nenabled = false\n", "[plugins]\nonly = []\n"):
        assert load(text + off, {"port": PortConfig}).server.port == 80


class AliasedConfig(PluginConfig):
    from_: str = Field("nobody", alias="from")
    """Who it comes from."""


def test_an_option_that_python_cannot_spell_is_shown_by_its_name(load: Load) -> None:
    config = load('[plugins.mail]\nfrom = "ann"\n', {"mail": AliasedConfig})
    assert ("plugins.mail.from", "ann", "file") in [tuple(row) for row in layers(config)]
    assert errors(load, '[plugins.mail]\nform = "ann"\n', {"mail": AliasedConfig}) == [
        "plugins.mail.form: unknown key (did you mean 'from'?)"
    ]
    properties = json_schema({"mail": AliasedConfig})["$defs"]["AliasedConfig"]["properties"]
    assert properties["from"]["description"] == "Who it comes from."


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[providers.x]\nbase_url='http://x'\nprices='opnai'", ["providers.x.prices: there is no price list of this name (did you mean 'openai'?)"]),
        ("[providers.x]\nbase_url='http://x'\nprices='none'", []),
        ("[providers.x]\nbase_url='http://x'\nprices='ours'\n[plugins.pricing]\nprices=[{vendor='ours', model='*', input='1', output='1'}]", []),
    ],
)  # fmt: skip
def test_a_price_list_that_nobody_has_is_an_error_of_the_file(load: Load, text: str, complaint: list[str]) -> None:
    if complaint:
        assert errors(load, text, {"pricing": Pricing.Config}) == complaint
    else:
        load(text, {"pricing": Pricing.Config})


# ── what a reload leaves as it is ──


async def test_a_reload_says_what_waits_for_the_next_start_by_what_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with RunningGateway({"server": {"workers": 1}}, directory=tmp_path) as gateway:
        assert gateway._running is not None
        path = tmp_path / "muxx.toml"
        began = path.read_text()
        for text, told in ((began.replace('"workers" = 1', '"workers" = 2'), 1), (None, 2), (began, 2)):
            if text is not None:
                path.write_text(text)
            assert await gateway._running.worker.reload()
            assert caplog.messages.count("[server] workers takes effect at the next start") == told
