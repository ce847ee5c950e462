"""`X-Muxx-Cache-Control`: RFC 9111's request directives, as far as they mean something here."""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "x-muxx-cache-control"

_DIRECTIVE = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?""")


class Directives(NamedTuple):
    """What a caller says. `max_age` is in seconds, None where nothing was said."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: float | None = None


def parse(text: str | None) -> Directives:
    """The directives in a header's value. Unknown ones are ignored; a `max-age` that is no number of seconds counts as 0, the
    strictest, as RFC 9111 (4.2.1) has stale."""
    if not text:
        return Directives()
    said = {name.lower(): quoted or plain for name, quoted, plain in _DIRECTIVE.findall(text)}
    age = said.get("max-age")
    seconds = None if age is None else float(age) if age.isascii() and age.isdecimal() else 0.0
    return Directives("no-cache" in said, "no-store" in said, "only-if-cached" in said, seconds)
