"""Which tokens let whom in: read from running gateways, and, where the cases are many, from the pure function behind them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt_kit import ISSUER, PLUGINS, KeyServer, Signer, chat, gateway_for, settings, told
from muxx.testing import RunningGateway, get, leak

from muxx_jwt.keyset import KeySet, read_key_set
from muxx_jwt.refusals import BadToken
from muxx_jwt.settings import JwtConfig
from muxx_jwt.verify import LONGEST, NO_MODEL, TokenIdentity, verified

SIGNER = Signer()
STRANGER = Signer()
RSA = Signer("rsa", "RS256")
PUBLIC = RSA.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def made(header: Any, claims: Any, signature: bytes | Callable[[bytes], bytes] = b"") -> str:
    """A token put together by hand."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(signature if isinstance(signature, bytes) else signature(signed.encode()))}"


def hmac_with(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()


def now(seconds: float) -> int:
    return int(time.time() + seconds)


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": ISSUER, "aud": "muxx", "sub": "ada", "exp": now(3600)} | more


FORGED: dict[str, Callable[[], str]] = {
    "alg none": lambda: made({"alg": "none", "kid": "k1"}, claims()),
    "alg None in capitals": lambda: made({"alg": "NONE", "kid": "k1"}, claims()),
    "the public key taken for a secret": lambda: made({"alg": "HS256", "kid": "rsa"}, claims(), hmac_with(PUBLIC)),
    "a public key's own text taken for a secret": lambda: made(
        {"alg": "HS256", "kid": "k1"}, claims(), hmac_with(json.dumps(SIGNER.jwk()).encode())),
    "an empty secret": lambda: made({"alg": "HS256", "kid": "k1"}, claims(), hmac_with(b"")),
    "another's signature": lambda: STRANGER.token(),
    "no signature": lambda: SIGNER.token().rpartition(".")[0] + ".",
    "other claims under a good signature": lambda: swapped(SIGNER.token(), claims(sub="root")),
    "an algorithm that is not allowed": lambda: Signer("rsa", "RS512", RSA.private).token(),
    "an algorithm of another kind than the key": lambda: Signer("k1", "RS256").token(),
    "no algorithm": lambda: made({"kid": "k1"}, claims(), b"x" * 64),
    "an algorithm that is no text": lambda: made({"alg": ["ES256"], "kid": "k1"}, claims(), b"x" * 64),
    "a critical extension": lambda: SIGNER.token({"crit": ["exp"]}),
    "a critical extension the library knows": lambda: made(
        {"alg": "ES256", "kid": "k1", "b64": True, "crit": ["b64"]}, claims(), SIGNER.signature),
    "a detached body": lambda: SIGNER.token({"b64": False, "crit": ["b64"]}),
    "a key brought along": lambda: STRANGER.token({"jwk": STRANGER.jwk()}),
    "a kid that is a number": lambda: made({"alg": "ES256", "kid": 1}, claims(), b"x" * 64),
    "a kid that is a path": lambda: STRANGER.token({"kid": "../../../../dev/null"}),
    "a kid that is SQL": lambda: STRANGER.token({"kid": "k1' UNION SELECT 'x"}),
    "a kid with a NUL": lambda: STRANGER.token({"kid": "k1\0"}),
    "nothing but dots": lambda: "ey..",
    "five parts": lambda: SIGNER.token() + ".x.y",
    "a header that is no JSON": lambda: "eyJ!!.e30.x",
    "a header deeper than a parser's stack": lambda: f"{part(b'{' + b'[' * 3000)}.{part(claims())}.x",
    "a header whose kid is deeper than that": lambda: part(b'{"alg":"ES256","kid":' + b"[" * 3000) + f".{part(claims())}.x",
    "a body that is a list": lambda: signed_body([1]),
    "a body deeper than a parser's stack": lambda: signed_body(b"[" * 3000),
    "an endless number for its end": lambda: signed_body(json.dumps(claims(exp=12345)).replace("12345", "1e999").encode()),
}  # fmt: skip


def unfit() -> dict[str, dict[str, Any]]:
    """Claims that let nobody in, as of now."""
    return {
        "expired": {"exp": now(-31)},
        "without an end": {"exp": None},
        "not yet valid": {"nbf": now(60)},
        "issued in the future": {"iat": now(60)},
        "another issuer": {"iss": "https://login.example.com/"},
        "an issuer that only begins so": {"iss": ISSUER + "evil"},
        "no issuer": {"iss": None},
        "a list of issuers": {"iss": [ISSUER]},
        "another audience": {"aud": "mail"},
        "no audience": {"aud": None},
        "an empty audience": {"aud": []},
        "an audience that is an object": {"aud": {"muxx": 1}},
        "no user": {"sub": None},
        "a user that is a number": {"sub": 7},
        "a user with a line end": {"sub": "ada\r\nX-Admin: 1"},
        "a user of 257 bytes": {"sub": "a" * 257},
        "an end that is a text": {"exp": "tomorrow"},
    }


UNFIT = tuple(unfit())


def swapped(token: str, body: Any) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{part(body)}.{signature}"


def signed_body(body: Any) -> str:
    """Properly signed, whatever is in it."""
    return SIGNER.sign(body if isinstance(body, bytes) else json.dumps(body).encode(), {"kid": "k1"})


def keys_of(*entries: Any, algorithms: tuple[str, ...] = ("ES256", "RS256")) -> KeySet:
    return read_key_set(json.dumps({"keys": entries}).encode(), algorithms)


def config(**more: Any) -> JwtConfig:
    return JwtConfig.model_validate_json(json.dumps(settings("https://login.example.org/keys", **more)), strict=True)


def identity(token: str, *, of: KeySet | None = None, **more: Any) -> TokenIdentity:
    more = {"algorithms": ["ES256", "RS256"]} | more
    return verified(token, of or keys_of(SIGNER.jwk(), RSA.jwk()), config(**more)).identity


# ── who gets in ──


@pytest.mark.parametrize("stream", [False, True])
async def test_a_token_of_the_issuer_lets_its_user_in(stream: bool) -> None:
    async with KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        response = await chat(gateway, SIGNER.token(), stream=stream)
        assert response.status == 200
        row = await gateway.get_row(response.request_id)
    assert (row["project"], row["user_id"], row["key_prefix"], row["environment"]) == ("default", "ada", "jwt", "live")


async def test_a_token_reads_its_own_project_and_administers_nothing() -> None:
    async with KeyServer(SIGNER) as server, gateway_for(server, project_claim="team") as gateway:
        red, blue = SIGNER.token(team="red"), SIGNER.token(team="blue")
        response = await chat(gateway, red)
        own, others = [await get(gateway.base_url, f"/v1/logs/{response.request_id}", token) for token in (red, blue)]
    assert (own.status, own.json()["project"]) == (200, "red")
    assert others.status == 404


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_every_algorithm_with_a_key_pair_can_be_allowed(algorithm: str) -> None:
    signer = Signer("k", algorithm)
    found = identity(signer.token(), of=keys_of(signer.jwk(), algorithms=(algorithm,)), algorithms=[algorithm])
    assert found.user == "ada"


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("seconds", [0, 20, 20.5])
def test_clocks_may_differ_a_little(claim: str, seconds: float) -> None:
    then = time.time() + (-seconds if claim == "exp" else seconds)
    assert identity(SIGNER.token(**{claim: then})).project == "default"


@pytest.mark.parametrize("good", [{"aud": ["mail", "muxx"]}, {"sub": "Ada L."}], ids=str)
def test_an_audience_may_be_one_of_several_and_a_user_any_text(good: dict[str, Any]) -> None:
    assert identity(SIGNER.token(**good)).user == good.get("sub", "ada")


# ── who does not ──


async def test_every_bad_token_gets_one_and_the_same_answer() -> None:
    server = KeyServer(SIGNER, RSA, Signer("other"))
    tokens = {name: make() for name, make in FORGED.items()} | {name: SIGNER.token(**bad) for name, bad in unfit().items()}
    async with server, gateway_for(server, algorithms=["ES256", "RS256"]) as gateway:
        wanted = told(await chat(gateway, SIGNER.token() + "A"))
        for name, token in tokens.items():
            assert told(await chat(gateway, token)) == wanted, name
        assert (await chat(gateway, SIGNER.token())).status == 200
        assert len(gateway.upstream.requests) == 1
    status, headers, body = wanted
    assert status == 401
    assert ("WWW-Authenticate", "Bearer") in headers
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
    assert dict(headers)["x-should-retry"] == "false"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_of_nobody(name: str) -> None:
    with pytest.raises(BadToken):
        identity(FORGED[name]())


@pytest.mark.parametrize("name", UNFIT)
def test_claims_that_do_not_fit_let_nobody_in(name: str) -> None:
    with pytest.raises(BadToken):
        identity(SIGNER.token(**unfit()[name]))


async def test_addresses_of_keys_in_a_token_are_never_called() -> None:
    evil = KeyServer(STRANGER)
    async with evil, KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        for header in ({"jku": evil.url}, {"x5u": evil.url}, {"jku": evil.url, "kid": "new"}):
            assert (await chat(gateway, STRANGER.token(header))).status == 401
        assert (await chat(gateway, SIGNER.token({"jku": evil.url}))).status == 200
    assert evil.asked == 0


async def test_a_huge_token_is_refused_as_any_other() -> None:
    huge = SIGNER.token(padding="x" * LONGEST)
    async with KeyServer(SIGNER) as server:
        config = {"server": {"max_header_bytes": 65536}, "plugins": {"jwt": settings(server.url)}}
        async with RunningGateway(config, plugins=PLUGINS) as gateway:
            response, wanted = await chat(gateway, huge), await chat(gateway, "eyJ..")
    assert told(response) == told(wanted)
    assert response.status == 401


async def test_bytes_that_are_no_ascii_are_a_bad_token() -> None:
    async with KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        wanted = told(await chat(gateway, "eyJ.."))
        for junk in (b"\xc3\xa9", b"\x80", b"\xff\xfe", b"\xef\xbc\xa1"):
            async with await gateway.connect() as client:
                head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer eyJ" + junk + b".e30.x\r\n"
                await client.send(head + b"Content-Length: 2\r\n\r\n{}")
                assert told(await client.read_response()) == wanted
        assert wanted[0] == 401


# ── what the claims mean ──


def test_claims_say_project_models_and_user() -> None:
    token = SIGNER.token(team="red", llm={"models": ["gpt-4o*", "mock"]}, email="ada@example.org")
    found = identity(token, project_claim="team", models_claim="llm.models", user_claim="email", environment="test")
    assert found == TokenIdentity(
        project="red", environment="test", key_id="jwt:ada@example.org", key_prefix="jwt", models=("gpt-4o*", "mock"),
        user="ada@example.org",
    )  # fmt: skip
    assert found.role == "project"


def test_a_claim_with_dots_in_its_own_name_is_found_by_it() -> None:
    name = "https://example.org/project"
    assert identity(SIGNER.token(**{name: "red"}), project_claim=name).project == "red"


def test_what_a_claim_does_not_say_the_configuration_may_say() -> None:
    named = {"project_claim": "team", "models_claim": "models"}
    found = identity(SIGNER.token(), **named, project="rest", models=["gpt-4o-mini"])
    assert (found.project, found.models) == ("rest", ("gpt-4o-mini",))
    with pytest.raises(BadToken):
        identity(SIGNER.token(team="red"), **named, project="rest")
    with pytest.raises(BadToken):
        identity(SIGNER.token(models="gpt-4o"), **named, project=None)


@pytest.mark.parametrize("team", ["", "../etc", "a b", "x" * 65, 7, ["red"], "réd"])
def test_a_project_that_is_no_name_lets_nobody_in(team: Any) -> None:
    with pytest.raises(BadToken):
        identity(SIGNER.token(team=team), project_claim="team")


@pytest.mark.parametrize(
    ("said", "meant"), [("gpt-4o mock", ("gpt-4o", "mock")), (["gpt-*"], ("gpt-*",)), ([], NO_MODEL), ("", NO_MODEL)]
)
def test_models_come_as_a_list_or_as_words(said: Any, meant: tuple[str, ...]) -> None:
    assert identity(SIGNER.token(models=said), models_claim="models", models=["gpt-4o"]).models == meant


@pytest.mark.parametrize("said", [7, {"gpt-4o": True}, [""], ["a b"], ["gpt-4o", None], ["x"] * 1001])
def test_models_that_are_no_names_let_nobody_in(said: Any) -> None:
    with pytest.raises(BadToken):
        identity(SIGNER.token(models=said), models_claim="models", models=["gpt-4o"])


async def test_a_token_uses_the_models_it_lists_and_with_an_empty_list_none() -> None:
    async with KeyServer(SIGNER) as server, gateway_for(server, models_claim="models") as gateway:
        for models, statuses in ((["gpt-4o*"], (200, 403)), ([], (403, 403)), (["*"], (200, 200))):
            token = SIGNER.token(models=models)
            found = [(await chat(gateway, token, model=name)).status for name in ("gpt-4o", "gpt-4")]
            assert tuple(found) == statuses
        listed = await get(gateway.base_url, "/v1/models", SIGNER.token(models=[]))
    assert listed.json()["data"] == []


@pytest.mark.parametrize(
    ("groups", "let_in"),
    [(["staff"], True), ("staff", True), (["guests", "admins"], True), (["guests"], False), (None, False), ([], False)],
)
def test_a_claim_can_be_made_to_hold_one_of_some_texts(groups: Any, let_in: bool) -> None:
    token = SIGNER.token(realm={"groups": groups})
    try:
        identity(token, match={"realm.groups": ["staff", "admins"]})
    except BadToken:
        assert not let_in
    else:
        assert let_in


def test_a_claim_can_be_required() -> None:
    assert identity(SIGNER.token(jti="1"), require=["jti"]).user == "ada"
    with pytest.raises(BadToken):
        identity(SIGNER.token(), require=["jti"])


async def test_the_user_is_who_the_token_says_unless_the_header_is_believed() -> None:
    async with KeyServer(SIGNER) as server:
        for believe, sent, user in ((False, "eve", "ada"), (True, "eve", "eve"), (True, None, "ada")):
            async with gateway_for(server, believe_user_header=believe) as gateway:
                headers = {"X-Muxx-User-Id": sent} if sent else None
                response = await chat(gateway, SIGNER.token(), headers=headers)
                assert (await gateway.get_row(response.request_id))["user_id"] == user


# ── which keys ──


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"}, {"alg": "ES384"}, {"key_ops": ["sign"]}, {"kty": "oct"},
        {"d": SIGNER.secret}, {"crv": "P-384"}, {"x": "!"}, {"kid": 7},
    ],
    ids=lambda members: next(iter(members)),
)
def test_a_key_that_is_not_meant_for_it_checks_no_token(members: dict[str, Any]) -> None:
    assert len(keys_of(SIGNER.jwk(**members), RSA.jwk()).keys) == 1


