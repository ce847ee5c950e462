"""What may be asked of the log: a filter, the words it is asked in, and the SQL it becomes.

A filter turns into fixed fragments of SQL and bound values. Nothing a caller sends is ever part of a statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from muxx import HttpRequest, Identity, InvalidRequest, moment_of

CACHE_VALUES = ("hit", "miss", "bypass", "joined")
ENVIRONMENTS = ("live", "test", "admin", "all")
DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
MAX_TEXT = 1000
METADATA = "metadata."

_NAMES = ("after", "cache", "environment", "from", "limit", "model", "provider", "q", "status", "to", "user_id")
_SHOWABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

MEMBER_VALUE = "CASE WHEN m.type IN ('true', 'false', 'null') THEN m.type ELSE CAST(m.value AS TEXT) END"
"""Of a member `m` of metadata, as text."""
_HAS_METADATA = " ".join(("EXISTS (SELECT 1 FROM json_each(g.metadata) AS m WHERE m.key = ? AND", MEMBER_VALUE, "= ?)"))
_HAS_TEXT = (
    "EXISTS (SELECT 1 FROM contents AS c WHERE c.request_id = g.request_id"
    " AND (c.input LIKE ? ESCAPE '\\' OR c.output LIKE ? ESCAPE '\\'))"
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows. None, or an empty tuple, means any. `since` is included, `until` is not."""

    project: str | None = None
    environment: str | None = "live"
    model: str | None = None
    provider: str | None = None
    user_id: str | None = None
    status: int | None = None
    cache: str | None = None
    since: float | None = None
    until: float | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    text: str | None = None

    @property
    def spelt_text(self) -> str | None:
        """The text as content spells it, which is JSON."""
        return None if self.text is None else orjson.dumps(self.text)[1:-1].decode()

    def where(self) -> tuple[list[str], list[Any]]:
        """Conditions on `generations AS g`, to be joined with AND, and the values they bind."""
        conditions: list[str] = []
        values: list[Any] = []

        def add(condition: str, *bound: Any) -> None:
            conditions.append(condition)
            values.extend(bound)

        for condition, value in (
            ("g.project = ?", self.project),
            ("g.environment = ?", self.environment),
            ("g.provider = ?", self.provider),
            ("g.user_id = ?", self.user_id),
            ("g.status = ?", self.status),
            ("g.cache = ?", self.cache),
            ("g.started_at >= ?", self.since),
            ("g.started_at < ?", self.until),
        ):
            if value is not None:
                add(condition, value)
        if self.model is not None:
            add("(g.model = ? OR g.model_requested = ?)", self.model, self.model)
        for key, value in self.metadata:
            add(_HAS_METADATA, key, value)
        if self.spelt_text is not None:
            pattern = like_pattern(self.spelt_text)
            add(_HAS_TEXT, pattern, pattern)
        return conditions or ["1"], values


def like_pattern(text: str) -> str:
    """A LIKE pattern for whatever holds `text`."""
    return "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


@dataclass(frozen=True, slots=True)
class Page:
    """How many rows, and after which one."""

    limit: int = DEFAULT_LIMIT
    after: str | None = None


def asking(request: HttpRequest) -> Identity:
    """Who asks at a project's route."""
    if request.identity is None:
        raise RuntimeError("the kernel calls a project's route with an identity")
    return request.identity


def parse(query: Mapping[str, str], identity: Identity) -> tuple[Filter, Page]:
    """The query parameters of `GET /v1/logs`, as far as `identity` may see. Raises `InvalidRequest` naming the parameter.

    A project key is bound to its project, whatever it asks for; only an admin key knows a parameter `project`.
    """
    admin = identity.role == "admin"
    _refuse_unknown(query, (*_NAMES, "project") if admin else _NAMES)
    for name, value in query.items():
        _require_unicode(name, value)
    environment = _choice(query, "environment", ENVIRONMENTS) or "live"
    filter = Filter(
        project=query.get("project") if admin else identity.project,
        environment=None if environment == "all" else environment,
        model=query.get("model"),
        provider=query.get("provider"),
        user_id=query.get("user_id"),
        status=_integer(query, "status", 100, 599),
        cache=_choice(query, "cache", CACHE_VALUES),
        since=_moment(query, "from"),
        until=_moment(query, "to"),
        metadata=tuple((name[len(METADATA) :], value) for name, value in query.items() if name.startswith(METADATA)),
        text=_search_text(query),
    )
    return filter, Page(_integer(query, "limit", 1, MAX_LIMIT) or DEFAULT_LIMIT, query.get("after"))


def _refuse_unknown(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    unknown = [name for name in query if name not in known and not name.startswith(METADATA)]
    if unknown:
        names = [name for name in unknown if _SHOWABLE.fullmatch(name)]
        what = "Unknown query parameter: " + (", ".join(names) or "its name cannot be shown")
        raise InvalidRequest(f"{what}. Known are {', '.join(known)} and metadata.KEY.", param=names[0] if names else None)


def _require_unicode(name: str, value: str) -> None:
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("The query string is not valid UTF-8.") from None


def _choice(query: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = query.get(name)
    if value is not None and value not in allowed:
        raise InvalidRequest(f"{name} must be one of {', '.join(allowed)}.", param=name)
    return value


def _integer(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else -1
    if not least <= number <= most:
        raise InvalidRequest(f"{name} must be an integer from {least} to {most}.", param=name)
    return number


def _moment(query: Mapping[str, str], name: str) -> float | None:
    value = query.get(name)
    try:
        return None if value is None else moment_of(value)
    except ValueError:
        what = f"{name} must be ISO 8601 (2026-11-22T10:00:00Z; write + as %2B) or epoch seconds."
        raise InvalidRequest(what, param=name) from None


def _search_text(query: Mapping[str, str]) -> str | None:
    text = query.get("q")
    if text is not None and len(text) > MAX_TEXT:
        raise InvalidRequest(f"q may be at most {MAX_TEXT} characters long.", param="q")
    return text or None
