"""One minimal real call of a provider, to see whether address, key and network are right: its list of models, or one token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .complete import client_session
from .providers import not_usable
from .targets import Provider
from .unreachable import why_unreachable

SECONDS = 30.0


@dataclass(frozen=True)
class Probe:
    """What came of it. `advice` says what to do; None: nothing, it works."""

    name: str
    ok: bool
    status: int | None
    ms: float | None
    advice: str | None


async def probe_all(providers: Iterable[Provider], model: str | None, seen: Callable[[Probe], None]) -> list[Probe]:
    """Ask all at once, and tell `seen` of each as it is done."""

    async def one(row: Provider) -> Probe:
        probe = await _probe(row, model)
        seen(probe)
        return probe

    return await asyncio.gather(*(one(row) for row in providers))


async def _probe(row: Provider, model: str | None) -> Probe:
    if row.missing is not None:
        return Probe(row.name, False, None, None, not_usable(row))
    started = time.monotonic()
    try:
        async with client_session(row.ca_file) as session:
            status = await _asked(session, row, model)
    except TimeoutError:
        return Probe(row.name, False, None, None, f"No answer within {SECONDS:.0f} s. Check base_url and the network.")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Probe(row.name, False, None, None, why_unreachable(row, error))
    milliseconds = round((time.monotonic() - started) * 1000, 1)
    return Probe(row.name, status < 300, status, milliseconds, _advice(row, status, model))


async def _asked(session: aiohttp.ClientSession, row: Provider, model: str | None) -> int:
    path, body = ("/models", None) if model is None else _least(row, model)
    headers = {"accept-encoding": "identity"}
    if row.keys:
        headers[row.auth_header] = row.auth_scheme + row.keys[0]
    if row.format == "anthropic":
        headers["anthropic-version"] = "2023-06-01"
    async with session.request(
        "GET" if body is None else "POST",
        row.base_url.rstrip("/") + path,
        json=body,
        headers=headers,
        proxy=row.proxy,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(total=SECONDS),
    ) as response:
        return response.status


def _least(row: Provider, model: str) -> tuple[str, dict[str, Any]]:
    """The path and body of a request for one token."""
    if row.format == "gemini":
        contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
        return f"/models/{model}:generateContent", {"contents": contents, "generationConfig": {"maxOutputTokens": 1}}
    messages = [{"role": "user", "content": "Hi"}]
    if row.format == "anthropic":
        return "/messages", {"model": model, "max_tokens": 1, "messages": messages}
    limit = "max_completion_tokens" if row.prices in ("openai", "azure") else "max_tokens"
    return "/chat/completions", {"model": model, limit: 1, "messages": messages}


def _advice(row: Provider, status: int, model: str | None) -> str | None:
    if status < 300:
        return None
    if status in (401, 403):
        where = row.api_key_env or f"[providers.{row.name}] api_key"
        return f"It refuses the key. Put one that works into {where}."
    if status == 404 and model is None:
        return "It has no list of models here: check base_url, or try one of its models with --model."
    if status in (400, 404, 422) and model is not None:
        return f"It does not take {model!r}. Try another model, or check base_url."
    if status == 429:
        return "The key works, but is over its limit. Wait, or see to its quota."
    return "It is there, but fails. Try again, or see its status page." if status >= 500 else "Check base_url."
