"""How much output a request asks for at most, in any format's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_CHOICES = 128
"""Providers allow no more; of a number nobody would accept nothing should depend."""

_MOST = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_CHOICES = ("n", "best_of", "candidateCount", "candidate_count")
_INNER = ("generationConfig", "generation_config")


class AskedOutput(NamedTuple):
    """`tokens` of one answer, 0 where the request names no most; `choices`, how many answers it asks for."""

    tokens: int
    choices: int


def asked_output(body: Mapping[str, Any]) -> AskedOutput:
    """The most output that a request's body allows, whichever endpoint it is for."""
    inner = next((value for name in _INNER if isinstance(value := body.get(name), dict)), {})
    return AskedOutput(_largest(body, inner, _MOST), min(max(_largest(body, inner, _CHOICES), 1), MOST_CHOICES))


def _largest(body: Mapping[str, Any], inner: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The largest of these members; 0 where there is none."""
    found = [holder.get(name) for holder in (body, inner) for name in names]
    return max((value for value in found if type(value) is int), default=0)
