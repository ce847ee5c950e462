"""The configuration as frozen typed values. What a file may say, the models here and the plugins' `Config` classes declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from .configtypes import (
    ApiKey,
    AuthHeader,
    BaseUrl,
    CaFile,
    Count,
    DatabasePath,
    EndpointName,
    FallBackKind,
    HeaderName,
    ModelName,
    Name,
    ProxyUrl,
    ResponseHeaderName,
    Seconds,
    Status,
    TargetName,
    TimeToLive,
    Usd,
    Workers,
)
from .tomlfile import Loc

MIB = 1024 * 1024


def _distinct_names(models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
    first: dict[str, int] = {}
    for number, model in enumerate(models):
        if first.setdefault(model.name, number) != number:
            raise ValueError(f"entries {first[model.name]} and {number} have the same name")
    return models


def _target_table(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


# ── the sections ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Section(BaseModel):
    """A table of the file: frozen, no key beyond the declared ones, and errors that do not quote the input.

    The text under an option is its description in the JSON Schema; `muxx.explain` reads it, for only the schema shows it.
    """

    # What checks it is built when it is first needed: most are only ever parts of another one.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, defer_build=True)


class PluginConfig(Section):
    """Base of a plugin's own `Config`; these three keys mean the same for every plugin."""

    enabled: bool = True
    """false switches the plugin off."""
    timeout_s: Seconds | None = None
    """How long this plugin may take in one hook of one request; unset: as long as its whole chain may."""
    on_error: Literal["refuse", "ignore"] = "refuse"
    """What a crash in a request hook does: refuse the request, or go on without this plugin."""

    def problems_in(self, config: Config) -> Iterable[tuple[Loc, str]]:
        """What is wrong with the rest of the configuration, as these settings know it: where it stands, and what. Also asked
        before a project's own settings change, of the configuration with those in the place of `[project]`."""
        return ()


class ServerConfig(Section):
    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; the default is reachable from this machine only."""
    port: int = Field(8080, ge=0, le=65535)
    """Port to listen on; 0 takes any free one."""
    workers: Workers = 1
    """Processes that serve requests; "auto" is one per core, which is the most that helps."""
    secret: SecretStr | None = None
    """What key hashes are derived from; MUXX_SECRET goes before it, and without either a file beside the database holds one."""
    stream_cost_comment: bool = True
    """Put the cost of a streamed answer into one SSE comment before its end."""
    transport: Literal["auto", "lean", "aiohttp"] = "auto"
    """How providers are called: aiohttp knows proxies and private CAs, lean is faster, auto picks per provider."""

    head_timeout_s: Seconds = 10
    """For the head of a request, so that slow senders hold no connection."""
    body_idle_timeout_s: Seconds = 30
    """Longest pause within a request body."""
    body_timeout_s: Seconds = 60
    """For a whole request body, however steadily it drips."""
    max_body_bytes: Count = 10 * MIB
    """Largest request body; images in base64 need room."""
    max_bodies_bytes: Count = 512 * MIB
    """Most of all request bodies a worker holds at a time, each while its call runs: 503 beyond it. A body takes about twice its
    size of memory."""
    max_headers: Count = 128
    """Most header lines of a request."""
    max_header_bytes: Count = 8190
    """Longest header line of a request."""
    keepalive_timeout_s: Seconds = 75
    """How long an idle client connection is kept; longer than the usual load balancer's 60 s."""
    write_stall_timeout_s: Seconds = 30
    """How long a client may stop reading its answer before the request is ended."""

    connect_timeout_s: Seconds = 5
    """For a connection to a provider."""
    first_byte_timeout_s: Seconds = 120
    """For the head of a provider's answer; reasoning models think before it."""
    first_token_timeout_s: Seconds = 300
    """From there until the model says something in a stream; pings do not count."""
    between_events_timeout_s: Seconds = 60
    """Longest pause between two events of a stream."""
    request_timeout_s: Seconds = 600
    """For a whole request; the OpenAI SDKs give up at the same time."""
    max_event_bytes: Count = 16 * MIB
    """Largest single event of a stream; images come in one event."""
    max_response_bytes: Count = 64 * MIB
    """Largest answer of a provider that is held in memory whole."""
    breaker_failures: int = Field(5, ge=0, le=1_000_000)
    """After so many failures in a row a target is left alone for a while; 0: never."""
    breaker_open_s: Seconds = 5
    """For how long; then one request tries it."""

    json_max_depth: int = Field(64, ge=1, le=500)
    """Deepest nesting of a request body."""
    json_max_tokens: Count = 200_000
    """Most values and punctuation marks of a request body, so that a small body cannot cost much to parse."""
    unauthenticated_per_minute: int = Field(600, ge=0, le=1_000_000)
    """How often one address may come without a valid key, before it is answered 429 instead of 401; 0: any number."""
    chain_timeout_s: Seconds = 2
    """For all plugins together at one hook of one request."""
    hung_worker_s: float = Field(30, ge=0, le=86400)
    """A worker, or the recorder, that a plugin has held up for so long is killed and replaced; 0: never."""
    finish_grace_s: float = Field(5, ge=0, le=600)
    """How long a stream may stay open after its finish reason, for its usage to come."""
    shutdown_grace_s: float = Field(30, ge=0, le=86400)
    """How long running streams may go on after SIGTERM."""


