"""The two things of the world that klal is handed instead of reaching for: a clock and dice.

They are protocols, so a test or the simulator gives its own and one seed gives one run. `klal.create`, `klal.join` and
`klal.open` hand over the real ones. Files are not a port: only `klal.store` touches a database file, and the crash
tests cut it where it hurts, below SQLite.
"""

from typing import Protocol


class Clock(Protocol):
    """The wall clock of this machine, which may be wrong.

    No rule depends on it being right: order follows causality, and a stamp only breaks ties between changes that did
    not know of each other.
    """

    def unix_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC. May jump either way between two calls."""
        ...


class Entropy(Protocol):
    """Dice nobody else can predict: they make keys, salts, fences and ticket secrets."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that were never returned before."""
        ...
