"""What a provider's refusal means to the client, in the client's format, and without the secrets some providers quote."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .errors import MuxxError, ProviderRefusal, UpstreamAuth, UpstreamError, type_of_status
from .headers import downstream_lines, retry_after
from .outages import failure_told
from .plain import whole_body
from .routing import RETRY_STATUSES
from .targets import Attempt
from .wire.failures import told_in_refusal

if TYPE_CHECKING:
    from .call import Call
    from .transport import UpstreamResponse

PROJECTS_KEY_REFUSED = (
    "The provider refused this project's own key. Its operator sets another with `muxx projects provider-keys set`."
)


async def refusal(call: Call, attempt: Attempt, response: UpstreamResponse) -> MuxxError:
    """What a provider's status other than 2xx means to the client."""
    status, body = response.status, await whole_body(call, attempt, response)
    provider = attempt.target.provider
    own_key = not (provider.forward_client_credentials and call.head.client_credential)
    if status in (401, 403) and own_key:
        return UpstreamAuth(PROJECTS_KEY_REFUSED if provider.name in call.provider_keys else "")
    wait = retry_after(response.headers)
    if not 400 <= status < 600 or body.lstrip()[:1] == b"<":
        return UpstreamError(retry_after=wait)
    error = told_in_refusal(body)
    said = failure_told(error, partial(masked, call, attempt))
    code = said.code if error else UpstreamError.code
    refusal = ProviderRefusal(status, b"", code, retry=status in RETRY_STATUSES, retry_after=wait)
    refusal.lines = downstream_lines(provider, response.headers, call.exchange.added_headers)
    if error and attempt.wire.format == call.wire.format and body.lstrip()[:1] in (b"{", b"["):
        refusal.body = masked(call, attempt, body)
        return refusal
    if error:
        refusal.args = (said.message,)
        refusal.type = type_of_status(status)
    refusal.body = call.wire.error_body(refusal, call.exchange.id)
    return refusal


def failure_in(call: Call, attempt: Attempt, body: bytes, error: UpstreamError) -> MuxxError:
    """What a status of 2xx means to the client whose body is no answer, by `error`: it may tell of a failure in its own words."""
    said = told_in_refusal(body) if type(error) is UpstreamError and body.lstrip()[:1] == b"{" else {}
    told = failure_told(said, partial(masked, call, attempt))
    return told if told.status == 400 else UpstreamError(told.message) if said else error


def masked(call: Call, attempt: Attempt, body: bytes) -> bytes:
    """A provider's error body without the secrets muxx knows, which some providers quote."""
    secrets = {*attempt.target.provider.keys, *call.provider_keys.values(), call.head.client_credential}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # or one that begins another would leave that one's end
        body = body.replace(secret.encode("utf-8", "surrogateescape"), b"***")
    return body
