"""`muxx` and `python -m muxx`: the console script."""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line. Modules stay: to look for garbage while they load takes a seventh of that time."""
    gc.disable()
    from .cli import cli

    gc.freeze()
    gc.enable()
    cli(prog_name="muxx")


if __name__ == "__main__":
    main()