class DatabaseConfig(Section):
    path: DatabasePath = Field("muxx.db", validate_default=True)
    """Relative to this file; beside it, or beside what it links to, come muxx-logs.db, muxx.db.secret and the journal."""
    durability: Literal["crash", "power"] = "crash"
    """crash: what was acknowledged survives kill -9; power: it survives a power cut too, at a few ms per request."""


class ProviderConfig(Section):
    """Overlays the built-in row of the same name; what is unset stays as the row has it. A new name needs a `base_url`."""

    format: Literal["openai", "anthropic", "gemini"] | None = None
    """The wire format the provider speaks."""
    base_url: BaseUrl | None = None
    """Where it is, up to and including the version."""
    openai_url: BaseUrl | None = None
    """Where a provider of another format answers OpenAI's embeddings too, with the same key."""
    endpoints: tuple[EndpointName, ...] | None = Field(None, min_length=1)
    """What it answers, those it does best first; anything else is translated to one of them."""
    api_key: ApiKey | None = None
    """muxx's own key there."""
    api_keys: tuple[ApiKey, ...] = ()
    """More keys: requests take turns at them, and one that is refused or over its limit makes way for the next."""
    auth_header: AuthHeader | None = None
    """The header its key goes into, as it is, or after "Bearer" in authorization."""
    on_unsupported: Literal["error", "drop"] | None = None
    """What cannot be said in its format: "error" refuses the request, "drop" leaves it out and says so."""
    max_in_flight: Count | None = None
    """Most calls at a time, in each worker; what comes beyond goes to the next target."""
    prices: Annotated[str, Field(min_length=1)] | None = None
    """Vendor whose price table applies; "none": this provider's models have no price."""
    ask_usage: bool | None = None
    """Ask for the usage of a stream when the client did not; false for providers that refuse stream_options."""
    forward_client_credentials: bool | None = None
    """Send the client's own provider key when X-Muxx-Api-Key carries the muxx key."""
    request_headers: tuple[HeaderName, ...] = ()
    """More client headers to send up, besides the built-in list."""
    response_headers: tuple[ResponseHeaderName, ...] = ()
    """More provider headers to send down, besides the built-in list."""
    proxy: ProxyUrl | None = Field(None, repr=False)
    """HTTP proxy to reach it through; may hold a password."""
    ca_file: CaFile | None = None
    """PEM file of the authorities to trust instead of the system's."""


