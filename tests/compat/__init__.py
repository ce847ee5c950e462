"""Real SDKs against a real gateway: `make compat`."""
