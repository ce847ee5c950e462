"""What a name means, in which order its targets are tried, and what a failure says."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from muxx.config import Config
from muxx.errors import ClientGone, MuxxError, PluginError, ProviderRefusal, UpstreamAuth, UpstreamError, UpstreamTimeout
from muxx.outages import is_outage, refusal_kind
from muxx.providers import provider_rows
from muxx.routing import RoutingTable, backoff, may_fall_back
from muxx.selecting import EXPLORED, in_turn, strategy_of
from muxx.targets import Attempt, Provider, Target

ROW = Provider("p", "http://p.test", prices="openai")
THREE = tuple(Target(ROW, name, weight=weight) for name, weight in (("a", 1), ("b", 0), ("c", 3)))


def table(*models: dict[str, Any]) -> RoutingTable:
    config = Config.model_validate({"models": list(models)})
    return RoutingTable(config, provider_rows(config, {}))


def orders(strategy: Any, seconds: dict[str, float], times: int = 4000) -> Counter[str]:
    random.seed(7)
    return Counter("".join(t.model for t in in_turn(THREE, strategy, lambda t: seconds.get(t.model))) for _ in range(times))


# ── strategies ──


def test_ordered_is_as_written_whatever_the_weights() -> None:
    assert orders("ordered", {}) == {"abc": 4000}


def test_weighted_draws_who_is_first_and_keeps_the_order_of_the_rest() -> None:
    found = orders("weighted", {})
    assert found.keys() == {"abc", "cab"}
    assert found["cab"] == pytest.approx(3000, rel=0.1)


def test_weighted_without_weights_is_equal() -> None:
    random.seed(7)
    targets = tuple(Target(ROW, name) for name in "ab")
    first = Counter(in_turn(targets, "weighted", lambda _: None)[0].model for _ in range(4000))
    assert first["a"] == pytest.approx(2000, rel=0.1)


def test_least_latency_is_by_the_mean_and_explores_a_little() -> None:
    found = orders("least_latency", {"a": 0.3, "b": 0.1, "c": 0.2})
    assert found["bca"] == pytest.approx(4000 * (1 - EXPLORED), rel=0.02)
    assert found.keys() == {"bca", "cba", "abc"}


def test_least_latency_tries_first_what_nobody_has_measured() -> None:
    assert orders("least_latency", {"a": 0.3, "b": 0.1}).most_common(1)[0][0] == "cba"


@pytest.mark.parametrize(
    ("given", "weights", "holds"), [(None, [0, 0], "ordered"), (None, [0, 1], "weighted"), ("ordered", [0, 1], "ordered")]
)
def test_a_model_without_a_strategy_is_weighted_where_there_are_weights(given: Any, weights: list[int], holds: str) -> None:
    assert strategy_of(given, weights) == holds


# ── names ──


@pytest.mark.parametrize(
    ("name", "rule", "targets"),
    [
        ("fast", "configured", ["openai/gpt-4o-mini", "google/gemini-x"]),
        ("groq/llama", "provider/model", ["groq/llama"]),
        ("team-a", "wildcard", ["openai/a"]),
        ("claude-9", "built in", ["anthropic/claude-9"]),
    ],
)
def test_a_name_is_found_by_the_first_rule_that_knows_it(name: str, rule: str, targets: list[str]) -> None:
    known = table(
        {"name": "fast", "targets": ["openai/gpt-4o-mini", "google/gemini-x"]}, {"name": "team-*", "targets": ["openai/*"]}
    )
    found = known.resolve(name)
    assert found is not None
    assert (found.rule, [str(target) for target in found.targets]) == (rule, targets)
    assert known.resolve("nothing") is None


@pytest.mark.parametrize(
    ("providers", "key", "target"),
    [
        ({}, None, "house/llama"),
        ({"groq": {"max_in_flight": 9}}, None, "groq/llama"),
        ({}, "gsk-x", "groq/llama"),
    ],
)
def test_a_pattern_of_the_file_comes_before_a_built_in_provider_that_nobody_has_set_up(
    providers: dict[str, Any], key: str | None, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key is not None:
        monkeypatch.setenv("GROQ_API_KEY", key)
    models = [{"name": "groq/*", "targets": ["house/*"]}, {"name": "ollama/*", "targets": ["house/*"]}]
    config = Config.model_validate({"models": models, "providers": {"house": {"base_url": "http://h.test"}, **providers}})
    known = RoutingTable(config, provider_rows(config, {}))
    for name, expected in (("groq/llama", target), ("ollama/phi", "house/phi"), ("house/x", "house/x"), ("vllm/x", "vllm/x")):
        found = known.resolve(name)
        assert found is not None
        assert [str(one) for one in found.targets] == [expected]


def test_a_models_options_reach_its_targets() -> None:
    model = {"name": "m", "targets": [{"target": "openai/x", "on_unsupported": "drop"}, "openai/y"], "retries": 2}
    found = table(model | {"fall_back_on": ["context_length", 422], "buffer_until": "first_token"}).resolve("m")
    assert found is not None
    assert [target.drops_unsupported for target in found.targets] == [True, False]
    assert {(t.retries, t.buffer_until, t.fall_back_on) for t in found.targets} == {
        (2, "first_token", frozenset({"context_length", 422}))
    }


# ── what a failure says ──

FILTERED = [
    b'{"error":{"message":"no","type":"x","code":"content_policy_violation"}}',
    b'{"error":{"message":"The response was filtered","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}',
    b'{"error":{"code":"BadRequest","innererror":{"code":"ResponsibleAIPolicyViolation"}}}',
]
TOO_LONG = [
    b'{"error":{"message":"x","type":"invalid_request_error","code":"context_length_exceeded"}}',
    b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}',
    b'{"error":{"code":400,"message":"The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",'
    b'"status":"INVALID_ARGUMENT"}}',
    b'[{"error":{"code":400,"message":"This model\'s maximum context length is 8192 tokens."}}]',
    b'{"object":"error","message":"This model\'s maximum context length is 8192 tokens.","type":"BadRequestError","code":400}',
    b'{"detail":"prompt is too long: 210000 tokens > 200000 maximum"}',
]
OTHERS = [b'{"error":{"message":"bad","code":"invalid_value"}}', b"oops", b"[]", b'{"error":"no"}', b'{"error":{"code":7}}']


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (body, kind)
        for kind, bodies in (("content_filter", FILTERED), ("context_length", TOO_LONG), (None, OTHERS))
        for body in bodies
    ],
)
def test_a_refusal_of_what_was_said_is_an_answer_unless_configured(body: bytes, kind: str | None) -> None:
    assert refusal_kind("upstream_error", body) == kind
    for configured in (frozenset[str | int](), frozenset[str | int]({"content_filter", "context_length"})):
        attempt = Attempt(Target(ROW, "m", fall_back_on=configured), 1, "", {}, {})
        attempt.status, attempt.error = 400, ProviderRefusal(400, body, "x", retry=False, retry_after=None)
        assert may_fall_back(attempt) == (kind in configured)


def test_a_configured_status_lets_the_next_target_be_tried() -> None:
    attempt = Attempt(Target(ROW, "m", fall_back_on=frozenset({422})), 1, "", {}, {})
    attempt.status, attempt.error = 422, ProviderRefusal(422, b"", "x", retry=False, retry_after=None)
    assert may_fall_back(attempt)
    attempt.status = 400
    assert not may_fall_back(attempt)


def refused(status: int, body: bytes = b"{}") -> ProviderRefusal:
    return ProviderRefusal(status, body, "x", retry=False, retry_after=None)


@pytest.mark.parametrize(
    ("error", "status", "outage"),
    [
        (UpstreamTimeout(), None, True),
        (UpstreamError(), 200, True),
        (UpstreamError(code="server_error"), 200, True),
        (UpstreamError(code="overloaded_error"), 200, True),
        (refused(500), 500, True),
        (refused(529), 529, True),
        (UpstreamError(), 302, True),
        (UpstreamError(), 404, False),
        (refused(429), 429, False),
        (refused(400, FILTERED[0]), 400, False),
        (refused(500, FILTERED[0]), 500, False),
        (UpstreamError(code="content_filter"), 200, False),
        (UpstreamError(code="rate_limit_exceeded"), 200, False),
        (UpstreamAuth(), 401, False),
        (ClientGone(), 200, False),
        (PluginError(), 200, False),
        (None, 200, False),
    ],
)
def test_only_what_an_outage_does_counts_as_one(error: MuxxError | None, status: int | None, outage: bool) -> None:
    assert is_outage(error, status) is outage


def test_a_backoff_has_full_jitter_doubles_and_obeys_the_provider_up_to_a_minute() -> None:
    random.seed(7)
    for tries, most in ((1, 0.5), (2, 1.0), (5, 8.0), (10, 8.0)):
        waits = [wait for _ in range(400) if (wait := backoff(tries, None)) is not None]
        assert 0 <= min(waits) < most / 20
        assert most * 0.95 < max(waits) <= most
    assert (backoff(1, 60.0), backoff(1, 60.1)) == (60.0, None)
