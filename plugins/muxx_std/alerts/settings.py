"""Who is told, and how they are reached: `[plugins.alerts]`. Secrets stay in the file, so projects name receivers only."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from muxx import Config, PluginConfig, is_web_address

PORTS = {"none": 25, "starttls": 587, "tls": 465}


def _web_address(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if not is_web_address(text) or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be an http:// or https:// URL with a host")
    return url


def _signing_secret(secret: SecretStr) -> SecretStr:
    if not 24 <= len(secret_bytes(secret)) <= 64:
        raise ValueError("must be 24 to 64 bytes in base64, as `openssl rand -base64 32` prints them")
    return secret


def secret_bytes(secret: SecretStr) -> bytes:
    """The bytes that sign, of a secret in base64, with or without `whsec_`; none of one that cannot be read."""
    try:
        return b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _address(text: str) -> str:
    if not re.fullmatch(r"[^\s@<>()\[\],;:\\\"]{1,64}@[A-Za-z0-9.-]{1,255}", text, re.ASCII) or not text.isascii():
        raise ValueError("must be an e-mail address, as in ops@example.org")
    return text


WebAddress = Annotated[SecretStr, AfterValidator(_web_address)]
SigningSecret = Annotated[SecretStr, AfterValidator(_signing_secret)]
Address = Annotated[str, AfterValidator(_address)]
ReceiverName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class Receiver(Table):
    kind: Literal["webhook", "slack", "email"]
    """A URL that takes signed JSON, an incoming webhook of Slack, or mail."""
    url: WebAddress | None = None
    """Where it is posted to, of a webhook and of Slack; Slack's is a secret."""
    secret: SigningSecret | None = None
    """What a webhook's signature is made with: 24 to 64 bytes in base64, with or without "whsec_"."""
    to: tuple[Address, ...] = Field((), max_length=50)
    """Who gets the mail."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Receiver:
        needed = {"webhook": {"url", "secret"}, "slack": {"url"}, "email": {"to"}}[self.kind]
        given = {name for name in ("url", "secret", "to") if getattr(self, name)}
        if given != needed:
            raise ValueError(f"of this kind it has {' and '.join(sorted(needed))}, and nothing else")
        return self


class Smtp(Table):
    host: str = Field(min_length=1, max_length=255)
    """The server that takes mail."""
    port: int | None = Field(None, ge=1, le=65535)
    """Unset: 587, or 465 with "tls", 25 with "none"."""
    security: Literal["none", "starttls", "tls"] = "starttls"
    """How the connection is made safe: by STARTTLS, by TLS from its first byte, or not at all."""
    user: str | None = None
    """Who logs in; unset: nobody does."""
    password: SecretStr | None = None
    from_: Address = Field(alias="from")
    """Who the mail is from."""

    @model_validator(mode="after")
    def _safe(self) -> Smtp:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password come together")
        if self.user is not None and self.security == "none":
            raise ValueError("a password is sent over a safe connection only: set security to starttls or tls")
        return self

    @property
    def port_used(self) -> int:
        return self.port or PORTS[self.security]


class AlertsConfig(PluginConfig):
    receivers: dict[ReceiverName, Receiver] = Field(default_factory=dict, max_length=100)
    """Who can be told, by the names that alerts have in `to`."""
    smtp: Smtp | None = None
    """The mail server, for receivers of kind "email"."""
    check_every_s: float = Field(3, ge=0.05, le=3600)
    """How often the spend of projects with alerts is looked at."""
    first_retry_s: float = Field(10, ge=0.05, le=3600)
    """Pause after a delivery has failed for the first time; it doubles each time, up to an hour, for a day."""

    @model_validator(mode="after")
    def _mail_has_a_server(self) -> AlertsConfig:
        if self.smtp is None and any(receiver.kind == "email" for receiver in self.receivers.values()):
            raise ValueError("a receiver gets mail, so [plugins.alerts.smtp] needs host and from")
        return self

    def problems_in(self, config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Alerts that name nobody there is."""
        for number, alert in enumerate(config.project.alerts):
            for place, name in enumerate(alert.to):
                if name not in self.receivers:
                    yield ("project", "alerts", number, "to", place), self.no_such_receiver(name)

    def no_such_receiver(self, name: str) -> str:
        near = get_close_matches(name, self.receivers, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"there is no receiver of this name in [plugins.alerts.receivers]{hint}"

    def chosen(self, to: tuple[str, ...]) -> tuple[str, ...]:
        """The receivers of an alert: those it names, or all there are."""
        return to or tuple(self.receivers)
