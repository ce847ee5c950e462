"""A token in; who is calling, or a refusal, out. Pure but for the clock.

The signature is checked by PyJWT. What it is checked against is decided here, from the configuration and the issuer's key set
alone: the token's header only picks among them. Its `jku`, `x5u`, `jwk` and `x5c`, with which a token would bring its own key,
are never read, and `crit` is refused, for whatever it calls critical is not understood here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jwt
from muxx import Identity

from .keyset import KeySet, SigningKey
from .refusals import BadToken, UnknownKey
from .settings import JwtConfig

LONGEST = 8192
"""Characters of a token. muxx takes header lines of 8190 bytes unless told otherwise."""
USER_BYTES = 256
"""As long as X-Muxx-User-Id may be."""
MOST_MODELS = 1000
NO_MODEL = ("",)
"""The allow-list of a token that may use no model: no name fits it, while an empty list would mean all."""

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PATTERN = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class TokenIdentity(Identity):
    """A caller known by a token, and the user it names."""

    user: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token came to, with the keys of that time. It holds until then, in Unix seconds."""

    keys: KeySet
    until: float
    identity: TokenIdentity


def verified(token: str, keys: KeySet, config: JwtConfig) -> Verified:
    """Who the token is of. `BadToken`, or its kind `UnknownKey`, when it is of nobody."""
    try:
        if len(token) > LONGEST or not token.isascii():
            raise BadToken
        key = _key_for(jwt.get_unverified_header(token), keys, config)
        claims = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=config.audience,
            issuer=config.issuer,
            leeway=config.leeway_s,
            options={"require": ["exp", "iss", "aud", *config.require]},
        )
        return Verified(keys, int(claims["exp"]) + config.leeway_s, identity_of(claims, config))
    except BadToken:
        raise
    except Exception as error:  # a token is foreign: whatever the library trips over in it, it lets nobody in
        raise BadToken from error


def _key_for(header: Mapping[str, Any], keys: KeySet, config: JwtConfig) -> SigningKey:
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in config.algorithms or "crit" in header or "b64" in header:
        raise BadToken
    key = keys.find(kid, algorithm)
    if key is None:
        raise BadToken if kid is None else UnknownKey
    return key


def identity_of(claims: Mapping[str, Any], config: JwtConfig) -> TokenIdentity:
    """The caller the claims of a valid token describe. `BadToken` where a claim the configuration relies on is missing or odd."""
    for name, wanted in config.match.items():
        said = claim(claims, name)
        if not any(text in wanted for text in (said if isinstance(said, list) else [said])):
            raise BadToken
    user = claim(claims, config.user_claim)
    if not isinstance(user, str) or not user.isprintable() or not 0 < len(user.encode()) <= USER_BYTES:
        raise BadToken
    return TokenIdentity(
        project=_project(claims, config),
        environment=config.environment,
        key_id=f"jwt:{user}",
        key_prefix="jwt",
        models=_models(claims, config),
        user=user,
    )


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that name; where there is none, dots lead into objects (`realm_access.roles`). None when it is not there."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _project(claims: Mapping[str, Any], config: JwtConfig) -> str:
    name = claim(claims, config.project_claim) if config.project_claim else None
    name = config.project if name is None else name
    if not isinstance(name, str) or not _PROJECT.fullmatch(name):
        raise BadToken
    return name


def _models(claims: Mapping[str, Any], config: JwtConfig) -> tuple[str, ...]:
    """Patterns of the models the token may use; a text lists them between blanks, as `scope` does."""
    if config.models_claim is None:
        return config.models
    listed = claim(claims, config.models_claim)
    if listed is None and config.models:
        return config.models
    names = listed.split() if isinstance(listed, str) else listed
    if not isinstance(names, list) or len(names) > MOST_MODELS:
        raise BadToken
    if not all(isinstance(name, str) and _PATTERN.fullmatch(name) for name in names):
        raise BadToken
    return tuple(cast("list[str]", names)) or NO_MODEL
