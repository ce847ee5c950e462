"""The splitter gives back every byte and sees every event, whatever the chunking."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples, some

from muxx.errors import UpstreamEventTooLarge
from muxx.wire.sse import Event, EventSplitter, data_of, is_comment

from .recordings import GOLDENS, cuts, recordings

LIMIT = 1 << 24


def split(pieces: list[bytes], limit: int = LIMIT) -> tuple[list[Event], EventSplitter]:
    splitter = EventSplitter(limit)
    return [event for piece in pieces for event in splitter.feed(piece)], splitter


def payloads(events: list[Event]) -> list[bytes]:
    return [data for _, data in events if data is not None]


def whatwg(stream: bytes) -> list[bytes]:
    """The naive reference: the data of each dispatched event, by the standard's own steps, over the whole input."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\r|\n", stream)[:-1]
    dispatched: list[bytes] = []
    buffer, seen = b"", False
    for line in lines:
        if line == b"":
            if seen:
                dispatched.append(buffer[:-1])
            buffer, seen = b"", False
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            buffer += value.removeprefix(b" ") + b"\n"
            seen = True
    return dispatched


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data: a\r\n\r\n", b"a"),
        (b"data: a\r\r", b"a"),
        (b"data: a\r\n\n", b"a"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", b"a"),
        (b": note\ndata: a\n\n", b"a"),
        (b"datax: a\n\n", None),
        (b" data: a\n\n", None),
        (b": note\n\n", None),
        (b"event: ping\n\n", None),
        (b"event: x\ndata: a\n\n", b"a"),
        (b"event: x\r\ndata: a\r\n\r\n", b"a"),
        (b"event: x\rdata: a\n\n", b"a"),
        (b"event: x\ndata: a\rdata: b\n\n", b"a\nb"),
        (b"event: x\ndata: a\ndata: b\n\n", b"a\nb"),
        (b"event: x\nid: 1\ndata: a\n\n", b"a"),
        (b"event: x\ndata:a\n\n", b"a"),
        (b"\n\n", None),
        (b"data: a:b: c\n\n", b"a:b: c"),
        (b"data: \xc2\x85\xe2\x80\xa8\x0b\x0c\n\n", b"\xc2\x85\xe2\x80\xa8\x0b\x0c"),  # line ends to str, not to the standard
    ],
)
def test_an_event_of_any_dialect_is_read_as_the_standard_says(raw: bytes, data: bytes | None) -> None:
    assert data_of(raw) == data
    events, splitter = split([raw])
    assert events == [(raw, data)]
    assert splitter.tail == b""


def test_a_byte_order_mark_counts_only_at_the_start_of_the_stream() -> None:
    stream = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n"
    for size in range(1, len(stream) + 1):
        events, _ = split([stream[at : at + size] for at in range(0, len(stream), size)])
        assert payloads(events) == [b"a", b"c"]
        assert b"".join(raw for raw, _ in events) == stream


def test_a_carriage_return_ends_an_event_at_once_and_its_line_feed_is_not_lost() -> None:
    splitter = EventSplitter(LIMIT)
    assert splitter.feed(b"data: a\r\n\r") == [(b"data: a\r\n\r", b"a")]
    assert splitter.feed(b"\n") == []
    assert splitter.tail == b"\n"
    assert splitter.feed(b"data: b\r\n\r\n") == [(b"\ndata: b\r\n\r\n", b"b")]


def test_an_event_is_out_with_its_last_byte() -> None:
    for stream in (b"data: a\n\n", b"data: a\r\r", b"event: e\ndata: a\r\n\r"):
        splitter = EventSplitter(LIMIT)
        assert [splitter.feed(stream[at : at + 1]) for at in range(len(stream) - 1)] == [[]] * (len(stream) - 1)
        assert payloads(splitter.feed(stream[-1:])) == [b"a"]


def test_an_unfinished_event_is_held_and_can_be_read_at_the_end() -> None:
    splitter = EventSplitter(LIMIT)
    assert splitter.feed(b"data: a\n\ndata: [DONE]\n") == [(b"data: a\n\n", b"a")]
    assert splitter.finish() == (b"data: [DONE]\n", b"[DONE]")
    assert splitter.tail == b"data: [DONE]\n"


