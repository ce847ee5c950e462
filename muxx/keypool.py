"""Several keys of one provider: requests take turns at them, and one that was refused rests. Time is passed in."""

from __future__ import annotations

from collections.abc import Collection

REFUSED_SECONDS = 300.0
"""How long a key rests that the provider does not know, or whose owner may not: somebody may mend that without a reload."""
EXHAUSTED_SECONDS = 30.0
"""How long a key rests that is over its limit, where the provider does not say."""


class KeyPool:
    """Keys in turn. A key that rests is picked only where all of them do: then the provider's own answer is the best there is."""

    __slots__ = ("_keys", "_rests_until", "_turn")

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = tuple(keys)
        self._turn = 0
        self._rests_until: dict[str, float] = {}

    def first(self, now: float) -> str:
        """The key for the first call of an exchange."""
        return self.another(now, ()) or min(self._keys, key=lambda key: self._rests_until.get(key, 0.0))

    def another(self, now: float, refused: Collection[str]) -> str | None:
        """The next key that does not rest and is none of those refused before; None when there is none."""
        for step in range(len(self._keys)):
            place = (self._turn + step) % len(self._keys)
            key = self._keys[place]
            if key not in refused and self._rests_until.get(key, 0.0) <= now:
                self._turn = place + 1
                return key
        return None

    def refused(self, key: str, status: int, retry_after: float | None, now: float) -> None:
        """The provider answered this key with 401, 403 or 429."""
        if status == 429:
            rest = EXHAUSTED_SECONDS if retry_after is None else min(retry_after, REFUSED_SECONDS)
        else:
            rest = REFUSED_SECONDS
        self._rests_until[key] = now + rest
