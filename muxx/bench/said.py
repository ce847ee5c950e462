"""What load and upstream say to each other, through whoever stands between them.

A call has a number, which stands in its prompt, and in its answer, as a word of letters: plugins that mask what looks like a
number of something leave it alone.
"""

from __future__ import annotations

import re

import orjson

MODEL = "gpt-4o-mini"
PACE_SECONDS = 0.01
"""Between two events of a stream."""
CALL = re.compile(rb"call[a-p]{12}")
"""The number of a call, wherever it stands."""
MARK = b"call" + b"p" * 12
"""What stands for it in a template."""
TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. Now waltz, nymph: vex quick jigs!"
_QUESTION = "Say in one paragraph what a person who has never run a server should know before they run their first one. "
_PROMPT_CHARACTERS = 1024
_LETTERS = bytes.maketrans(b"0123456789abcdef", b"abcdefghijklmnop")


def word_of(number: int) -> bytes:
    return b"call" + (b"%012x" % number).translate(_LETTERS)


def words(count: int) -> list[str]:
    """What a stream of `count` events says behind the call's number."""
    known = TEXT.split()
    return [" " + known[i % len(known)] for i in range(count)]


def template(host: str, model: str, key: str, *, words: int = 0, user: str = "") -> bytes:
    """A whole request with `MARK` in the place of the call's number. `words`: how many the answer shall have, as a stream; 0: it
    comes in one piece. `user` goes into `X-Muxx-User-Id`."""
    prompt = f"{MARK.decode()} {_QUESTION * 12}"[:_PROMPT_CHARACTERS]
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0.2}
    if words:
        body |= {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": words}
    data = orjson.dumps(body)
    user_line = f"X-Muxx-User-Id: {user}\r\n" if user else ""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"User-Agent: muxx-bench\r\nAuthorization: Bearer {key}\r\n{user_line}Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
