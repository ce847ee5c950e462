"""`[plugins.jwt]` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from muxx import PluginConfig
from pydantic import AfterValidator, Field, model_validator

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _keys_address(text: str) -> str:
    """Whoever can change what comes from this address can make tokens, so nobody may stand between."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or not text.isprintable() or " " in text:
        raise ValueError("must be an https:// URL with a host")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        raise ValueError("must be an https:// URL: over plain http anybody on the way could put in keys of their own")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("may hold neither a user nor a fragment; a key set is public")
    return text


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Those with a key pair. `none` and the HS family, whose key would have to be a secret both sides hold, are not to be had."""
Text = Annotated[str, Field(min_length=1, max_length=1000)]
ProjectName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Pattern = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


class JwtConfig(PluginConfig):
    issuer: Text
    """Who must have issued a token: its `iss`, letter for letter."""
    audience: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Whom a token must be meant for: one of these has to be in its `aud`."""
    jwks_url: Annotated[str, AfterValidator(_keys_address)]
    """Where the issuer publishes its keys."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256",)
    """Signatures that are accepted."""
    leeway_s: float = Field(30, ge=0, le=300)
    """How far the issuer's clock may be from this one."""
    require: tuple[Text, ...] = ()
    """Claims a token must have, besides exp, iss and aud."""
    match: dict[Text, Annotated[tuple[Text, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Claims that must say, or hold, one of these texts."""

    project: ProjectName | None = None
    """The project of every token, or of those without the `project_claim`."""
    project_claim: Text | None = None
    """The claim that names a token's project."""
    models: tuple[Pattern, ...] = ()
    """Models every token may use, or those without the `models_claim`; empty means all."""
    models_claim: Text | None = None
    """The claim that lists the models a token may use."""
    user_claim: Text = "sub"
    """The claim that names the user."""
    believe_user_header: bool = False
    """Let X-Muxx-User-Id, where it is sent, go before the token's user: for services that ask on behalf of others."""
    environment: Literal["live", "test"] = "live"
    """Where the requests are logged."""

    refresh_s: Seconds = 300
    """How old the keys get before they are fetched again."""
    min_interval_s: Seconds = 10
    """The issuer is never asked more often than this, whatever tokens come."""
    max_age_s: Seconds = 86400
    """How long keys are good for while the issuer cannot be reached."""
    fetch_timeout_s: float = Field(5, gt=0, le=60)
    """How long a fetch may take."""
    require_keys_at_start: bool = False
    """Do not start without the issuer's keys; otherwise tokens get 503 until they have come."""
    remember: int = Field(10_000, ge=0, le=1_000_000)
    """How many checked tokens are kept in memory, besides each connection's own."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.project is None and self.project_claim is None:
            raise ValueError('say which project tokens belong to: project = "NAME", or project_claim = "CLAIM"')
        if not self.min_interval_s <= self.refresh_s <= self.max_age_s:
            raise ValueError("min_interval_s may not be above refresh_s, nor refresh_s above max_age_s")
        return self
