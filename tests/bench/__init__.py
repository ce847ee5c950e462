"""`make bench`: muxx against a bare aiohttp pass-through, in one run on one machine (`python -m tests.bench --help`)."""
