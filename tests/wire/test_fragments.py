"""Text that comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muxx.wire.fragments import Fragments
from muxx.wire.halves import whole


@given(st.lists(st.text(st.characters(codec=None) | st.sampled_from("\ud83d\ude00"))))
def test_the_text_is_what_came_however_it_was_cut(pieces: list[str]) -> None:
    text = Fragments()
    for piece in pieces:
        before = len(text)
        text.append(piece)
        assert (len(text) > before) == bool(piece)
    assert "".join(text) == whole("".join(pieces))
    assert bool(text) == any(pieces)


def test_two_halves_of_a_character_make_one_and_a_half_alone_takes_as_many_bytes_as_what_stands_for_it() -> None:
    said = Fragments()
    for piece in ("a\ud83d", "\ude00b", "\ud83d", "\ud83d", "\ude00\ude00", "\ud83d"):
        said.append(piece)
    text = "".join(said)
    assert text == "a\N{GRINNING FACE}b\ufffd\N{GRINNING FACE}\ufffd\ufffd"
    assert len(said) == len(text.encode())
