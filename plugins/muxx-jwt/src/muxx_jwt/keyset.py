"""The issuer's keys: a JSON Web Key Set (RFC 7517), read with suspicion. Pure: bytes in, keys out.

A set is taken for what it says, even if that is nothing: an issuer that withdraws all its keys means it. A key in it that cannot
be used here (another kind, for encryption, too short, with its private half published) is left out; the others still count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

MOST_BYTES = 256 * 1024
MOST_KEYS = 100
RSA_BITS = range(2048, 8193)
"""Shorter ones can be broken; checking with longer ones holds up the gateway."""

_KINDS = {"RS": ("RSA", None), "PS": ("RSA", None), "Ed": ("OKP", "Ed25519")}
_CURVES = {"ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521")}


@dataclass(frozen=True)
class SigningKey:
    """One key with the one algorithm it is used with. `mark` is its whole public text: equal keys have equal marks."""

    kid: str | None
    algorithm: str
    mark: bytes
    key: jwt.PyJWK


class KeySet:
    """The keys of one fetch. What was verified with a key of this very object holds for as long as it is the present one."""

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        self.keys = tuple(keys)

    def find(self, kid: str | None, algorithm: str) -> SigningKey | None:
        """The one key a token may mean; without a `kid` there may be no second that suits."""
        suited = [key for key in self.keys if key.algorithm == algorithm and kid in (None, key.kid)]
        return suited[0] if len(suited) == 1 else None

    def is_same(self, other: KeySet | None) -> bool:
        return other is not None and set(self._marks()) == set(other._marks())

    def _marks(self) -> Iterator[tuple[str | None, str, bytes]]:
        return ((key.kid, key.algorithm, key.mark) for key in self.keys)


def read_key_set(data: bytes, algorithms: Sequence[str]) -> KeySet:
    """The usable keys of a set; `ValueError` for what is no set."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ValueError("it is no JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it is no key set")
    if len(entries) > MOST_KEYS:
        raise ValueError(f"it holds more than {MOST_KEYS} keys")
    return KeySet(key for entry in entries for name in algorithms if (key := _signing_key(entry, name)) is not None)


def _signing_key(entry: dict[str, Any], algorithm: str) -> SigningKey | None:
    """The entry as a key for this algorithm; None where it is none."""
    kid = entry.get("kid")
    if not (kid is None or isinstance(kid, str)) or not _is_meant_for(entry, algorithm):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm)
    except Exception:  # the entry is foreign: whatever the library trips over in it, it is no key
        return None
    if key.key_type == "RSA" and key.key.key_size not in RSA_BITS:
        return None
    return SigningKey(kid, algorithm, orjson.dumps(entry, option=orjson.OPT_SORT_KEYS), key)


def _is_meant_for(entry: dict[str, Any], algorithm: str) -> bool:
    """Whether the kind of key, and what the issuer says of its use, fit the algorithm. The token's word is not asked."""
    kind, curve = _CURVES.get(algorithm) or _KINDS[algorithm[:2]]
    operations = entry.get("key_ops")
    return (
        entry.get("kty") == kind
        and curve in (None, entry.get("crv"))
        and "d" not in entry
        and entry.get("use", "sig") == "sig"
        and entry.get("alg", algorithm) == algorithm
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
    )
