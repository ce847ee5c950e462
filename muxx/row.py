"""A row of the log, as the journal carries it."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from .money import UsageSource

Phase = Literal["auth", "limit", "connect", "head", "stream", "finish"]
EndedBy = Literal["client", "upstream", "muxx"]
CacheStatus = Literal["hit", "miss", "bypass", "joined"]


class Record(TypedDict):
    """One row of the log as the journal carries it: a generation, money in integer pico-dollars.

    `input` and `output` are JSON texts, not parsed: the request as sent up and the answer as delivered, as far as the project
    stores content.
    """

    request_id: str
    started_at: float
    first_token_ms: float | None
    duration_ms: float
    project: str | None
    key_id: str | None
    key_prefix: str | None
    key_last4: str | None
    environment: str | None
    user_id: str | None
    metadata: dict[str, Any] | None
    client_ip: str | None
    endpoint: str
    provider: str | None
    model_requested: str | None
    model: str | None
    stream: bool
    status: int
    ended_by: EndedBy | None
    phase: Phase | None
    attempts: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    usage_source: UsageSource
    input_cost_pico: int | None
    output_cost_pico: int | None
    cost_pico: int | None
    saved_pico: int | None
    price_version: str | None
    cache: CacheStatus | None
    finish_reasons: list[str]
    error_code: str | None
    attributes: dict[str, Any]
    input: bytes | None
    output: bytes | None
