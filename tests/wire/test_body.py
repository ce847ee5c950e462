"""A body is one JSON object within limits, or a refusal that names what is wrong; orjson's leniencies do not get through."""

from __future__ import annotations

import json
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thoroughness import examples

from muxx.errors import InvalidRequest
from muxx.wire.body import TokenMeter, counting, parse_json_object


def parse(data: bytes, max_depth: int = 64, max_tokens: int = 200_000) -> object:
    return parse_json_object(data, max_depth=max_depth, max_tokens=max_tokens)


def refusal(data: bytes, max_depth: int = 64, max_tokens: int = 200_000) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(data, max_depth, max_tokens)
    assert caught.value.status == 400
    return caught.value


NO_JSON = [
    b'', b' ', b'{', b'}', b'{]', b'{"a"}', b'{"a":}', b'{"a":1,}', b'{,}', b'{a:1}', b"{'a':1}", b'{"a":1}{}',
    b'{} x', b'{}\x00', b'{"a":01}', b'{"a":+1}', b'{"a":.5}', b'{"a":1.}', b'{"a":1e}', b'{"a":0x1}', b'{"a":1_0}',
    b'{"a":-}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":nul}', b'{"a":True}', b'{"a":"\x01"}',
    b'{"a":"\n"}', b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}', b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}', b'{"a":"b}', b'{"a":[1,]}', b'{"a":[1 2]}', b'{/**/}',
    b'\xef\xbb\xbf{}', '{}'.encode('utf-16'), '{}'.encode('utf-16-le'), '{}'.encode('utf-32'), b'\xa0{}',
    b'{"a":1}\xef\xbb\xbf', b'{"a" 1}', b'[1', b'{"a":[}',
]  # fmt: skip


