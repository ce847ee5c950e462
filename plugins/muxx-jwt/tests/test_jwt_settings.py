"""What `[plugins.jwt]` may say, and what an operator is told of a slip of the pen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from jwt_kit import PLUGINS, settings
from muxx import ConfigError
from muxx.testing import RunningGateway

URL = "https://login.example.org/keys"


async def problems(settings: Mapping[str, Any]) -> list[str]:
    """What a start with these settings fails with."""
    with pytest.raises(ConfigError) as caught:
        async with RunningGateway({"plugins": {"jwt": settings}}, plugins=PLUGINS):
            pass
    return [line.partition("plugins.jwt")[2] for line in caught.value.errors]


SLIPS: list[tuple[dict[str, Any], str]] = [
    (settings("http://login.example.org/keys"), ".jwks_url: must be an https:// URL: over plain http anybody on the way could "
     "put in keys of their own"),
    (settings("login.example.org"), ".jwks_url: must be an https:// URL with a host"),
    (settings("https://u:hunter2@login.example.org/"), ".jwks_url: may hold neither a user nor a fragment; a key set is public"),
    (settings(URL, project=None), ': say which project tokens belong to: project = "NAME", or project_claim = "CLAIM"'),
    (settings(URL, min_interval_s=400), ": min_interval_s may not be above refresh_s, nor refresh_s above max_age_s"),
    (settings(URL, max_age_s=100), ": min_interval_s may not be above refresh_s, nor refresh_s above max_age_s"),
    (settings(URL, audiance=["x"]), ".audiance: unknown key (did you mean 'audience'?)"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "said"), SLIPS)
async def test_a_slip_is_told_by_name_and_with_its_mend(table: dict[str, Any], said: str) -> None:
    table = {name: value for name, value in table.items() if value is not None}
    assert await problems(table) == [said]


@pytest.mark.parametrize("name", ["none", "None", "HS256", "HS512", "ES256K", "RS1"])
async def test_an_algorithm_without_a_key_pair_cannot_be_allowed(name: str) -> None:
    [said] = await problems(settings(URL, algorithms=[name]))
    assert said.startswith(".algorithms[0]: must be 'RS256', ")


@pytest.mark.parametrize("name", ["issuer", "audience", "jwks_url"])
async def test_what_every_check_needs_is_required(name: str) -> None:
    table = {key: value for key, value in settings(URL).items() if key != name}
    assert await problems(table) == [f".{name}: is required"]
    assert (await problems(settings(URL) | {name: [] if name == "audience" else ""})) != []


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:80"])
async def test_an_issuer_on_this_machine_may_speak_plain_http(host: str) -> None:
    assert await problems(settings(f"http://{host}/keys", audiance=["x"])) == [SLIPS[-1][1]]
