"""`muxx` and `python -m muxx`: the console script."""

from __future__ import annotations

import codecs
import gc
import io
import os
import sys

from .processes import interruptible_at_once


def main() -> None:
    """Run the command line. Modules stay: to look for garbage while they load takes a seventh of that time."""
    _open_what_is_closed()
    _print_any_text()
    gc.disable()
    with interruptible_at_once():
        from .cli import cli

    gc.freeze()
    gc.enable()
    cli(prog_name="muxx")


def _open_what_is_closed() -> None:
    """Without stdin, stdout or stderr, as some start daemons, what is printed would fail, or go into the file opened next."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (it takes the lowest number that is free, which is its own)


def _print_any_text() -> None:
    """A terminal of another encoding than UTF-8 is shown as escapes what that cannot write. What is no terminal gets UTF-8:
    JSON always is, and a program that reads CSV is to find what is in the log."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and codecs.lookup(out.encoding).name != "utf-8":
        if out.isatty():
            out.reconfigure(errors="backslashreplace")
        else:
            out.reconfigure(encoding="utf-8")


if __name__ == "__main__":
    main()
