"""One minimal real call of a provider, to see whether address, key and network are right: its list of models, or one token."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .complete import client_session
from .providers import not_usable
from .targets import Provider

SECONDS = 30.0

EXPIRED, OF_ANOTHER = 10, (62, 64)
"""OpenSSL's numbers (X509_V_ERR_…) of a certificate that has expired, and of one for another name or address."""


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
        return Probe(row.name, False, None, None, _unreachable(row, error))
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


def _unreachable(row: Provider, error: Exception) -> str:
    """Of errors that are kinds of one another the nearest comes first."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            what = "its proxy is not there. Check proxy, or HTTPS_PROXY and HTTP_PROXY in the environment"
        case aiohttp.ClientHttpProxyError():
            what = f"its proxy refuses with {error.status}. Check proxy, and the user and password in it"
        case aiohttp.ClientConnectorDNSError():
            what = "nobody knows its host's name. Check base_url, and this machine's DNS"
        case aiohttp.ClientConnectorCertificateError():
            what = _untrusted(error.certificate_error)
        case aiohttp.ClientSSLError():
            what = "it speaks no TLS there that this machine can. Check whether base_url begins with https:// rightly"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError(errno=errno.ECONNRESET):
            what = "it hangs up without an answer. Check whether base_url begins with http:// rightly"
        case _ if row.api_key_env is None:
            what = "it is not running, or at another address"
        case _:
            what = "base_url, proxy or the network is wrong"
    return f"Cannot be reached: {what}."


def _untrusted(error: Exception) -> str:
    reason = getattr(error, "verify_code", None)
    if reason == EXPIRED:
        return "its certificate has expired. Have it renewed there, and look at this machine's clock"
    if reason in OF_ANOTHER:
        return "its certificate is another host's. Let base_url name the host that the certificate names"
    return "its certificate is not trusted. Let ca_file name the authority that signed it"


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
