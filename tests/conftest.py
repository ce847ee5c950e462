"""Fixtures of all tests: those of the kit that plugin authors use."""

pytest_plugins = ["muxx.testing.fixtures"]
