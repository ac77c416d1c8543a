"""The three things of the world that klal is handed instead of reaching for: a clock, dice and a wire.

They are protocols, so a test or the simulator gives its own and one seed gives one run. `klal.create`, `klal.join` and
`klal.open` hand over the real ones. Files are not a port: only `klal.store` touches a database file, and the crash
tests cut it where it hurts, below SQLite.
"""

from collections.abc import Iterable
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


class Wire(Protocol):
    """One peer at the other end of something that carries bytes.

    A wire may lose, repeat or cut off what it carries, and promises only not to alter it unnoticed in the common case:
    everything that matters is signed or hashed inside. Provisional: `exchange` may change before 1.0.
    """

    def exchange(self, message: bytes) -> Iterable[bytes]:
        """Send one message and yield the peer's answers to it, in order; none is an answer too.

        Raises:
            TransportError: The peer cannot be reached, or went away. Sending again is safe.
        """
        ...
