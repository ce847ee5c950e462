"""JSON with halves of characters: what orjson refuses for them alone is read, and all else that it refuses is refused."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxx.wire import halves

ESCAPES = [r"\ud83d", r"\uDE00", r"\\", r"\"", r"\u0041", r"\\ud83d", "a", r"\udbff", r"\n"]
TEXTS = st.lists(st.sampled_from(ESCAPES), max_size=8).map("".join)


@given(TEXTS)
def test_a_text_is_read_as_the_standard_library_reads_it_with_replacement_characters_for_halves(text: str) -> None:
    data = f'{{"delta":{{"a":"{text}"}},"b":["{text}"],"{text}":1}}'.encode()
    expected = halves.whole(json.loads(f'"{text}"'))
    assert halves.loads(data) == {"delta": {"a": expected}, "b": [expected], expected: 1}
    assert orjson.loads(halves.whole_json(data)) == halves.loads(data)
    if (pieces := halves.pieces(data)) is not None:
        read = json.loads(f'"{text}"')
        assert halves.whole(pieces["delta"]["a"]) == pieces["b"][0] == expected
        assert halves.begins_with_half(pieces["delta"]["a"]) == halves.begins_with_half(read)
        assert halves.ends_with_half(pieces["delta"]["a"]) == halves.ends_with_half(read)
        assert orjson.loads(halves.dumps(pieces))["delta"] == {"a": expected}


@pytest.mark.parametrize(
    "data",
    [
        b'["\\ud83d"',
        b'{"a":NaN,"b":"\\ud83d"}',
        b'"\\ud83d" 1',
        b"\\ud83d",
        b'["\\ud83"]',
        b'["\\ud83d\\x"]',
        b'["\\ud83d\0"]',
        b'["\\ud83d\xff"]',
        b'["\\ud83d", 01]',
        b'["\\uD83D\n"]',
        b"[" * 2000 + b'"\\ud83d"' + b"]" * 2000,
    ],
)
def test_what_is_no_json_besides_is_refused(data: bytes) -> None:
    assert halves.pieces(b'{"delta":' + data + b"}") is None
    with pytest.raises(orjson.JSONDecodeError):
        halves.loads(data)
