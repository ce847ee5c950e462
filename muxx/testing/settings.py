"""The configuration a gateway under test starts from, and its way into a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROVIDER_KEY = "sk-upstream-canary-4f1d9a7c"
"""The provider key of every gateway under test: a canary, to be searched for wherever it must not be."""

PROVIDERS = ("openai", "anthropic", "google")


def gateway_config(upstream_url: str, *overrides: Mapping[str, Any], port: int = 0) -> dict[str, Any]:
    """A whole configuration: the well-known providers all lead to `upstream_url`, and later mappings go before earlier ones.

    Each speaks its own format. The cache has room for nothing and the breaker never opens, so that the upstream is asked each
    time; give `[plugins.cache] max_bytes` to have hits, and `[server] breaker_failures` to have refusals.
    """
    provider = {"base_url": upstream_url, "api_key": PROVIDER_KEY}
    config: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": port, "breaker_failures": 0},
        "database": {"path": "muxx.db"},
        "providers": {name: dict(provider) for name in PROVIDERS},
        "plugins": {"cache": {"max_bytes": 1}},
    }
    for override in overrides:
        config = merged(config, override)
    return config


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both_tables else value
    return result


def toml(value: Mapping[str, Any]) -> str:
    """The mapping as a TOML file: one line per top-level key, everything below it inline."""
    return "".join(f"{_text(key)} = {_inline(item)}\n" for key, item in value.items())


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else _text(str(value))


def _text(value: str) -> str:
    """A JSON string is a TOML basic string, but for one control character JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_config(directory: Path, config: Mapping[str, Any]) -> Path:
    path = directory / "muxx.toml"
    path.write_text(toml(config))
    return path


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead a gateway out of the test: provider keys, proxies, muxx's settings."""
    return {name: value for name, value in os.environ.items() if not _leads_out(name.upper())}


def _leads_out(name: str) -> bool:
    return name.endswith(("_API_KEY", "_PROXY")) or (name.startswith("MUXX_") and name != "MUXX_STREAMS")
