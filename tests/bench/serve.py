"""`muxx serve` on the event loop of one's choice: muxx takes uvloop where it is installed, the benchmark measures both.

python serve.py LOOP OPTIONS…
"""

from __future__ import annotations

import sys


def main(loop: str, *options: str) -> None:
    if loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # to whoever imports it, it is not installed
    else:
        import uvloop  # noqa: F401  # a comparison on a loop that is not there is none: fail here
    from muxx.cli import cli

    cli(["serve", *options], prog_name="muxx")


if __name__ == "__main__":
    main(*sys.argv[1:])
