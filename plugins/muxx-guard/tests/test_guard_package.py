"""The distribution: what makes it a plugin, what its settings may say, and what its page says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import muxx
import orjson
import pytest
from guard_kit import PLUGINS, GuardService, gateway_for
from muxx.testing import RunningGateway

from muxx_guard import NAME, VERDICTS
from muxx_guard.protocol import Text, edits_of
from muxx_guard.settings import GuardConfig

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "README.md").read_text()


# ── the page ──


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def shown(default: Any) -> str:
    """A default as the page writes it."""
    return "none" if default is None else f"`{orjson.dumps(default).decode()}`"


def test_the_page_names_every_option_with_its_default_and_every_verdict() -> None:
    for option, field in GuardConfig.model_fields.items():
        if option not in muxx.PluginConfig.model_fields:
            row = re.search(rf"^\| `{option}` \| (.+?) \|", PAGE, re.M)
            assert row is not None, option
            assert row[1] == ("required" if field.is_required() else shown(field.default)), option
    assert all(f"`{verdict}`" in PAGE for verdict in VERDICTS)


@pytest.mark.parametrize("block", blocks("toml"))
async def test_a_gateway_starts_with_the_configuration_on_the_page(block: str) -> None:
    settings = tomllib.loads(block.replace("${GUARD_TOKEN}", "x"))
    settings["plugins"][NAME] |= {"requests": False, "answers": False}
    async with RunningGateway(settings, plugins=PLUGINS) as gateway:
        assert (await gateway.chat()).status == 200


async def test_the_question_on_the_page_has_the_members_of_a_real_one() -> None:
    question, *_ = map(json.loads, blocks("json"))
    async with GuardService() as service, gateway_for(service) as gateway:
        await gateway.chat()
    for real in service.questions:
        assert real.keys() == question.keys()
        assert all(text.keys() == question["texts"][0].keys() for text in real["texts"])


def test_the_answers_on_the_page_are_verdicts() -> None:
    question, *verdicts = blocks("json")
    texts = [Text(**text) for text in json.loads(question)["texts"]]
    yes, changed, no = verdicts
    assert edits_of(yes.encode(), texts) == [[]]
    [[(start, end, new)]] = edits_of(changed.encode(), texts)
    assert (texts[0].text[start:end], new) == ("Ada", "[NAME]")
    with pytest.raises(Exception, match=r"^violence$"):
        edits_of(no.encode(), texts)


async def test_the_service_on_the_page_is_one() -> None:
    [source] = blocks("python")
    module: dict[str, Any] = {"__name__": "service"}
    exec(compile(source, "README.md", "exec"), module)
    async with GuardService() as service, gateway_for(service) as gateway:
        service.judge = module["judged"]
        assert (await gateway.chat("Hello")).status == 200
        refused = await gateway.chat("This is confidential.")
        assert (refused.status, refused.error["code"]) == (400, "guard_refused")
    [route] = module["app"].router.routes()
    assert (route.method, route.resource.canonical) == ("POST", "/judge")


# ── settings ──


async def problems(settings: Mapping[str, Any]) -> list[str]:
    """What a start with these settings fails with."""
    with pytest.raises(muxx.ConfigError) as caught:
        async with RunningGateway({"plugins": {NAME: settings}}, plugins=PLUGINS):
            pass
    return [line.partition("plugins.guard")[2] for line in caught.value.errors]


URL = "http://127.0.0.1:9/judge"
SLIPS: list[tuple[dict[str, Any], str]] = [
    ({}, ".url: is required"),
    ({"url": "example.org"}, ".url: must be an http:// or https:// URL with a host"),
    ({"url": "http://[::1"}, ".url: must be an http:// or https:// URL with a host"),
    ({"url": "http://example.org:0/"}, ".url: must be an http:// or https:// URL with a host"),
    ({"url": "https://u:hunter2@example.org/"}, ".url: may not hold a user; put the service's secret into token"),
    ({"url": URL, "token": "a b"}, ".token: may hold printable ASCII without spaces only, for it is sent in a header"),
    ({"url": URL, "overlap_chars": 200, "batch_chars": 200}, ": overlap_chars must be below batch_chars, or a long text would "
     "never end"),
    ({"url": URL, "on_failure": "alow"}, ".on_failure: must be 'refuse' or 'allow' (did you mean 'allow'?)"),
    ({"url": URL, "windw_chars": 3}, ".windw_chars: unknown key (did you mean 'window_chars'?)"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), SLIPS)
async def test_a_slip_is_told_by_name_and_with_its_mend(settings: dict[str, Any], said: str) -> None:
    assert await problems(settings) == [said]
