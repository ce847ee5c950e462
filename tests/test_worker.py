"""The socket a worker listens on."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from muxx import StartError
from muxx.worker import listen


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "\udcff"])
def test_what_can_be_no_name_of_a_host_is_refused_with_exit_code_4(host: str) -> None:
    with pytest.raises(StartError, match="is no address to listen on") as refused:
        listen(host, 80)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EADDRINUSE, "another server"),
        (errno.EADDRNOTAVAIL, "no such address"),
        (errno.EACCES, "below 1024"),
        (errno.ENOBUFS, "another address"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def bind(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "socket", lambda *_: SimpleNamespace(setsockopt=lambda *_: None, bind=bind, close=lambda: None))
    with pytest.raises(StartError, match=words) as refused:
        listen("127.0.0.1", 80)
    assert refused.value.exit_code == 4
    assert os.strerror(code) in str(refused.value)
