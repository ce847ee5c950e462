"""Providers as rows of data: where each is, how it takes its key, which environment variable usually holds that key.

Anthropic and Google are reached through the OpenAI-compatible endpoints they run themselves. Adding a provider is adding a row.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StartError
from .targets import Provider

if TYPE_CHECKING:
    from .config import Config, ProviderConfig

BUILT_IN: tuple[Provider, ...] = (
    Provider("openai", "https://api.openai.com/v1", prices="openai", api_key_env="OPENAI_API_KEY"),
    Provider("anthropic", "https://api.anthropic.com/v1", prices="anthropic", api_key_env="ANTHROPIC_API_KEY"),
    Provider(
        "google", "https://generativelanguage.googleapis.com/v1beta/openai", prices="google", api_key_env="GEMINI_API_KEY"
    ),
)

BUILT_IN_MODELS: tuple[tuple[str, str], ...] = (
    ("gpt-4o", "openai/gpt-4o"),
    ("gpt-4o-mini", "openai/gpt-4o-mini"),
    ("gpt-4-turbo", "openai/gpt-4-turbo"),
    ("gpt-4", "openai/gpt-4"),
    ("gpt-3.5-turbo", "openai/gpt-3.5-turbo"),
    ("claude-3-5-sonnet", "anthropic/claude-3-5-sonnet-latest"),
    ("claude-3-5-haiku", "anthropic/claude-3-5-haiku-latest"),
    ("gemini-1.5-pro", "google/gemini-1.5-pro"),
    ("gemini-1.5-flash", "google/gemini-1.5-flash"),
    ("mock", "mock/mock"),
    ("gpt-*", "openai/gpt-*"),
    ("o1*", "openai/o1*"),
    ("o3*", "openai/o3*"),
    ("o4*", "openai/o4*"),
    ("claude-*", "anthropic/claude-*"),
    ("gemini-*", "google/gemini-*"),
)
"""Names that route out of the box, in the order they are tried: exact ones first."""


def provider_rows(config: Config, registered: Mapping[str, Provider]) -> dict[str, Provider]:
    """Built-in rows, rows of plugins, then the file's rows laid over them. Keys come from the file or the usual environment."""
    rows = {p.name: p for p in BUILT_IN} | dict(registered)
    for name, overlay in config.providers.items():
        rows[name] = _overlaid(name, rows.get(name), overlay)
    return {name: _with_environment_key(row) for name, row in rows.items()}


def _overlaid(name: str, base: Provider | None, overlay: ProviderConfig) -> Provider:
    given: dict[str, Any] = overlay.model_dump(exclude_unset=True)
    if overlay.api_key is not None:
        given["api_key"] = overlay.api_key.get_secret_value() or None
    known = {f.name for f in fields(Provider)}
    changes: dict[str, Any] = {
        key: str(value) if isinstance(value, Path) else value for key, value in given.items() if key in known
    }
    if base is None:
        if "base_url" not in changes:
            raise StartError(f"providers.{name}: no built-in provider has this name, so it needs a base_url")
        return Provider(name, **changes)
    return replace(base, **changes)


def _with_environment_key(row: Provider) -> Provider:
    if row.api_key is None and row.api_key_env is not None:
        return replace(row, api_key=os.environ.get(row.api_key_env) or None)
    return row