@pytest.mark.parametrize("data", NO_JSON)
def test_what_is_no_json_is_refused_as_that(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "invalid_json"
    assert "UTF-8" in error.message


JSON = [
    b'{}', b' \t\r\n{ } \n', b'{"":0}', b'{"a":-0}', b'{"a":1E+2}', b'{"a":0.1e-999}', b'{"a":"\\ud83d\\ude00"}',
    b'{"a":"\\u0000"}', '{"a":"\u2028"}'.encode(), b'{"a":[[],{},null,true,false]}', b'{"a":"\\\\\\"[{,:"}',
    b'{"a":9223372036854775807,"b":-9223372036854775808,"c":18446744073709551615}',
    b'{"a":0.1234567890123456789012345}', b'{"a":"12345678901234567890123"}', b'{"a":12345678901234567890.0}',
    b'{"a":1e308}', b'{"a":100000000000000000000e-5}',
]  # fmt: skip


@pytest.mark.parametrize("data", JSON)
def test_what_is_json_is_read_as_the_standard_library_reads_it(data: bytes) -> None:
    assert parse(data) == json.loads(data)


@pytest.mark.parametrize("data", [b"[]", b"1", b'"a"', b"null", b"true", b"[[1]]"])
def test_json_that_is_no_object_has_the_wrong_type(data: bytes) -> None:
    assert refusal(data).code == "invalid_type"


def test_of_duplicate_members_the_last_counts_however_it_is_spelt() -> None:
    assert parse(b'{"model":"a","mo\\u0064el":"b"}') == {"model": "b"}
    assert parse(b'{"mo\\u0064el":"b","model":"a"}') == {"model": "a"}


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (b'{"seed":18446744073709551616}', "seed"),
        (b'{"seed":-9223372036854775809}', "seed"),
        (b'{"seed":12345678901234567890123}', "seed"),
        (b'{"max_tokens":1e999}', "max_tokens"),
        (b'{"max_tokens":-1e999}', "max_tokens"),
        (b'{"max_tokens":' + b"9" * 5000 + b"}", "max_tokens"),
        (b'{"id":"12345678901234567890123","messages":[{"a":[0,{"n":99999999999999999999}]}]}', "messages[0].a[1].n"),
        (b'{"f":1e20,"n":100000000000000000000}', "n"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(data: bytes, param: str) -> None:
    error = refusal(data)
    assert (error.code, error.param) == ("invalid_type", param)


@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809", b"9" * 40])
@pytest.mark.parametrize("behind", [b"", b" text", b" text" * 100])
def test_a_number_out_of_range_is_found_wherever_it_stands(number: bytes, behind: bytes) -> None:
    for before in range(40):
        error = refusal(b'{"a":"' + b"x" * before + b'","n":' + number + b',"b":"' + behind + b'"}')
        assert (error.code, error.param) == ("invalid_type", "n")


def test_a_number_out_of_range_in_a_broken_body_is_bad_json_first() -> None:
    assert refusal(b'{"a":1e999,}').code == "invalid_json"
    assert refusal(b'{"a":123456789012345678901234567890,}').code == "invalid_json"


def test_a_large_body_is_refused_without_looking_for_the_name() -> None:
    error = refusal(b'{"a":"' + b"x" * 300_000 + b'","n":99999999999999999999}')
    assert (error.code, error.param) == ("invalid_type", None)


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(-(10**25), 10**25))
def test_an_integer_arrives_exactly_or_not_at_all(number: int) -> None:
    data = b'{"n":%d}' % number
    if -(2**63) <= number < 2**64:
        assert parse(data) == {"n": number}
    else:
        assert refusal(data).param == "n"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_bounded_exactly(opening: bytes, closing: bytes) -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"

    parse(nested(64))
    for levels in (65, 66, 1000, 1030, 30_000):
        assert refusal(nested(levels)).code == "json_too_deep"
    assert refusal(b"[" * 100_000).code == "json_too_deep"


def test_brackets_in_strings_and_beside_one_another_are_not_depth() -> None:
    parse(orjson.dumps({"a": "[{" * 500, "b": [[] for _ in range(500)]}))


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"1,", b'"",', b'{"a":1},', b"[[1],[2]],"])
def test_too_many_tokens_are_refused_before_they_are_parsed(unit: bytes) -> None:
    body = b'{"a":[' + unit * (6_000_000 // len(unit)) + b"1]}"
    started = time.process_time()
    assert refusal(body).code == "json_too_complex"
    assert time.process_time() - started < 0.5


def test_marks_in_strings_are_not_tokens() -> None:
    text = 'a, b: [c] {d} \\ " \\\\" ,,,, ' * 20_000
    assert parse(orjson.dumps({"a": text, "b": [text]})) == {"a": text, "b": [text]}


def test_the_token_limit_is_exact_for_what_it_counts() -> None:
    body = orjson.dumps({"a": list(range(500)), "b": "x" * 3000})  # {} [] 1000+1 in the array, 2 members of 3, 1 comma
    meter = TokenMeter(10**6)
    meter.feed(body)
    parse(body, max_tokens=meter.count)
    assert refusal(body, max_tokens=meter.count - 1).code == "json_too_complex"


@settings(max_examples=examples(200), deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\,:[{', max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\:', max_size=3), inner, max_size=4),
        max_leaves=20,
    ),
    st.integers(1, 7),
)
def test_the_meter_counts_tokens_alike_in_any_pieces(value: object, size: int) -> None:
    data = orjson.dumps(value)
    meter = TokenMeter(10**6)
    for at in range(0, len(data), size):
        meter.feed(data[at : at + size])
    assert meter.count == tokens(value)


def tokens(value: object) -> int:
    """Brackets, commas, colons, scalars; an empty container as if it held one."""
    if isinstance(value, list):
        return 2 + (sum(tokens(item) for item in value) + len(value) - 1 if value else 1)
    if isinstance(value, dict):
        return 2 + (sum(2 + tokens(item) for item in value.values()) + len(value) - 1 if value else 1)
    return 1


@pytest.mark.parametrize("text", ["a", ",", '"', "\\"])
def test_a_body_is_counted_in_steps_over_a_little_of_it_each(text: str) -> None:
    data = orjson.dumps({"a": text * 3_000_000})
    assert sum(1 for _ in counting(data, 200_000)) >= len(data) // 65_536


def test_a_body_that_was_counted_is_not_counted_again() -> None:
    body = b'{"a":[' + b"1," * 200 + b"1]}"
    assert parse_json_object(body, max_depth=64, max_tokens=10, counted=True)


def test_no_refusal_repeats_the_input() -> None:
    for data in (b'{"secret-canary":}', b'{"secret-canary":1e999}', b'{"secret-canary":' + b"[" * 70 + b"]" * 70 + b"}"):
        assert "canary" not in refusal(data).message
