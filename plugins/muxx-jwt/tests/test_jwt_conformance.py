"""The conformance suite of muxx, for callers with a token of an issuer that runs beside, and for those with a key of muxx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jwt_kit import KeyServer, Signer, settings
from muxx.testing import aside
from muxx.testing.conformance import FEW_WAYS, Conformance, Subject

from muxx_jwt import NAME, Jwt


class TestJwt(Conformance):
    plugin = Jwt
    name = NAME
    ways = FEW_WAYS

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Iterator[Subject]:
        signer = Signer()
        with aside(KeyServer(signer)) as server:
            token = signer.token()
            yield cls.described(settings=settings(server.url), headers={"Authorization": f"Bearer {token}"})


@pytest.mark.soak
class TestJwtOnAllWays(TestJwt):
    ways = ()


class TestJwtBesideKeys(Conformance):
    plugin = Jwt
    name = NAME
    ways = FEW_WAYS

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Iterator[Subject]:
        with aside(KeyServer(Signer())) as server:
            yield cls.described(settings=settings(server.url))
