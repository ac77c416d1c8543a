"""The folder that keeps what must not be in the database file: keys and fences.

A key makes signatures. A fence is a random token kept both here and in the file and
swapped at the first write after opening; with it lies the log's last sealed head. A file
that was copied, restored or rolled back disagrees with its fence, and then starts a new
log: no sequence number is ever used twice (D6, W9).

Layout:
    <home>/<space id, 16 hex>/<member id, 16 hex>.key          seed, member name
    <home>/<space id, 16 hex>/<log id, 16 hex>.fence           token, sealed length, sealed head, place,
                                                               modification time and size after a clean close

Source:
    Protocol spec section 4, rules LOG-5 and LOG-6.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from klal.disk import sync_folder
from klal.errors import StoreError
from klal.model.keys import SigningKey

_ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Fence:
    """What this side remembers of one log: the file must agree with all of it.

    Shape:
        token: 32 hex digits, or "" for a log that was never written.
        length, head_hash: the last seal made; 0 and empty before the first.
        place: which file is written, from its first write until it is closed; else "". A copy of
            an open file has the same token, so it must not go on in the log its original writes.
        left: the file's modification time and size as a clean close left them, by which the next
            opening knows that nobody has written since; None where that is not known.
    """

    token: str
    length: int = 0
    head_hash: bytes = b""
    place: str = ""
    left: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """A member's key with the name it goes by."""

    key: SigningKey
    name: str


@dataclass(frozen=True, slots=True)
class Home:
    """One folder of keys and fences, for any number of spaces and members."""

    folder: Path

    def identities(self, space_id: bytes) -> list[Identity]:
        """Return the members of this space whose keys are here, by name."""
        folder = self._space(space_id)
        if not folder.is_dir():
            return []
        found = [_read_key(path) for path in sorted(folder.glob("*.key"))]
        return sorted(found, key=lambda identity: (identity.name, identity.key.member_id))

    def save_identity(self, space_id: bytes, identity: Identity) -> None:
        """Keep a key, readable by this user only."""
        path = self._space(space_id) / f"{identity.key.member_id.hex()[:_ID_DIGITS]}.key"
        _write(path, {"seed": identity.key.seed.hex(), "name": identity.name})

    def fence(self, space_id: bytes, log_id: bytes) -> Fence | None:
        """Return what is remembered of this log, or None."""
        path = self._fence_path(space_id, log_id)
        if not path.exists():
            return None
        stored = _read(path)
        try:
            head_hash = bytes.fromhex(str(stored["head_hash"]))
            place, left = str(stored.get("place", "")), _left(stored.get("left"))
            return Fence(str(stored["token"]), int(str(stored["length"])), head_hash, place, left)
        except (KeyError, ValueError) as error:
            raise StoreError(f"{path} is damaged") from error

    def save_fence(self, space_id: bytes, log_id: bytes, fence: Fence) -> None:
        """Remember `fence`, durable when this returns."""
        stored: dict[str, object] = {
            "token": fence.token,
            "length": fence.length,
            "head_hash": fence.head_hash.hex(),
            "place": fence.place,
            "left": None if fence.left is None else " ".join(map(str, fence.left)),
        }
        _write(self._fence_path(space_id, log_id), stored)

    def _space(self, space_id: bytes) -> Path:
        return self.folder / space_id.hex()[:_ID_DIGITS]

    def _fence_path(self, space_id: bytes, log_id: bytes) -> Path:
        return self._space(space_id) / f"{log_id.hex()[:_ID_DIGITS]}.fence"


def _left(stored: object) -> tuple[int, int] | None:
    if stored is None:
        return None
    modified_ns, size = str(stored).split()
    return int(modified_ns), int(size)


def _read_key(path: Path) -> Identity:
    stored = _read(path)
    try:
        return Identity(SigningKey(bytes.fromhex(str(stored["seed"]))), str(stored["name"]))
    except (KeyError, ValueError) as error:
        raise StoreError(f"{path} is not a key") from error


def _read(path: Path) -> dict[str, object]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged") from error
    if not isinstance(stored, dict):
        raise StoreError(f"{path} is damaged")
    return stored


def _write(path: Path, stored: dict[str, object]) -> None:
    """Replace a small file so that a crash leaves the old or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(stored, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
