"""`check_plugin`: what a start would refuse, in its words, and what a reviewer would say."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from careless import Careless

import muxx
from muxx import StartError, hookimpl
from muxx.testing import check_plugin


def test_a_plugin_with_nothing_to_be_said_of_it_gets_no_advice() -> None:
    class Fine:
        @hookimpl
        async def post_response(self, exchange: muxx.Exchange) -> None: ...

    assert check_plugin(Fine) == []


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {}


def refused(sentence: str) -> Callable[[Callable[[], Any]], None]:
    def note(make: Callable[[], Any]) -> None:
        REFUSED[sentence] = make, sentence

    return note


@refused("unknown hook 'on_chunck': needs a newer muxx, or did you mean 'on_chunk'?")
def _unknown_hook() -> Any:
    class Plugin:
        @hookimpl
        def on_chunck(self) -> None: ...

    return Plugin


@refused("pre_request() is named like a hook but not marked; put @muxx.hookimpl above it")
def _unmarked() -> Any:
    class Plugin:
        def pre_request(self) -> None: ...

    return Plugin


@refused("lifespan must be an `async def` with exactly one `yield`")
def _wrong_lifespan() -> Any:
    class Plugin:
        @hookimpl
        async def lifespan(self) -> None: ...

    return Plugin


@refused("could not start: RuntimeError")
def _broken_start() -> Any:
    class Plugin:
        @hookimpl
        async def lifespan(self) -> AsyncIterator[None]:
            raise RuntimeError("no")
            yield

    return Plugin


async def answered(gateway: muxx.Gateway, request: muxx.HttpRequest) -> muxx.Reply:
    return muxx.Reply()


@refused("it serves /v1/models, which is the kernel's; give its route another path")
def _reserved_route() -> Any:
    class Plugin:
        @hookimpl
        def register_routes(self) -> list[muxx.Route]:
            return [muxx.Route("GET", "/v1/models", answered)]

    return Plugin


@refused("in register_commands: there is a command 'serve' already); upgrade it or switch it off")
def _taken_command() -> Any:
    class Plugin:
        @hookimpl
        def register_commands(self, cli: Any) -> None:
            @cli.command()
            def serve() -> None: ...

    return Plugin


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_a_start_would_refuse_is_refused_in_the_same_words(sentence: str) -> None:
    make, _ = REFUSED[sentence]
    with pytest.raises(StartError) as caught:
        check_plugin(make())
    assert sentence in str(caught.value)


async def test_advice_is_given_for_everything_a_reviewer_would_see(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    found = [str(finding) for finding in check_plugin(Careless)]
    for said in (
        "unmarked: on_chunks() looks like on_chunk",
        "blocks: pre_request() calls time.sleep",
        "blocks: pre_request held the event loop for",
        "undescribed: Config.api_key",
        "secret: Config.api_key is plain text",
        "shared: Careless.seen is a list on the class",
        "shared: careless.SHARED changed while the plugin ran",
        "table: table counts does not begin with the plugin's name: call it careless_counts",
        "private: careless imports muxx.plugins",
        "twice: a row that came again changed the tables",
        "crash: post_response raised KeyError",
        "fast-path: on_chunk changed nothing here",
    ):
        assert any(line.startswith(said) for line in found), said
    assert len(found) == 12
