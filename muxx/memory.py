"""What becomes of memory that is not needed any more."""

from __future__ import annotations

import ctypes
from contextlib import suppress

LARGE = 1 << 20
"""Bytes of an allocation that the kernel has back as soon as it is free. orjson takes twelve times a body's size to read it, and
memory that comes from the kernel anew each time takes longer than the reading."""

KEPT = 2 << 20
"""Bytes that stay free at the end of the heap, for the next request."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""


def give_large_back() -> None:
    """Let this process, and those it forks, keep no large block that is free, where the C library is glibc.

    By itself it learns from the first one it frees to keep all of that size: what has carried an event of 16 MiB once is so much
    larger from then on, or more where what grows in small steps moves through what was kept.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
