"""muxx: an LLM gateway whose every feature is a plugin.

These are the public names: what a plugin may import. They are loaded on first use, so that a command that needs no server imports
none. `from muxx import hookimpl, Exchange` works as if they were all here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .asked import AskedOutput, asked_output
    from .audit import AuditRow, audit_log, note_change
    from .bodies import Asked, Listed, Moment, Shown, asked_project, body_as, query_as, whose
    from .complete import client_session
    from .config import Config, PluginConfig, ProjectConfig
    from .configfile import ConfigError, load_config
    from .configtypes import is_web_address
    from .console import MomentArgument, config_option, echo_json, run_async, table
    from .counters import Counters
    from .db import Database, Migration
    from .errors import (
        AuthenticationError,
        ClientGone,
        ClientStalled,
        InvalidRequest,
        LogUnavailable,
        MissingApiKey,
        ModelNotFound,
        MuxxError,
        NotFound,
        PermissionDenied,
        PluginError,
        RateLimited,
        RequestTimeout,
        RequestTooLarge,
        ShuttingDown,
        SpendCapExceeded,
        StartError,
        Unavailable,
        UpstreamAuth,
        UpstreamDisconnected,
        UpstreamError,
        UpstreamEventTooLarge,
        UpstreamProtocolError,
        UpstreamTimeout,
        UpstreamTruncated,
        UpstreamUnreachable,
    )  # fmt: skip
    from .exchange import Exchange, StateKey, Timing
    from .explain import Explained, project_layers
    from .gateway import Gateway
    from .hookspecs import hookimpl
    from .host import Host
    from .moments import iso_time, moment_of
    from .money import Cost, Usage, UsageSource, pico_of, usd
    from .processes import lives, this_process
    from .projectsettings import nested_setting, resolved_settings, settings_of
    from .projectstore import ProjectRow, ProjectStore, ProviderKeyRow, ensure_project
    from .providercommands import known_providers
    from .reply import Chunk, Reply, Response, ToolCall, WholeAnswer
    from .request import Environment, HttpRequest, Identity, Part, Request, Role, Route
    from .row import CacheStatus, EndedBy, Phase, Record
    from .segments import find_record, journalled
    from .settings import Alert, Limits, Project, ProjectSettings, SpendCap, Standing, Window
    from .shared import Holding, Shared
    from .shown import csv_cell, json_line, printable
    from .sqlite import Connection
    from .targets import Attempt, Provider, Target, Timeouts
    from .textwindow import TextWindow
    from .transport import Sink, Transport, UpstreamResponse

_HOME = {
    "asked": "AskedOutput asked_output",
    "audit": "AuditRow audit_log note_change",
    "bodies": "Asked Listed Moment Shown asked_project body_as query_as whose",
    "complete": "client_session",
    "config": "Config PluginConfig ProjectConfig",
    "configfile": "ConfigError load_config",
    "configtypes": "is_web_address",
    "console": "MomentArgument config_option echo_json run_async table",
    "counters": "Counters",
    "db": "Database Migration",
    "errors": "AuthenticationError ClientGone ClientStalled InvalidRequest LogUnavailable MissingApiKey ModelNotFound MuxxError"
    " NotFound PermissionDenied PluginError RateLimited RequestTimeout RequestTooLarge ShuttingDown SpendCapExceeded StartError"
    " Unavailable UpstreamAuth UpstreamDisconnected UpstreamError UpstreamEventTooLarge UpstreamProtocolError UpstreamTimeout"
    " UpstreamTruncated UpstreamUnreachable",
    "exchange": "Exchange StateKey Timing",
    "explain": "Explained project_layers",
    "gateway": "Gateway",
    "hookspecs": "hookimpl",
    "host": "Host",
    "moments": "iso_time moment_of",
    "money": "Cost Usage UsageSource pico_of usd",
    "providercommands": "known_providers",
    "processes": "lives this_process",
    "projectsettings": "nested_setting resolved_settings settings_of",
    "projectstore": "ProjectRow ProjectStore ProviderKeyRow ensure_project",
    "reply": "Chunk Reply Response ToolCall WholeAnswer",
    "request": "Environment HttpRequest Identity Part Request Role Route",
    "row": "CacheStatus EndedBy Phase Record",
    "segments": "find_record journalled",
    "settings": "Alert Limits Project ProjectSettings SpendCap Standing Window",
    "shared": "Holding Shared",
    "shown": "csv_cell json_line printable",
    "sqlite": "Connection",
    "targets": "Attempt Provider Target Timeouts",
    "textwindow": "TextWindow",
    "transport": "Sink Transport UpstreamResponse",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "Alert",
    "Asked",
    "AskedOutput",
    "Attempt",
    "AuditRow",
    "AuthenticationError",
    "CacheStatus",
    "Chunk",
    "ClientGone",
    "ClientStalled",
    "Config",
    "ConfigError",
    "Connection",
    "Cost",
    "Counters",
    "Database",
    "EndedBy",
    "Environment",
    "Exchange",
    "Explained",
    "Gateway",
    "Holding",
    "Host",
    "HttpRequest",
    "Identity",
    "InvalidRequest",
    "Limits",
    "Listed",
    "LogUnavailable",
    "Migration",
    "MissingApiKey",
    "ModelNotFound",
    "Moment",
    "MomentArgument",
    "MuxxError",
    "NotFound",
    "Part",
    "PermissionDenied",
    "Phase",
    "PluginConfig",
    "PluginError",
    "Project",
    "ProjectConfig",
    "ProjectRow",
    "ProjectSettings",
    "ProjectStore",
    "Provider",
    "ProviderKeyRow",
    "RateLimited",
    "Record",
    "Reply",
    "Request",
    "RequestTimeout",
    "RequestTooLarge",
    "Response",
    "Role",
    "Route",
    "Shared",
    "Shown",
    "ShuttingDown",
    "Sink",
    "SpendCap",
    "SpendCapExceeded",
    "Standing",
    "StartError",
    "StateKey",
    "Target",
    "TextWindow",
    "Timeouts",
    "Timing",
    "ToolCall",
    "Transport",
    "Unavailable",
    "UpstreamAuth",
    "UpstreamDisconnected",
    "UpstreamError",
    "UpstreamEventTooLarge",
    "UpstreamProtocolError",
    "UpstreamResponse",
    "UpstreamTimeout",
    "UpstreamTruncated",
    "UpstreamUnreachable",
    "Usage",
    "UsageSource",
    "WholeAnswer",
    "Window",
    "__version__",
    "asked_output",
    "asked_project",
    "audit_log",
    "body_as",
    "client_session",
    "config_option",
    "csv_cell",
    "echo_json",
    "ensure_project",
    "find_record",
    "hookimpl",
    "is_web_address",
    "iso_time",
    "journalled",
    "json_line",
    "known_providers",
    "lives",
    "load_config",
    "moment_of",
    "nested_setting",
    "note_change",
    "pico_of",
    "printable",
    "project_layers",
    "query_as",
    "resolved_settings",
    "run_async",
    "settings_of",
    "table",
    "this_process",
    "usd",
    "whose",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"muxx has no public name {name!r}")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
