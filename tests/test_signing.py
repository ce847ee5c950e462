"""The seam for providers that muxx does not ship: a plugin brings the row, and signs or readdresses each attempt in `pre_attempt`.

Two stand for the two known ways: AWS signs the bytes of each request (Bedrock), Google Cloud takes a token and has the model in
the path (Vertex AI).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from carrying_kit import both_transports, error_code, serving

from muxx import Attempt, Exchange, Provider, hookimpl
from muxx.testing import RecordedRequest, RunningGateway, Said, ScriptedUpstream, answer, error, json, sse
from muxx.testing.speaking import plain as spoken
from muxx.testing.speaking import streamed

SECRET = b"not-a-secret"
SIGNED = "content-type;host;x-amz-content-sha256"


def signature(target: str, host: str, payload_hash: str) -> str:
    """AWS's scheme in small: a canonical request with the hash of its body, under a key."""
    canonical = "\n".join(["POST", target, f"content-type:application/json\nhost:{host}", SIGNED, payload_hash])
    return hmac.new(SECRET, canonical.encode(), hashlib.sha256).hexdigest()


class Signs:
    """A provider of Anthropic's format whose requests are signed."""

    @hookimpl
    def register_providers(self) -> list[Provider]:
        return [Provider("bedrock", "https://bedrock.invalid/v1", format="anthropic", prices="anthropic")]

    @hookimpl
    def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
        if attempt.target.provider.name == "bedrock":
            attempt.sign = self.sign

    def sign(self, attempt: Attempt) -> None:
        host, slash, target = attempt.url.removeprefix("http://").partition("/")
        payload_hash = hashlib.sha256(attempt.payload).hexdigest()
        attempt.headers["x-amz-content-sha256"] = payload_hash
        attempt.headers["authorization"] = f"AWS4-HMAC-SHA256 Signature={signature(slash + target, host, payload_hash)}"


class ChangesLater:
    """A plugin that changes the body after the one that signs."""

    @hookimpl(trylast=True)
    def pre_attempt(self, attempt: Attempt) -> None:
        attempt.body["max_tokens"] = 77


class Readdresses:
    """A provider of Anthropic's format that has the model in the path and wants a token."""

    @hookimpl
    def register_providers(self) -> list[Provider]:
        return [Provider("vertex", "https://vertex.invalid/v1", format="anthropic", prices="anthropic")]

    @hookimpl
    def pre_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
        if attempt.target.provider.name == "vertex":
            base = attempt.url.removesuffix("/messages")
            way = "streamRawPredict" if exchange.request.stream else "rawPredict"
            attempt.url = f"{base}/projects/p/publishers/anthropic/models/{attempt.target.model}:{way}"
            attempt.headers["authorization"] = "Bearer ya29.token"
            attempt.body["anthropic_version"] = "vertex-2023-10-16"


class CannotSign(Signs):
    def sign(self, attempt: Attempt) -> None:
        raise KeyError("credentials")


def is_signed(request: RecordedRequest) -> bool:
    payload_hash = hashlib.sha256(request.body).hexdigest()
    expected = signature(request.target, request.header("host") or "", payload_hash)
    return request.header("authorization") == f"AWS4-HMAC-SHA256 Signature={expected}"


@asynccontextmanager
async def before(name: str, transport: str = "lean", **plugins: type) -> AsyncIterator[RunningGateway]:
    """A gateway whose provider of this name is its upstream."""
    async with ScriptedUpstream() as upstream:
        config = {"providers": {name: {"base_url": upstream.base_url}}}
        async with serving(transport, config, upstream=upstream, plugins=plugins) as gateway:
            yield gateway


@both_transports
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ["messages", "chat", "generate_content"])
async def test_what_is_signed_is_what_is_sent_byte_for_byte(transport: str, stream: bool, endpoint: str) -> None:
    async with before("bedrock", transport, signs=Signs, later=ChangesLater) as gateway:
        gateway.upstream.says("Signed and sealed.")
        response = await gateway.ask(endpoint, model="bedrock/claude-3-5-sonnet", stream=stream)
        assert response.said(endpoint).text == "Signed and sealed."
        [request] = gateway.upstream.requests
        assert is_signed(request)
        assert request.json()["max_tokens"] == 77, "a later plugin's change is signed too"
        row = await gateway.get_row(response.request_id)
        assert (row["provider"], row["status"]) == ("bedrock", 200)
        assert row["cost_usd"] not in (None, "0")


async def test_each_attempt_is_signed_by_itself() -> None:
    config = {"name": "safe", "targets": ["bedrock/claude-3-5-sonnet"], "retries": 2}
    async with ScriptedUpstream() as upstream:
        options = {"providers": {"bedrock": {"base_url": upstream.base_url}}, "models": [config]}
        async with serving(config=options, upstream=upstream, plugins={"signs": Signs}) as gateway:
            upstream.script(error(529), error(529), answer(Said("Third time lucky.")))
            response = await gateway.ask("messages", model="safe")
            assert response.said("messages").text == "Third time lucky."
            assert len(upstream.requests) == 3
            assert all(map(is_signed, upstream.requests))


async def test_a_plugin_that_cannot_sign_refuses_the_request_and_nothing_is_sent() -> None:
    async with before("bedrock", signs=CannotSign) as gateway:
        response = await gateway.ask("chat", model="bedrock/claude-3-5-sonnet")
        assert (response.status, error_code(response)) == (500, "plugin_error")
        assert gateway.upstream.requests == []
        row = await gateway.get_row(response.request_id)
        assert (row["status"], row["cost_usd"], row["usage_source"]) == (500, "0", "none")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_plugin_may_readdress_an_attempt_and_bring_its_own_token(stream: bool) -> None:
    async with before("vertex", readdresses=Readdresses) as gateway:
        said = Said("From another cloud.")
        script = sse(b"".join(streamed("messages", said, "m"))) if stream else json(orjson.loads(spoken("messages", said, "m")))
        gateway.upstream.script(script)
        response = await gateway.ask("chat", model="vertex/claude-3-5-haiku", stream=stream)
        assert response.said("chat").text == "From another cloud."
        [request] = gateway.upstream.requests
        way = "streamRawPredict" if stream else "rawPredict"
        assert request.target == f"/v1/projects/p/publishers/anthropic/models/claude-3-5-haiku:{way}"
        assert request.header("authorization") == "Bearer ya29.token"
        assert request.json()["anthropic_version"] == "vertex-2023-10-16"