class TargetConfig(Section):
    """Where a model's requests may go. A plain string in the file is short for a table with only `target`."""

    target: TargetName
    """provider/model; `*` stands for what the name's `*` matched."""
    weight: int = Field(0, ge=0, le=1_000_000)
    """Share of the requests that try this target first, against its neighbours' weights; all 0: in the order written."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Members set in the body of every request to this target."""
    on_unsupported: Literal["error", "drop"] | None = None
    """Unset: as its provider has it."""
    connect_timeout_s: Seconds | None = None
    """Unset, as are the next four: as in [server]."""
    first_byte_timeout_s: Seconds | None = None
    first_token_timeout_s: Seconds | None = None
    between_events_timeout_s: Seconds | None = None
    request_timeout_s: Seconds | None = None


Target = Annotated[TargetConfig, BeforeValidator(_target_table, json_schema_input_type=TargetName | TargetConfig)]


class ModelConfig(Section):
    name: ModelName
    """What clients ask for; one `*` stands for anything."""
    targets: tuple[Target, ...] = Field(min_length=1)
    """Tried in order, each once, until one answers."""
    retries: int = Field(0, ge=0, le=10)
    """More tries of the same target before the next; SDKs retry by themselves."""
    strategy: Literal["ordered", "weighted", "least_latency"] | None = None
    """Who is tried first: as written, drawn by weight, or whoever begins its answers soonest; unset: by weight where given."""
    fall_back_on: tuple[FallBackKind | Status, ...] = ()
    """More refusals that let the next target be tried: "content_filter", "context_length", or a status."""
    buffer_until: Literal["first_byte", "first_token"] = "first_byte"
    """Hold a stream back until its first token: until then another target may still answer."""

    @model_validator(mode="after")
    def _stars_match(self) -> ModelConfig:
        if self.name.count("*") > 1 or any(t.target.count("*") > self.name.count("*") for t in self.targets):
            raise ValueError("a name may hold one *, its targets at most as many as the name")
        return self


class CacheConfig(Section):
    """Whether and for how long a project's answers are given again."""

    enabled: bool = True
    """Answer a request that was answered before from the cache."""
    ttl: TimeToLive = 86_400
    """Seconds for which a stored answer may be given again; "1h", "24h" and "7d" are understood too."""


class LimitsConfig(Section):
    """What a project's requests are limited to; 0: no limit."""

    rpm: int = Field(0, ge=0, le=4_000_000)
    """Requests in any minute."""
    tpm: int = Field(0, ge=0, le=4_000_000_000)
    """Tokens in any minute, input and output."""
    rpd: int = Field(0, ge=0, le=2**53)
    """Requests in a day, by UTC."""
    user_rpm: int = Field(0, ge=0, le=4_000_000)
    """As rpm, for each X-Muxx-User-Id by itself."""
    user_tpm: int = Field(0, ge=0, le=4_000_000_000)
    """As tpm, for each X-Muxx-User-Id by itself."""
    user_rpd: int = Field(0, ge=0, le=2**53)
    """As rpd, for each X-Muxx-User-Id by itself."""
    key_in_flight: int = Field(0, ge=0, le=1_000_000)
    """Requests of one key at a time."""


class SpendCapConfig(Section):
    """How much a project may spend in a calendar window, by UTC."""

    window: Literal["day", "month"]
    """When the sum begins anew: each day, or on the first of each month."""
    usd: Usd
    """US dollars, best in quotes: "100.00"."""
    action: Literal["block", "alert"] = "block"
    """Refuse what might go beyond it, or only tell the receivers of alerts."""


class AlertConfig(Section):
    """When the receivers of alerts are told, once per window: of so many dollars, or of a share of a limit."""

    usd: Usd | None = None
    """US dollars spent in the window."""
    limit: Literal["rpm", "tpm", "rpd", "user_rpm", "user_tpm", "user_rpd", "spend_cap"] | None = None
    """A limit of the project; `spend_cap` is its cap of the window."""
    window: Literal["day", "month"] = "day"
    """Whose spend is looked at; limits have their own windows."""
    share: float | None = Field(None, gt=0, le=1)
    """Of the limit at which somebody is told; left out: 0.8."""
    to: tuple[Name, ...] = ()
    """Receivers, by their names in `[plugins.alerts.receivers]`; left out: all of them."""

    @model_validator(mode="after")
    def _one_measure(self) -> AlertConfig:
        if (self.usd is None) == (self.limit is None):
            raise ValueError('set either usd (as in usd = "80.00") or limit (as in limit = "rpm", share = 0.8)')
        if self.usd is not None and self.share is not None:
            raise ValueError('share is of a limit; of dollars write the amount itself (as in usd = "40.00")')
        return self