@pytest.mark.parametrize("stream", [b"", b"data: a\n\n", b"data: a\n\n\n", b"data: a\r\n\r\n\r\n"])
def test_line_ends_alone_are_no_unfinished_event(stream: bytes) -> None:
    splitter = EventSplitter(LIMIT)
    splitter.feed(stream)
    assert splitter.finish() is None


def test_comments_are_told_from_fields_without_data() -> None:
    assert is_comment(b": a\n:b\n\n")
    assert is_comment(b"\n\n")
    assert not is_comment(b"event: ping\n\n")
    assert not is_comment(b": a\nretry: 1\n\n")


def test_ids_are_noticed() -> None:
    assert not split([b'data: {"id": 1}\n\n: id: 2\n\ndata: a\ndata: b\n\n'])[1].has_ids
    assert split([b"id: 3\ndata: a\n\n"])[1].has_ids


@pytest.mark.parametrize("ending", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 3, 10, 64, 10_000])
def test_an_event_over_the_limit_is_refused_after_all_before_it(ending: bytes, size: int) -> None:
    good = b"data: " + b"g" * 20 + ending * 2
    large = b"data: " + b"l" * 60 + ending * 2
    stream = good + good + large + good
    splitter = EventSplitter(len(good))
    events: list[Event] = []
    with pytest.raises(UpstreamEventTooLarge):
        for at in range(0, len(stream), size):
            events += splitter.feed(stream[at : at + size])
        splitter.finish()
    assert payloads(events) == [b"g" * 20] * 2
    with pytest.raises(UpstreamEventTooLarge):
        splitter.feed(b"data: more\n\n")


def test_an_event_of_the_largest_size_passes_in_many_pieces() -> None:
    event = b"data: " + b"x" * 2_000_000 + b"\n\n"
    pieces = [event[at : at + 4096] for at in range(0, len(event), 4096)]
    events, _ = split(pieces, len(event))
    assert events == [(event, event[6:-2])]
    with pytest.raises(UpstreamEventTooLarge):
        split(pieces, len(event) - 1)


LINES = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data",
        b"data:",
        b": c",
        b"event: e",
        b"id: 1",
        b"retry: 2",
        b"",
        b"\xef\xbb\xbf",
        b"x",
        b"data: \xe2\x82\xac",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b""])


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(st.tuples(LINES, ENDS), max_size=12), st.lists(st.integers(1, 40), min_size=1, max_size=8), st.booleans())
def test_any_stream_in_any_chunking_agrees_with_the_standard(
    parts: list[tuple[bytes, bytes]], sizes: list[int], bom: bool
) -> None:
    stream = b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in parts)
    pieces, at, turn = [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        pieces.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    for way in (pieces, [stream]):
        events, splitter = split(way)
        assert b"".join(raw for raw, _ in events) + splitter.tail == stream
        assert payloads(events) == whatwg(stream)


@pytest.mark.parametrize("name", GOLDENS)
def test_our_own_streams_come_back_at_every_cut(name: str) -> None:
    stream = GOLDENS[name]
    for at in range(len(stream) + 1):
        events, splitter = split([stream[:at], stream[at:]])
        assert b"".join(raw for raw, _ in events) + splitter.tail == stream
        assert payloads(events) == whatwg(stream)


def test_every_recording_comes_back_in_a_seeded_chunking() -> None:
    for seed, path in enumerate(recordings(None)):
        stream = path.read_bytes()
        if len(stream) > 60_000:
            continue
        expected = whatwg(stream)
        for way in ([stream], list(cuts(stream, seed))):
            events, splitter = split(way)
            assert b"".join(raw for raw, _ in events) + splitter.tail == stream
            assert payloads(events) == expected


def test_twenty_recordings_come_back_at_every_cut_position() -> None:
    for path in random.Random(20).sample([path for path in recordings() if path.stat().st_size < 12_000], 20):
        stream = path.read_bytes()
        expected = payloads(split([stream])[0])
        for at in some(range(len(stream) + 1), 0.1):
            events, splitter = split([stream[:at], stream[at:]])
            assert payloads(events) == expected
            assert b"".join(raw for raw, _ in events) + splitter.tail == stream
