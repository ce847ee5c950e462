"""What muxx sealed for a client of another format never reaches a provider that did not make it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxx.wire.seals import is_sealed, may_hold_seals, opened, sealed, without_seals

SEALED = sealed("anthropic", "EqQBCkYIBRgC")
OWN = "c2lnbmVkIGJ5IGl0cyBtb2RlbA=="


@given(st.sampled_from(["openai", "anthropic", "gemini"]), st.text())
def test_a_seal_is_opened_by_its_own_format_alone(format: str, signature: str) -> None:
    value = sealed(format, signature)
    assert is_sealed(value)
    assert opened(format, value) == signature
    assert [other for other in ("openai", "anthropic", "gemini") if opened(other, value) is not None] == [format]
    assert may_hold_seals(orjson.dumps({"signature": value}))


@given(st.text())
def test_nothing_else_is_a_seal(value: str) -> None:
    assert not is_sealed(value)
    assert opened("anthropic", value) is None


@pytest.mark.parametrize(
    ("body", "expected", "places"),
    [
        (
            {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": SEALED}]}]},
            {"messages": [{"role": "assistant", "content": []}]},
            ["messages[0].content[0]"],
        ),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": SEALED}, {"type": "message"}]},
            {"input": [{"type": "message"}]},
            ["input[0]"],
        ),
        (
            {"messages": [{"tool_calls": [{"id": "1", "extra_content": {"google": {"thought_signature": SEALED}}}]}]},
            {"messages": [{"tool_calls": [{"id": "1", "extra_content": {"google": {}}}]}]},
            ["messages[0].tool_calls[0].extra_content.google.thought_signature"],
        ),
        (
            {"contents": [{"parts": [{"text": "Hi", "thoughtSignature": SEALED}]}]},
            {"contents": [{"parts": [{"text": "Hi"}]}]},
            ["contents[0].parts[0].thoughtSignature"],
        ),
        (
            {"messages": [{"content": [{"type": "thinking", "thinking": "Hm", "signature": OWN}]}]},
            {"messages": [{"content": [{"type": "thinking", "thinking": "Hm", "signature": OWN}]}]},
            [],
        ),
    ],
)
def test_what_is_sealed_is_taken_out_and_all_else_stays(body: dict[str, Any], expected: Any, places: list[str]) -> None:
    before = orjson.dumps(body)
    assert without_seals(body) == (expected, places)
    assert orjson.dumps(body) == before, "the caller's body is not edited"