class ProjectConfig(Section):
    """Defaults of a project, which may set its own."""

    cache: CacheConfig = Field(default_factory=CacheConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    spend_caps: tuple[SpendCapConfig, ...] = Field((), max_length=16)
    """How much it may spend in a day or a month."""
    alerts: tuple[AlertConfig, ...] = Field((), max_length=64)
    """When somebody is told of what it spends or uses."""
    store_content: bool = True
    """Keep what was asked and answered with the log row."""
    content_retention_days: int = Field(30, ge=1, le=36500)
    """Days after which the kept content is deleted; the row itself stays."""


class PluginsConfig(BaseModel):
    """`only`, `order`, and one table per plugin, kept as plain data until the plugin's own `Config` reads it."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)
    __pydantic_extra__: dict[str, dict[str, Any]]

    only: tuple[str, ...] | None = None
    """Load these plugins and no other; unset: every installed one."""
    order: tuple[str, ...] = ()
    """Plugins that go first, in this order, where their hooks do not say otherwise."""

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Plugin name to its table as written, substitutions done."""
        return self.__pydantic_extra__

    def leaves_out(self, name: str) -> bool:
        """Whether `only` names others and not this plugin."""
        return self.only is not None and name not in self.only

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """A table's values may be secrets, and only the plugin knows which."""
        yield from (("only", self.only), ("order", self.order), ("tables", sorted(self.tables)))


class Config(Section):
    """Everything the file says, or would say by leaving it out."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    database: DatabaseConfig = Field(default_factory=DatabaseConfig)
    providers: dict[Name, ProviderConfig] = Field(default_factory=dict)
    models: Annotated[tuple[ModelConfig, ...], AfterValidator(_distinct_names)] = ()
    project: ProjectConfig = Field(default_factory=ProjectConfig)
    plugins: PluginsConfig = Field(default_factory=PluginsConfig)

    _path: Path | None = PrivateAttr(default=None)
    _plugins_dir: Path | None = PrivateAttr(default=None)
    _written: dict[Loc, str] = PrivateAttr(default_factory=dict)
    _plugin_settings: dict[str, PluginConfig] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The file this came from; None: built-in defaults."""
        return self._path

    @property
    def plugins_dir(self) -> Path | None:
        """The folder of single-file plugins it was checked against; None: there is none."""
        return self._plugins_dir

    @property
    def written(self) -> Mapping[Loc, str]:
        """Every string of the file that held a substitution, as it was written."""
        return self._written

    @property
    def plugin_settings(self) -> Mapping[str, PluginConfig]:
        """The settings of every plugin whose class `load_config` was given and that the file leaves on."""
        return self._plugin_settings

    def note_origin(
        self, path: Path | None, plugins_dir: Path | None, written: dict[Loc, str], settings: dict[str, PluginConfig]
    ) -> None:
        """Set by `load_config`: where it came from, and what the plugins' tables say."""
        self._path, self._plugins_dir, self._written, self._plugin_settings = path, plugins_dir, written, settings

    def problems_of_plugins(self) -> Iterator[tuple[Loc, str]]:
        """What the settings of plugins that are on find wrong with the rest."""
        for name, settings in self._plugin_settings.items():
            if settings.enabled and not self.plugins.leaves_out(name):
                try:
                    yield from [(tuple(place), str(what)) for place, what in settings.problems_in(self)]
                except Exception as error:  # its text may hold a value, and so a secret
                    text = f"its problems_in failed ({type(error).__name__}); upgrade the plugin or switch it off"
                    yield ("plugins", name), text
