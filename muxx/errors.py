"""Everything muxx refuses or fails with: one tree, each leaf a row of the wire contract's error table.

A `MuxxError` carries what the client is told (status, type, code, message, param) and what its SDK should do (retry or not, and
when). Messages are written for the person who reads them: what happened, then what to do. They never hold a secret, a stack
trace, an upstream host or raw input bytes, because whoever raises one writes it from constants and configured names only.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable


class StatusOfNoError(ValueError):
    """A `MuxxError` was made with a status below 400 or above 599, or with none. Logs show the type of an error alone, so its
    name says it."""


class MuxxError(Exception):
    """Base of every error a client can see.

    `status` is the HTTP status, `type` and `code` are the words in the error envelope, `retry` is what `x-should-retry` says.
    A stream whose head has left carries the same words in an error event.
    """

    status: int = 500
    type: str = "api_error"
    code: str = "internal_error"
    retry: bool = False
    default_wait: float | None = None
    """Seconds to wait before a retry, where the raiser knows nothing better."""

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        retry: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message or self.default_message())
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        if not isinstance(self.status, int) or not 400 <= self.status <= 599:
            raise StatusOfNoError
        if retry is not None:
            self.retry = retry
        self.param = param
        self.retry_after = self.default_wait if retry_after is None else retry_after
        """Seconds the client should wait; above 60 the SDKs are told not to retry by themselves."""

    @classmethod
    def default_message(cls) -> str:
        """The message used when the raiser has nothing more precise to say."""
        if cls.status < 500:
            return "The gateway refused this request. Quote the request id to its operator."
        return "Something went wrong inside the gateway. Quote the request id to its operator."

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def should_retry(self) -> bool:
        """What `x-should-retry` says: a wait above 60 s is left to the application."""
        return self.retry and (self.retry_after is None or self.retry_after <= 60)


class InvalidRequest(MuxxError):
    """400 and its neighbours: the caller has to change the request."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_type"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"

    @classmethod
    def default_message(cls) -> str:
        advice = "OpenAI's SDKs want it to end in /v1, Anthropic's and Google's do not."
        return f"There is nothing at this path. Check the base URL: {advice}"


class MethodNotAllowed(InvalidRequest):
    """405, with the methods the path does take."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, methods: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(methods))
        super().__init__(f"This path takes {self.allow}.")


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class RequestTimeout(InvalidRequest):
    """The client was too slow in sending its request."""

    status = 408
    code = "request_timeout"
    retry = True


class AuthenticationError(MuxxError):
    """401. Unknown, malformed, deleted and expired keys all give one and the same answer."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @classmethod
    def default_message(cls) -> str:
        return "Invalid API key. Use a key made with `muxx keys create`, as X-Muxx-Api-Key or in your SDK's api_key."


class MissingApiKey(AuthenticationError):
    code = "missing_api_key"

    @classmethod
    def default_message(cls) -> str:
        return "No muxx API key was sent. Pass one as X-Muxx-Api-Key or as your SDK's api_key (muxx_sk_…)."


class SpendCapExceeded(MuxxError):
    status = 402
    type = "spend_cap_error"
    code = "spend_cap_exceeded"


