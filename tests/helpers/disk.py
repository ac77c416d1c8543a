"""What lies on a disk after each call that changed it, worked out from a list of those calls."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as `disk.c` writes it down.

    Shape:
        kind: C a file is made, T made or emptied, W written, L cut to a length, S synced, R renamed,
            K linked, U removed, M a folder made.
    """

    kind: str
    path: str
    other: str
    offset: int
    data: bytes


def calls_in(trace: bytes) -> Iterator[Call]:
    at = 0

    def take() -> bytes:
        nonlocal at
        (size,) = struct.unpack_from("=I", trace, at)
        at += 4 + size
        return trace[at - size : at]

    while at < len(trace):
        kind, path, other, offset, data = (take() for _ in range(5))
        yield Call(kind.decode(), path.decode(), other.decode(), struct.unpack("=q", offset)[0], data)


@dataclass
class File:
    """What a running system shows of a file, what is on the disk for certain, and what may be or not."""

    seen: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    waiting: list[Call] = field(default_factory=list)

    def do(self, call: Call) -> None:
        if call.kind == "S":
            self.kept, self.waiting = bytes(self.seen), []
        else:
            _change(self.seen, call)
            self.waiting.append(call)

    def after_power_loss(self, keeps: random.Random | None) -> bytes:
        data = bytearray(self.kept)
        for call in self.waiting if keeps is not None else ():
            if keeps.random() < 0.5:
                _change(data, call)
        return bytes(data)


def _change(data: bytearray, call: Call) -> None:
    if call.kind == "W":
        end = call.offset + len(call.data)
        data.extend(bytes(max(0, call.offset - len(data))))
        data[call.offset : end] = call.data
    elif call.kind in "LT":
        size = call.offset if call.kind == "L" else 0
        del data[size:]
        data.extend(bytes(size - len(data)))


class Disk:
    """A disk on which calls are done one after another.

    A name that was made, renamed or removed is on the disk for certain once its folder was synced;
    of a new file syncing the file is enough, as journaling file systems have it.
    """

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self.kept_names: dict[str, File] = {}
        self.folders: set[str] = set()

    def do(self, call: Call) -> None:
        file = self.names.get(call.path)
        match call.kind:
            case "M":
                self.folders.add(call.path)
            case "C" | "T" if file is None:
                self.names[call.path] = File()
            case "R":
                self.names[call.other] = self.names.pop(call.path)
            case "K":
                self.names[call.other] = self.names[call.path]
            case "U":
                del self.names[call.path]
            case "S" if file is None:
                self._sync_folder(call.path)
            case _:
                assert file is not None, call
                file.do(call)
                if call.kind == "S":
                    self.kept_names.setdefault(call.path, file)

    def _sync_folder(self, folder: str) -> None:
        inside = {path for path in self.names.keys() | self.kept_names.keys() if path.rpartition("/")[0] == folder}
        for path in inside:
            if path in self.names:
                self.kept_names[path] = self.names[path]
            else:
                del self.kept_names[path]

    def after_kill(self) -> dict[str, bytes]:
        return {path: bytes(file.seen) for path, file in self.names.items()}

    def after_power_loss(self, keeps: random.Random | None = None) -> dict[str, bytes]:
        """Return what is certain, or with dice that and any of the rest."""
        return {path: file.after_power_loss(keeps) for path, file in self.kept_names.items()}

    def write(self, files: dict[str, bytes], root: Path) -> None:
        for folder in sorted(self.folders):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