def test_a_short_rsa_key_checks_no_token() -> None:
    weak = Signer("weak", "RS256", rsa.generate_private_key(65537, 1024))
    assert keys_of(weak.jwk()).keys == ()


def test_a_key_is_known_by_its_kid_and_two_of_one_name_by_none() -> None:
    twin = Signer("k1")
    both = keys_of(SIGNER.jwk(), twin.jwk())
    with pytest.raises(BadToken):
        identity(SIGNER.token(), of=both)
    alone = Signer(None, private=SIGNER.private)
    assert identity(alone.token(), of=keys_of(SIGNER.jwk(), RSA.jwk())).user == "ada"
    with pytest.raises(BadToken):
        identity(alone.token(), of=keys_of(SIGNER.jwk(), Signer("k2").jwk()))


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"[]", b'"keys"', b"{}", b'{"keys":{}}', b'{"keys":[1]}', json.dumps({"keys": [{}] * 101}).encode()]
)
def test_what_is_no_key_set_is_not_taken_for_an_empty_one(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        read_key_set(data, ["ES256"])


# ── beside muxx keys ──


async def test_what_is_no_token_is_left_to_the_next_plugin() -> None:
    async with KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        assert (await gateway.chat()).status == 200
        missing = await chat(gateway, "sk-of-somebody-else")
        assert (missing.status, missing.error["code"]) == (401, "missing_api_key")
        assert (await chat(gateway, "muxx_sk_live_" + "a" * 38)).error["code"] == "invalid_api_key"


async def test_the_header_of_muxx_decides() -> None:
    token, bad = SIGNER.token(), STRANGER.token()
    cases = [
        ({"X-Muxx-Api-Key": "KEY", "Authorization": f"Bearer {bad}"}, 200),
        ({"X-Muxx-Api-Key": token, "Authorization": "Bearer sk-of-a-provider"}, 200),
        ({"X-Muxx-Api-Key": token, "Authorization": f"Bearer {bad}"}, 200),
        ({"X-Muxx-Api-Key": bad, "Authorization": f"Bearer {token}"}, 401),
        ({"X-Muxx-Api-Key": "nothing", "Authorization": f"Bearer {token}"}, 401),
        ({"Authorization": f"Bearer {token}", "x-api-key": "KEY"}, 401),
        ({"Authorization": f"Bearer {token}", "x-api-key": "sk-of-a-provider"}, 200),
        ({"Authorization": f"bearer {token}"}, 200),
        ({"Authorization": token}, 401),
        ({"Authorization": f"Basic {token}"}, 401),
    ]
    async with KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        for headers, status in cases:
            sent = {name: gateway.key if value == "KEY" else value for name, value in headers.items()}
            assert await status_with(gateway, list(sent.items())) == status, headers


async def status_with(gateway: RunningGateway, headers: list[tuple[str, str]]) -> int:
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    async with await gateway.connect() as client:
        await client.request("POST", "/v1/chat/completions", headers, body)
        return (await client.read_response()).status


async def test_a_token_that_comes_twice_is_refused() -> None:
    token = SIGNER.token()
    async with KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        for name, value in (("Authorization", f"Bearer {token}"), ("X-Muxx-Api-Key", token)):
            assert await status_with(gateway, [(name, value)]) == 200
            assert await status_with(gateway, [(name, value), (name, value)]) == 401
        twice = [("Authorization", "Bearer sk-x"), ("Authorization", f"Bearer {token}")]
        assert await status_with(gateway, twice) == 401


async def test_no_token_is_left_in_a_log_or_on_the_disk(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    tokens = [SIGNER.token(), STRANGER.token(), SIGNER.token({"kid": "new"})]
    async with KeyServer(SIGNER) as server, gateway_for(server) as gateway:
        for token in tokens:
            response = await chat(gateway, token)
            assert not leak.find([token], response.body)
        await gateway.get_row((await chat(gateway, tokens[0])).request_id)
        assert leak.find(tokens, gateway.directory) == []
        assert not any(b"eyJ" in request.body + str(request.headers).encode() for request in gateway.upstream.requests)
    assert "eyJ" not in caplog.text