class PermissionDenied(MuxxError):
    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class RateLimited(MuxxError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry = True


class StrangerLimited(RateLimited):
    """429 to an address that was told 401 too often. `limit` is how often it may be, `resets_at` when it may be again."""

    def __init__(self, limit: int, wait: float) -> None:
        super().__init__(
            f"Rate limit exceeded. Please retry after {math.ceil(wait)} seconds. Too many requests from this address came without"
            " a valid API key; those with one are served.",
            retry_after=wait,
        )
        self.limit = limit
        self.resets_at = math.ceil(time.time() + wait)


class PluginError(MuxxError):
    """A plugin raised, hung past its chain's limit, or returned what its hook does not allow."""

    code = "plugin_error"

    @classmethod
    def default_message(cls) -> str:
        return "A gateway plugin failed on this request. Quote the request id to the gateway's operator."


class UpstreamError(MuxxError):
    """The provider answered with something that is no answer (a redirect, an HTML page, an error in a 200)."""

    status = 502
    code = "upstream_error"
    retry = True

    @classmethod
    def default_message(cls) -> str:
        return "The model provider did not give a usable answer. Try again, or another model."


class UpstreamUnreachable(UpstreamError):
    """No connection could be made, so nothing was sent."""

    code = "upstream_unreachable"


BROKE_OFF = "The model provider broke off before its answer was complete. Try again, or another model."


class UpstreamDisconnected(UpstreamError):
    """The provider's connection broke after the request was sent."""

    code = "upstream_disconnected"

    @classmethod
    def default_message(cls) -> str:
        return BROKE_OFF


class UpstreamTruncated(UpstreamError):
    """The provider ended the answer cleanly but before it was complete."""

    code = "upstream_truncated"

    @classmethod
    def default_message(cls) -> str:
        return BROKE_OFF


class UpstreamProtocolError(UpstreamError):
    """The provider's bytes are not what its format allows."""

    code = "upstream_protocol_error"


class UpstreamEventTooLarge(UpstreamError):
    code = "upstream_event_too_large"


class UpstreamAuth(UpstreamError):
    """The provider refused muxx's own credential: the operator's to mend, not the caller's."""

    code = "upstream_auth"
    retry = False

    @classmethod
    def default_message(cls) -> str:
        return "The provider refused the gateway's own credential. The gateway's operator has to mend its provider key."


class ProviderRefusal(UpstreamError):
    """A 4xx or 5xx of the provider, passed on with its own status and `body`."""

    lines = ""
    """The provider's header lines that the client gets."""

    def __init__(self, status: int, body: bytes, code: str, *, retry: bool, retry_after: float | None) -> None:
        message = "The model provider refused the request."
        super().__init__(message, status=status, code=code, retry=retry, retry_after=retry_after)
        self.body = body


def type_of_status(status: int) -> str:
    """The `type` of an error that is known by its status alone, as the table of the wire contract has it."""
    if status >= 500:
        return MuxxError.type
    kinds = {401: AuthenticationError.type, 402: SpendCapExceeded.type, 403: PermissionDenied.type, 429: RateLimited.type}
    return kinds.get(status, InvalidRequest.type)


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"

    @classmethod
    def default_message(cls) -> str:
        return "The model provider took too long. Try again, or ask for a shorter answer."


class Unavailable(MuxxError):
    """503: nothing is wrong with the request; it can be sent again."""

    status = 503
    code = "overloaded"
    retry = True
    default_wait = 1.0

    @classmethod
    def default_message(cls) -> str:
        return "The gateway is at its limit. Try again shortly."


class LogUnavailable(Unavailable):
    """Neither the journal nor the database can be written, so nothing may be acknowledged."""

    code = "log_unavailable"

    @classmethod
    def default_message(cls) -> str:
        return "The gateway cannot record this request, so it does not make it. Try again shortly."


class DatabaseUnavailable(Unavailable):
    """What a route was asked for needs the database, which could not do its work: nothing was changed."""

    code = "database_unavailable"

    def __init__(self, fault: BaseException) -> None:
        code = getattr(fault, "sqlite_errorcode", 0) & 0xFF  # the rest says more of the same
        super().__init__(_ADVICE_ON_FAULTS.get(code, "The gateway's database cannot be used now. Its log says what is wrong."))


_ADVICE_ON_FAULTS = {
    **dict.fromkeys(
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        "Another program holds the gateway's database. Try again shortly; when it lasts, end what holds it.",
    ),
    sqlite3.SQLITE_FULL: "There is no room on the disk of the gateway's database. Make room there, then try again.",
    sqlite3.SQLITE_READONLY: (
        "The gateway may not write its database. Check the permissions of the file and its directory, then try again."
    ),
}


class ShuttingDown(Unavailable):
    code = "shutting_down"

    @classmethod
    def default_message(cls) -> str:
        return "The gateway is shutting down. Try again: another instance will answer."


class ClientGone(MuxxError):
    """The client left before its answer was complete. Never sent to anyone: it is what the row says (499)."""

    status = 499
    code = "client_disconnected"

    @classmethod
    def default_message(cls) -> str:
        return "The client closed its connection before the answer was complete."


class ClientStalled(ClientGone):
    """The client stopped reading for longer than its write limit."""

    code = "client_stalled"

    @classmethod
    def default_message(cls) -> str:
        return "The client stopped reading its answer."


class StartError(Exception):
    """muxx cannot start. `exit_code`: 1 something else failed, 2 usage or config, 3 database or secret, 4 address in use."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PluginLoadError(StartError):
    """A plugin cannot be used. The message is one line that names it and says how to mend it; `plugin` is its name."""

    def __init__(self, plugin: str, problem: str) -> None:
        super().__init__(f"plugin {plugin!r}: {' '.join(problem.split())}", exit_code=2)
        self.plugin = plugin
