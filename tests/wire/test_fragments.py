"""Text that comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muxx.wire.fragments import Fragments


@given(st.lists(st.text(st.characters(codec=None))))
def test_the_text_is_what_came_whatever_it_is(pieces: list[str]) -> None:
    text = Fragments()
    for piece in pieces:
        before = len(text)
        text.append(piece)
        assert (len(text) > before) == bool(piece)
    assert "".join(text) == "".join(pieces)
    assert bool(text) == any(pieces)
