"""Providers as rows of data: where each is, which format it speaks, how it takes its key, which environment variable usually
holds that key. Adding a provider is adding a row.
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

GOOGLE = "https://generativelanguage.googleapis.com/v1beta"
AZURE_PATH = "/openai/v1"
"""Where the current API of an Azure OpenAI resource begins."""


def _compatible(name: str, base_url: str, key: str | None, *endpoints: str, prices: str | None = "none", **more: Any) -> Provider:
    """A provider that speaks OpenAI's format, at these endpoints or else at all of them. Those that run on the operator's own
    machine have no prices."""
    return Provider(name, base_url, api_key_env=key, endpoints=endpoints, prices=prices, **more)


BUILT_IN: tuple[Provider, ...] = (
    Provider("openai", "https://api.openai.com/v1", prices="openai", api_key_env="OPENAI_API_KEY"),
    Provider(
        "anthropic", "https://api.anthropic.com/v1", format="anthropic", prices="anthropic", api_key_env="ANTHROPIC_API_KEY"
    ),
    Provider(
        "google",
        GOOGLE,
        format="gemini",
        prices="google",
        api_key_env="GEMINI_API_KEY",
        other_key_envs=("GOOGLE_API_KEY",),
        openai_url=f"{GOOGLE}/openai",
    ),
    Provider(
        "azure",
        AZURE_PATH,
        prices="azure",
        api_key_env="AZURE_OPENAI_API_KEY",
        address_env="AZURE_OPENAI_ENDPOINT",
        auth_header="api-key",
        auth_scheme="",
    ),
    _compatible("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", prices="openrouter"),
    _compatible("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY", "chat", "responses", prices="groq"),
    _compatible(
        "mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY", "chat", "embeddings", ask_usage=False, prices="mistral"
    ),
    _compatible("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "chat", prices="deepseek"),
    _compatible("xai", "https://api.x.ai/v1", "XAI_API_KEY", "chat", "responses", "text_completion", prices="x-ai"),
    _compatible(
        "together", "https://api.together.xyz/v1", "TOGETHER_API_KEY", "chat", "text_completion", "embeddings", prices="together"
    ),
    _compatible("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", prices="fireworks"),
    _compatible("cerebras", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", "chat", "text_completion", prices="cerebras"),
    _compatible(
        "perplexity",
        "https://api.perplexity.ai",
        "PERPLEXITY_API_KEY",
        "chat",
        ask_usage=False,
        other_key_envs=("PPLX_API_KEY",),
        prices="perplexity",
    ),
    _compatible("ollama", "http://127.0.0.1:11434/v1", None, "chat", "text_completion", "embeddings"),
    _compatible("vllm", "http://127.0.0.1:8000/v1", None),
    _compatible("lmstudio", "http://127.0.0.1:1234/v1", None),
    _compatible("llamacpp", "http://127.0.0.1:8080/v1", None, "chat", "text_completion", "embeddings"),
)
"""Of the compatible ones only what they document as theirs: a request at another endpoint is translated to the first."""

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
    return {name: _completed(row) for name, row in rows.items()}


def _overlaid(name: str, base: Provider | None, overlay: ProviderConfig) -> Provider:
    changes = _changes(overlay)
    if base is None:
        if "base_url" not in changes:
            raise StartError(f"providers.{name}: no built-in provider has this name, so it needs a base_url")
        return Provider(name, **changes)
    if "base_url" in changes:
        changes = {"openai_url": None, **changes}  # the row's other address is that of somebody else
    if changes.get("format", base.format) != base.format:
        changes = {"auth_header": "", "endpoints": (), "openai_url": None, **changes}
    return replace(base, **changes)


def _changes(overlay: ProviderConfig) -> dict[str, Any]:
    """What the file says of a row, as fields of one."""
    given: dict[str, Any] = overlay.model_dump(exclude_unset=True)
    if overlay.api_key is not None:
        given["api_key"] = overlay.api_key.get_secret_value() or None
    if overlay.api_keys:
        given["api_keys"] = tuple(dict.fromkeys(filter(None, (key.get_secret_value() for key in overlay.api_keys))))
    if overlay.auth_header is not None:
        given["auth_scheme"] = "Bearer " if overlay.auth_header == "authorization" else ""
    known = {f.name for f in fields(Provider)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items() if key in known}


def _completed(row: Provider) -> Provider:
    """The row with what the environment has of it: its key, where the file gave none, and its address."""
    changes: dict[str, Any] = {}
    if not row.keys and (variable := key_variable(row)) is not None:
        changes["api_key"] = os.environ[variable]
    if row.address_env is not None and row.base_url.startswith("/") and (address := os.environ.get(row.address_env)):
        changes["base_url"] = address.rstrip("/").removesuffix(row.base_url) + row.base_url
    return replace(row, **changes) if changes else row


def key_variable(row: Provider) -> str | None:
    """The environment variable that holds the provider's key; None where none of the usual ones does."""
    names = filter(None, (row.api_key_env, *row.other_key_envs))
    return next((name for name in names if os.environ.get(name)), None)


def not_usable(row: Provider) -> str:
    """What to do about a provider that cannot be called for what is `missing` of it."""
    if row.missing == row.address_env and row.missing is not None:
        return (
            f"The gateway does not know where provider {row.name} is: its operator sets {row.address_env}, e.g. to "
            f"https://NAME.openai.azure.com, or [providers.{row.name}] base_url."
        )
    return (
        f"The gateway has no key for provider {row.name}: its operator sets {row.api_key_env} or [providers.{row.name}] api_key."
    )
