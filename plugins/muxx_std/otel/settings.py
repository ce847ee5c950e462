"""Where spans go, and what of a request they tell: `[plugins.otel]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from muxx import Config, PluginConfig, is_web_address

PATH = "/v1/traces"
OURS = {"content-type", "content-length", "content-encoding", "host"}


def _web_address(url: str) -> str:
    usable = is_web_address(url) and re.fullmatch(r"[!-~]+", url)
    if url and (not usable or (parts := urlsplit(url)).query or parts.fragment or "@" in parts.netloc):
        raise ValueError('must be an http:// or https:// URL without user, query and fragment, as in "http://127.0.0.1:4318"')
    return url.rstrip("/")


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", name) or name.lower() in OURS:
        raise ValueError("must be the name of an HTTP header, and none that says what is sent")
    return name


def _header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", value.get_secret_value()):
        raise ValueError("must be printable ASCII")
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
Told = Literal["user_id", "client_ip", "metadata"]


class OtelConfig(PluginConfig):
    endpoint: WebAddress = ""
    """Where a collector takes OTLP over HTTP: spans are posted to /v1/traces there. Unset: none is."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, max_length=32)
    """What the collector knows the sender by, e.g. Authorization."""
    service_name: str = Field("muxx", min_length=1, max_length=255)
    """The `service.name` of the spans."""
    resource: dict[str, str] = Field(default_factory=dict, max_length=64)
    """More that is true of all spans, e.g. "deployment.environment.name"."""
    sample: float = Field(1.0, ge=0, le=1)
    """The share of requests that are traced; of those that come with a traceparent, their caller has decided."""
    tell: tuple[Told, ...] = ()
    """What spans tell beside: "user_id", "client_ip", "metadata"."""

    def problems_in(self, config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Spans that nothing here could write."""
        if self.endpoint and not _can_write():
            yield ("plugins", "otel", "endpoint"), "takes the extra otel: pip install 'muxx[otel]'"

    @property
    def url(self) -> str:
        return self.endpoint if self.endpoint.endswith(PATH) else self.endpoint + PATH


def _can_write() -> bool:
    try:
        return find_spec("opentelemetry.proto.collector.trace.v1.trace_service_pb2") is not None
    except ModuleNotFoundError:
        return False
