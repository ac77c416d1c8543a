"""Words and figures as a person reads them, and values as JSON carries them.

Law: whatever the value, `shown` returns one line without a character that a terminal would obey.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# Control, format (bidirectional overrides among them), surrogate, and the two separators that break lines.
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BYTES_SHOWN_MAX = 24


def shown(value: object) -> str:
    """Return `value` as one line, what a terminal would obey escaped, bytes as x'..' and absence as NULL."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        more = f"... {len(value):,} bytes" if len(value) > _BYTES_SHOWN_MAX else ""
        return f"x'{value[:_BYTES_SHOWN_MAX].hex()}{more}'"
    text = value if isinstance(value, str) else repr(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in _OBEYED else char for char in text)


def _escaped(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def jsonable(value: Any) -> Any:
    """Return `value` with only what JSON has: bytes become "x'..'", an infinite number the word SQLite has for it."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float) and math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return value


def rows_as_objects(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return one object per row; a column name that comes again is told apart as SQLite does, `name:1`."""
    names: list[str] = []
    for name in columns:
        again = sum(other == name or other.startswith(f"{name}:") for other in names)
        names.append(f"{name}:{again}" if again else name)
    return [dict(zip(names, row, strict=True)) for row in rows]


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return "1 change" or "2 changes"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def sized(size: int) -> str:
    """Return a number of bytes in the unit that leaves at most three digits before the point."""
    if size < 1000:
        return f"{size} B"
    amount, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while amount >= 999.95 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{amount:,.1f} {units[0]}"


def aged(unix_ms: int | None, now_unix_ms: int) -> str:
    """Return how long ago that was, coarsely; a time ahead of this clock says so."""
    if not unix_ms:
        return "never"
    seconds = (now_unix_ms - unix_ms) // 1000
    if seconds < -60:
        return "ahead of this clock"
    for length, noun in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= length:
            return f"{counted(seconds // length, noun)} ago"
    return "just now"


def listed(names: Sequence[str], nobody: str = "nobody known") -> str:
    """Return "Ana", "Ana and Ben", "Ana, Ben and 3 more"."""
    clean = [shown(name) for name in names]
    if not clean:
        return nobody
    if len(clean) == 1:
        return clean[0]
    if len(clean) <= 4:
        return f"{', '.join(clean[:-1])} and {clean[-1]}"
    return f"{', '.join(clean[:3])} and {len(clean) - 3:,} more"


def short_change(change: str) -> str:
    """Return "ab12cd34:7" for a change written in full, as people compare it."""
    log, colon, seq = change.partition(":")
    return f"{log[:8]}{colon}{seq}"
