"""`python -m muxx` is `muxx`."""

from .cli import main

if __name__ == "__main__":
    main()
