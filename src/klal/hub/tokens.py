"""Who may come in by a token: a file with one of them a line.

    # comments, and empty lines
    grafana  3f0c...            a name, then the token
    9a41...                     a token alone

Tokens are compared by their hashes, all of them each time, so that a wrong one takes as long as a right one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from klal.errors import UsageError

TOKEN_LENGTH_MIN = 16
_FILE_SIZE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Tokens:
    """Hashes of tokens, with the names they go by."""

    hashes: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Return the tokens of a file.

        Raises:
            UsageError: It cannot be read, or a line holds no token.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read as a list of tokens: {error}") from error
        if len(text) > _FILE_SIZE_MAX:
            raise UsageError(f"{path} is too large for a list of tokens")
        found: list[tuple[str, bytes]] = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            if len(words) > 2 or len(words[-1]) < TOKEN_LENGTH_MIN or not words[-1].isascii():
                # The line itself is a secret, and is not shown.
                raise UsageError(f"line {number} of {path} is no token of {TOKEN_LENGTH_MIN} characters or more")
            found.append((words[0] if len(words) == 2 else f"token {number}", sha256(words[-1].encode()).digest()))
        if not found:
            raise UsageError(f"{path} holds no token")
        return cls(tuple(found))

    def name_of(self, authorization: str | None) -> str | None:
        """Return the name of the token in an Authorization header, or None."""
        scheme, _, token = (authorization or "").partition(" ")
        given = sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        name: str | None = None
        for each, hashed in self.hashes:
            if hmac.compare_digest(hashed, given):
                name = each
        return name if scheme.lower() == "bearer" else None
