"""Reading a bundle without trust: item by item, in bounded memory, past whatever is damaged.

An item says how long it is, so the next one is found without reading the payloads of this
one. Where an item is damaged, the next bytes that begin one are looked for; what lies
between is listed. Bytes of a payload could be made to look like an item there, which gains
nobody anything: an item proves nothing but that it is whole, and what it brings is judged
as everything that comes from elsewhere.

Source:
    docs/spec/bundle.md, rules BDL-1 to BDL-7.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klal import disk
from klal.bundle.contents import MAGIC, Contents, decode_end, read_contents
from klal.errors import MalformedError, RefusedError, TransportError, UsageError
from klal.items import (
    BUNDLE_KINDS,
    CONTENTS,
    END,
    FIXED_SIZE,
    ITEM_MAGIC,
    DamagedItem,
    ItemHead,
    check_whole,
    parse_fixed,
    parse_head,
)
from klal.model.codec import HASH_SIZE

_SEARCH_SIZE = 1 << 20
# What looks like the beginning of an item is read as far as it says it goes. One that was made to look so at every
# few bytes must not cost more than reading the bundle a few times.
_SEARCH_COST_MAX = 4
_DAMAGE_COUNT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """One item and where it begins."""

    offset: int
    head: ItemHead

    @property
    def end(self) -> int:
        return self.offset + self.head.size


def is_bundle(path: Path) -> bool:
    """True when there is a plain file that begins as a bundle does."""
    try:
        descriptor, _ = _open(path)
    except (OSError, ValueError):  # ValueError: a path with a NUL.
        return False
    try:
        return disk.read_at(descriptor, 0, len(MAGIC)) == MAGIC
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, int]:
    disk.refuse_open_database(str(path))
    return disk.open_plain(str(path))


class Bundle:
    """An open bundle.

    Args:
        path: A plain file; no link is followed.

    Shape:
        damaged: sentences on what was found not to be whole; begun anew by every `items`.

    Raises:
        UsageError: It cannot be opened, or is no bundle.
        TransportError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[str] = []
        self._read_count = 0
        self._search_count = 0
        try:
            self._descriptor, self.size = _open(path)
        except disk.OpenDatabaseError as error:
            raise UsageError(f"{path} is no bundle of klal: {error.strerror}") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        try:
            if self._read(0, len(MAGIC)) != MAGIC:
                raise UsageError(f"{path} is no bundle of klal")
            self.contents = self._read_contents()
            self.space_id = self._find_space()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _read_contents(self) -> Contents | None:
        """Return what it says of itself, or None where that is damaged."""

        def pages() -> Iterator[ItemHead]:
            for found in self.items():
                if found.head.kind != CONTENTS:
                    return
                yield found.head

        try:
            return read_contents(pages())
        except RefusedError:
            return None

    def _find_space(self) -> bytes:
        if self.contents is not None:
            return self.contents.space_id
        found = next(self.items(), None)
        if found is None:
            raise UsageError(f"{self.path} is so damaged that nothing in it can be read")
        return found.head.space_id

    def items(self) -> Iterator[Found]:
        """Yield the items that are whole as far as their index goes, in order; list what lies between."""
        self.damaged.clear()
        self._search_count = 0
        at, count = len(MAGIC), 0
        is_ended = False
        while at < self.size:
            try:
                found = self._item_at(at)
            except DamagedItem as reason:
                after = self._next_item(at + 1)
                self._list_damage(at, after, str(reason))
                at = after
                continue
            if found.head.kind == END:
                self._check_end(found, count)
                is_ended = True
            else:
                yield found
                count += 1
            at = found.end
            if is_ended and at < self.size:
                self._list_damage(at, self.size, "nothing belongs after the end")
                return
        if not is_ended:
            self._note(f"the bundle is cut off: it has {self.size:,} bytes and no end")

    def _check_end(self, found: Found, count: int) -> None:
        try:
            item_count, size = decode_end(found.head)
        except MalformedError as error:
            self._note(f"at byte {found.offset:,}: {error}")
            return
        if (item_count, size) != (count, found.offset):
            self._note(
                f"the bundle was written with {item_count:,} items in {size:,} bytes,"
                f" and {count:,} in {found.offset:,} are here"
            )

    def _note(self, sentence: str) -> None:
        if len(self.damaged) < _DAMAGE_COUNT_MAX:
            self.damaged.append(sentence)

    def _list_damage(self, start: int, stop: int, reason: str) -> None:
        self._note(f"{stop - start:,} bytes at byte {start:,} cannot be used: what begins there {reason}")

    def _item_at(self, at: int) -> Found:
        """Return the item that begins here, its index checked, and all of it where it has no body.

        Raises:
            DamagedItem: There is none.
        """
        fixed = parse_fixed(self._read(at, FIXED_SIZE), BUNDLE_KINDS)
        if at + fixed.size > self.size:
            raise DamagedItem(f"states {fixed.size:,} bytes and has {self.size - at:,}")
        data = self._read(at, fixed.body_start if fixed.body_size else fixed.size)
        head = parse_head(data, BUNDLE_KINDS)
        if not head.body_size:
            check_whole(data)
        return Found(at, head)

    def _next_item(self, at: int) -> int:
        """Return where the next bytes lie that begin an item, or the end of the file."""
        search_max = self._read_count + _SEARCH_COST_MAX * self.size + _SEARCH_SIZE - self._search_count
        begun = self._read_count
        while at < self.size and self._read_count < search_max:
            data = self._read(at, _SEARCH_SIZE)
            place = data.find(ITEM_MAGIC)
            if place < 0:
                at += max(1, len(data) - len(ITEM_MAGIC) + 1)
                continue
            at += place
            try:
                self._item_at(at)
            except DamagedItem:
                at += 1
            else:
                self._search_count += self._read_count - begun
                return at
        self._search_count += self._read_count - begun
        return self.size

    def body(self, found: Found) -> bytes:
        """Return the body of an item.

        Raises:
            DamagedItem: The item is not what was written.
        """
        data = self._read(found.offset, found.head.size)
        parse_head(data, BUNDLE_KINDS)
        check_whole(data)
        return data[found.head.body_start : len(data) - HASH_SIZE]

    def note_damage(self, found: Found, reason: str) -> None:
        """List an item that was found not to be what was written after `items` gave it."""
        self._list_damage(found.offset, found.end, reason)

    def _read(self, start: int, size: int) -> bytes:
        try:
            data = disk.read_at(self._descriptor, start, size)
        except OSError as error:
            raise TransportError(f"{self.path} cannot be read: {error.strerror or error}") from error
        self._read_count += len(data)
        return data
