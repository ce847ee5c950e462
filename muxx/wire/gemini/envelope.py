"""The gateway's own words in Google's format: errors."""

from __future__ import annotations

from orjson import dumps

from ...errors import MuxxError
from ..failures import worded

_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED", 409: "ABORTED", 416: "OUT_OF_RANGE", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED",
    500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}  # fmt: skip
"""Names of `google.rpc.Code` by the HTTP status that comes nearest."""

_TOO_LONG = "The input token count exceeds the maximum number of tokens allowed"


def error_body(error: MuxxError, request_id: str = "") -> bytes:
    """The error envelope. `code` is the HTTP status as an integer, which Google's SDK needs; `error` is its first member, by
    which that SDK knows an error inside a stream."""
    status = _STATUSES.get(error.status, "INVALID_ARGUMENT" if error.status < 500 else "INTERNAL")
    return dumps({"error": {"code": error.status, "message": worded(error, _TOO_LONG), "status": status}})


def error_event(error: MuxxError, request_id: str = "", number: int | None = None) -> bytes:
    """What ends a broken stream: the envelope as one event."""
    return as_event(error_body(error, request_id))


def as_event(data: bytes) -> bytes:
    """JSON of one line as an event, with the line ends that Google's have."""
    return b"data: " + data + b"\r\n\r\n"
