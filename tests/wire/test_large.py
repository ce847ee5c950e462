"""Events of megabytes: what is read of them is what orjson would have read, and what any other event would have taught."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples, some

from muxx.wire import large, sse
from muxx.wire.fragments import Fragments, utf8_length
from muxx.wire.sse import Event, EventSplitter
from muxx.wire.wire import Wire

from .crossing_kit import SHORT, WIRES, recorded
from .passing import observed


@pytest.fixture(autouse=True, scope="module")
def everything_is_large() -> Iterator[None]:
    """Blocks of a few bytes, in which a string may begin and end anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "BLOCK", 4)
        patch.setattr(sse, "LARGE", 20)
        patch.setattr("muxx.wire.fragments.LARGE", 3)
        yield


TEXTS = st.text() | st.text(st.sampled_from('aé👋"\\\n '), max_size=40) | st.text(st.sampled_from("ab"), min_size=8, max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def in_pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def fed(splitter: EventSplitter, pieces: list[bytes]) -> list[Event]:
    return [event for piece in pieces for event in splitter.feed(piece)]


def told(data: bytes, read: Any) -> Any:
    try:
        return read(data)
    except orjson.JSONDecodeError as error:
        return str(error)


@given(VALUES)
def test_it_reads_what_orjson_reads(value: Any) -> None:
    data = orjson.dumps(value)
    assert large.loads(memoryview(data)) == large.loads(data) == orjson.loads(data)


@given(VALUES, st.randoms(use_true_random=False))
def test_of_broken_json_it_says_what_orjson_says(value: Any, dice: random.Random) -> None:
    data = bytearray(orjson.dumps(value))
    for _ in range(dice.randint(1, 3)):
        data[dice.randrange(len(data))] = dice.choice(b'"\\\x00\x1f\x7f\x80\xff{}[],:a1 ')
    assert told(bytes(data), large.loads) == told(bytes(data), orjson.loads)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":11111111111111111111,"b":"x"}', b'["aaaaaaaaaaaa" "bbbbbbbbbbbb"]', b'{"a":1,"a":"xxxxxxxxxxxxxxxx","a":2}',
        b'{"xxxxxxxxxxxxxxxxxxxx":1}', b'"xxxxxxxxxxxxxxxxxxxxx"', b'"xxxxxxxxxxxxxxxxxxxxx', b'xxxxxxxxxxxxxxxxxxxxx"',
        b"                    1", b'["\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]', b"",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_long_string_is_read_as_it_is(data: bytes) -> None:
    assert told(data, large.loads) == told(data, orjson.loads)


@pytest.mark.parametrize("up", WIRES, ids=lambda up: up.name)
def test_large_events_teach_what_others_do(up: Wire) -> None:
    for stream in (SHORT[up.name], *some(recorded(up).values(), 0.1)):
        pieces = in_pieces(stream, 61)
        assert any(type(data) is memoryview for _, data in fed(EventSplitter(2**30), pieces))
        facts, delivered = observed(up, pieces)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sse, "LARGE", 2**30)
            usual, passed = observed(up, pieces)
        assert delivered == passed
        assert up.assembled(facts) == up.assembled(usual)
        assert (facts.usage, facts.output_bytes, facts.text) == (usual.usage, usual.output_bytes, usual.text)


FIELDS = st.sampled_from([b"data: ", b"data:", b"data", b"event: ", b"id: 7", b": ", b"retry: 3"])
LINES = st.tuples(FIELDS, st.text(st.sampled_from("ab: {}"), max_size=14), st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r"]))


@given(st.lists(LINES, max_size=8))
def test_a_view_is_made_of_what_the_data_is_and_of_nothing_else(lines: list[tuple[bytes, str, bytes]]) -> None:
    stream = b"".join(field + text.encode() + end for field, text, end in lines)
    splitter, reference = EventSplitter(2**20), EventSplitter(2**20)
    pieces = in_pieces(stream, 3)
    events = fed(splitter, pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sse, "LARGE", 2**30)
        expected = fed(reference, pieces)
    assert [(raw, None if data is None else bytes(data)) for raw, data in events] == expected
    assert splitter.has_ids == reference.has_ids


@given(st.lists(st.text(st.characters(codec=None)), max_size=examples(40)))
def test_large_pieces_are_part_of_the_text(pieces: list[str]) -> None:
    text = Fragments()
    for number, piece in enumerate(pieces):
        text.append(piece)
        assert len(text) == utf8_length("".join(pieces[: number + 1]))
        if number % 3 == 0:
            assert "".join(text) == "".join(pieces[: number + 1])
    assert "".join(text) == "".join(pieces)
    assert bool(text) == any(pieces)
