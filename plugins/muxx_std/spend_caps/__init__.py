"""Spend caps: how much a project may spend in a day or a month. `commands` is what the shell sees."""
