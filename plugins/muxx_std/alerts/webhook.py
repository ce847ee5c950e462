"""Delivery over HTTP: signed JSON as the Standard Webhooks specification has it, and Slack's incoming webhooks.

No redirect is followed, and of an answer nothing but its status is kept.
"""

from __future__ import annotations

import hmac
import time
from base64 import b64encode
from typing import TYPE_CHECKING

from pydantic import SecretStr

from . import message
from .settings import Receiver, secret_bytes
from .store import Event, Outcome

if TYPE_CHECKING:
    from aiohttp import ClientSession

SECONDS = 10.0
"""For a whole delivery."""
TIMED_OUT = f"no answer within {SECONDS:.0f} s"


async def post(http: ClientSession, receiver: Receiver, event: Event) -> Outcome:
    import aiohttp

    body = message.slack(event) if receiver.kind == "slack" else message.body(event)
    headers = {"Content-Type": "application/json", "User-Agent": "muxx"}
    if receiver.secret is not None:
        headers |= signature(receiver.secret, event.id, int(time.time()), body)
    assert receiver.url is not None, "a receiver over HTTP has a URL"
    try:
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with http.post(
            receiver.url.get_secret_value(), data=body, headers=headers, allow_redirects=False, timeout=timeout
        ) as response:
            return _outcome(response.status)
    except TimeoutError:
        return Outcome(problem=TIMED_OUT)
    except aiohttp.ClientSSLError:
        return Outcome(problem="no safe connection: its certificate is not trusted")
    except aiohttp.ClientConnectorError:
        return Outcome(problem="no connection")
    except (aiohttp.ClientError, OSError, ValueError):  # none of their words: they may quote the URL, which is a secret
        return Outcome(problem="the connection broke before an answer")


def signature(secret: SecretStr, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows who sent this, that it is whole, and that it is not an old one sent again."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = hmac.digest(secret_bytes(secret), signed, "sha256")
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{b64encode(digest).decode()}"}


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status)
    if 300 <= status < 400:
        return Outcome(status, f"answered {status}, a redirect, which is not followed: put where it leads into url")
    return Outcome(status, f"answered {status}")
