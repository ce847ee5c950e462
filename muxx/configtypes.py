"""The kinds of values the configuration file holds: what each may be, said in words when it is not. No word repeats a value."""

from __future__ import annotations

import os
import re
import ssl
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr, ValidationInfo, WithJsonSchema

from .processes import usable_cores
from .reply import AT_TIMES_HEADERS, KERNEL_HEADERS
from .request import CREDENTIAL_HEADERS

FRAMING_HEADERS = frozenset(
    {"connection", "content-encoding", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def _resolved(path: Path, info: ValidationInfo) -> Path:
    """A path in the file is relative to the file; one given from code, to the working directory."""
    if "\0" in str(path):
        raise ValueError("may not hold a NUL character")
    return Path((info.context or {}).get("directory") or Path.cwd()) / path


def _real(path: Path) -> Path:
    """Where symbolic links lead: what lies beside a database lies beside the file itself, as SQLite has it too."""
    return Path(os.path.realpath(path))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError("there is no such file")
    return path


def _authorities(path: Path) -> Path:
    """Without this every request to the provider would fail, and the start and the check say nothing."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    return path


def _header_safe(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]*", secret.get_secret_value()):
        raise ValueError("may hold printable ASCII without spaces only, for it is sent in a header")
    return secret


def is_web_address(text: str) -> bool:
    """True for http(s) with a host. Whatever `urlsplit` objects to is dropped, for it quotes its input."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _base_url(text: str) -> str:
    if not is_web_address(text) or " " in text:
        raise ValueError("must be an http:// or https:// URL with a host")
    if set("?#") & set(text) or "@" in urlsplit(text).netloc:
        raise ValueError("may not hold a user, a query or a fragment; put the key into api_key")
    return text.rstrip("/")


def _proxy(text: str) -> str:
    if not is_web_address(text):
        raise ValueError("must be an http:// or https:// URL with a host")
    return text


def _header_name(name: str) -> str:
    """Extra headers to pass on may carry neither a credential nor the framing of the message."""
    name = name.lower()
    if not re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError("must be a header's name")
    if name in CREDENTIAL_HEADERS | FRAMING_HEADERS or name.startswith("x-muxx-"):
        raise ValueError("is a header that muxx never passes on")
    return name


def _response_header(name: str) -> str:
    name = _header_name(name)
    if name in KERNEL_HEADERS | AT_TIMES_HEADERS:
        raise ValueError("is a header that muxx writes itself")
    return name


def _auth_header(name: str) -> str:
    name = name.lower()
    if not re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]+", name) or name in FRAMING_HEADERS:
        raise ValueError("must be the name of a header that can carry a key")
    return name


def _matching(pattern: str, words: str) -> tuple[AfterValidator, WithJsonSchema]:
    """A pattern for text, said in `words` when it is not met."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(words)
        return text

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


def _duration(value: Any) -> Any:
    """Seconds of "90s", "15m", "1h" or "7d"; a number as it is, for the type to judge, also one that a variable gave as text."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", value) if isinstance(value, str) else None
    if isinstance(value, str) and found is None and not value.isdecimal():
        raise ValueError('must be seconds, or a length such as "90s", "15m", "1h" or "7d"')
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]] if found else value


def _workers(value: Any) -> Any:
    if isinstance(value, str) and value != "auto" and not value.isdecimal():  # one that is decimal may be a variable's
        raise ValueError('must be a whole number or "auto"')
    return usable_cores() if value == "auto" else value


Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
TimeToLive = Annotated[
    int,
    Field(ge=1, le=366 * 86_400),
    BeforeValidator(_duration, json_schema_input_type=int | Annotated[str, Field(pattern=r"^\d{1,9}[smhd]$")]),
]
Workers = Annotated[
    int,
    Field(ge=1, le=1024),
    BeforeValidator(_workers, json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]),
]
Usd = Annotated[
    Decimal,
    Field(gt=0, le=4_000_000, max_digits=19, decimal_places=12, allow_inf_nan=False),
    PlainSerializer(lambda usd: f"{usd:f}", return_type=str, when_used="json"),
]
"""US dollars to the pico-dollar; the most is what a 64-bit integer of pico-dollars holds twice. Shown without an exponent."""
Count = Annotated[int, Field(ge=1, le=2**53)]
FilePath = Annotated[Path, AfterValidator(_resolved)]
DatabasePath = Annotated[FilePath, AfterValidator(_real)]
CaFile = Annotated[FilePath, AfterValidator(_existing), AfterValidator(_authorities)]
NAME, NAME_WORDS = r"[A-Za-z0-9][\w.-]{0,99}", "a name may hold letters, digits, '.', '_' and '-' only"
Name = Annotated[str, *_matching(NAME, NAME_WORDS)]
ModelName = Annotated[str, *_matching(r"[!-~]{1,256}", "must be 1 to 256 printable ASCII characters without spaces")]
TargetName = Annotated[str, *_matching(r"[A-Za-z0-9][\w.-]*/[!-~]{1,256}", "must be PROVIDER/MODEL, as in 'openai/gpt-4o'")]
EndpointName = Literal[
    "chat", "responses", "text_completion", "embeddings", "messages", "count_tokens", "generate_content", "count_content"
]
FallBackKind = Literal["content_filter", "context_length"]
Status = Annotated[int, Field(ge=400, le=599)]
AuthHeader = Annotated[str, AfterValidator(_auth_header)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
ResponseHeaderName = Annotated[str, AfterValidator(_response_header)]
ApiKey = Annotated[SecretStr, AfterValidator(_header_safe)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
ProxyUrl = Annotated[str, AfterValidator(_proxy)]
