"""CSV in and out: UTF-8, a header row, RFC 4180.

Reading is bounded: one line is held at a time, whatever the file's size, and a bad row names its file, line and column.
Writing goes to a temporary name that replaces the target only when every row is in it and on the disk.

Law: exporting a table and importing the file into an empty table of the same definition gives the same rows, where
no text equals the spelling of NULL and no BLOB is in it.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from klal.cli.text import counted, listed, shown
from klal.errors import RefusedError, StoreError, UsageError

LINE_SIZE_MAX = 64 << 20
"""Above this a line is taken for a file that is not CSV: SQLite's own limits end near here too."""

_GUESS_ROW_COUNT = 1_000
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BLOB = re.compile(r"[xX]'((?:[0-9a-fA-F]{2})*)'")
_FOREIGN_MARKS = (b"\xff\xfe", b"\xfe\xff")


def require_csv(path: Path) -> None:
    """Return if the name of `path` says CSV.

    Raises:
        UsageError: Another suffix; this release reads and writes CSV only.
    """
    if path.suffix.lower() != ".csv":
        raise UsageError(
            f"{path.name} does not end in .csv, the one format of this release",
            hint="name the file with .csv at its end; other formats go through Python and insert_many or query",
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file, for a message."""

    path: Path
    line: int

    def refuse(self, what: str, *, hint: str = "") -> RefusedError:
        """Return the error that says `what` about this line; nothing of the file is in then."""
        return RefusedError(f"{self.path.name}, line {self.line:,}: {what}; nothing was imported", hint=hint)


class CsvReader:
    """The rows of one CSV file, read once, one line held at a time.

    Args:
        path: The file.
        nulls: Fields spelled like one of these are NULL.

    Raises:
        RefusedError: No header row, two columns of one name, or bytes that are not UTF-8.
    """

    columns: tuple[str, ...]
    line: int
    """The last line read, from 1."""

    def __init__(self, path: Path, *, nulls: Sequence[str] = ("",)) -> None:
        self.path = path
        self.nulls = frozenset(nulls)
        self.line = 0
        self.size_read = 0
        self._file: BinaryIO = path.open("rb")
        try:
            self._reader = csv.reader(self._lines(), strict=True)
            self.columns = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()

    def place(self) -> Place:
        """Return the line that was read last."""
        return Place(self.path, self.line)

    def rows(self, converters: Sequence[Callable[[str], Any]]) -> Iterator[tuple[Any, ...]]:
        """Yield each row, its fields converted, the NULL spelling as None.

        Raises:
            RefusedError: A row with more or fewer fields than the header, or bytes that are not CSV.
        """
        nulls = self.nulls
        for fields in self._records():
            if len(fields) != len(self.columns):
                if not fields:
                    continue  # an empty line, which many programs leave at the end
                raise self._wrong_width(fields)
            yield tuple(
                None if field in nulls else convert(field) for convert, field in zip(converters, fields, strict=True)
            )

    def guess_table(self, table: str) -> str:
        """Return a CREATE TABLE statement that would take this file, its types guessed from its first rows."""
        types = ["INTEGER"] * len(self.columns)
        filled = [True] * len(self.columns)
        distinct: list[set[str]] = [set() for _ in self.columns]
        row_count = 0
        with contextlib.suppress(RefusedError):
            for fields in self._records():
                if len(fields) != len(self.columns):
                    continue
                row_count += 1
                for index, field in enumerate(fields):
                    if field in self.nulls:
                        filled[index] = False
                        continue
                    distinct[index].add(field)
                    types[index] = _wider(types[index], field)
                if row_count == _GUESS_ROW_COUNT:
                    break
        # A key is needed: the first column that was never empty and never the same twice looks like one.
        key = next((i for i, values in enumerate(distinct) if filled[i] and len(values) == row_count > 0), None)
        lines = []
        for index, name in enumerate(self.columns):
            # An INTEGER PRIMARY KEY would be SQLite's row number, which two replicas would both give out.
            declared = "TEXT" if index == key else types[index] if distinct[index] else "TEXT"
            lines.append(f"{spelled(name)} {declared}{' PRIMARY KEY' if index == key else ''}")
        if key is None:
            lines.insert(0, "id TEXT PRIMARY KEY DEFAULT (klal_id())")
        return f"CREATE TABLE {spelled(table)} ({', '.join(lines)})"

    def _header(self) -> tuple[str, ...]:
        names = [name.strip() for name in next(self._records(), [])]
        place = Place(self.path, max(self.line, 1))
        if not names:
            raise place.refuse("there is no header row", hint="the first row must name the columns")
        for column, name in enumerate(names, 1):
            if not name:
                raise place.refuse(f"column {column} has no name in the header row")
            if name.lower() in (other.lower() for other in names[: column - 1]):
                raise place.refuse(f"column {column} has the name {shown(name)!r} a second time")
        return tuple(names)

    def _records(self) -> Iterator[list[str]]:
        # The limit is the csv module's own, and for the whole process; the default stops at 128 KiB.
        csv.field_size_limit(LINE_SIZE_MAX)
        while True:
            try:
                yield next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self.place().refuse(f"it is not CSV here: {error}") from error

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(LINE_SIZE_MAX + 1):
            self.line += 1
            self.size_read += len(line)
            if len(line) > LINE_SIZE_MAX:
                raise self.place().refuse(f"it is longer than {LINE_SIZE_MAX:,} bytes")
            if self.line == 1:
                if line.startswith(_FOREIGN_MARKS) or b"\0" in line:
                    raise self.place().refuse("it is not UTF-8 text", hint="save the file as CSV in UTF-8")
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                column = line[: error.start].count(b",") + 1
                found = f"column {column} has the byte 0x{line[error.start]:02x}, which is not UTF-8"
                raise self.place().refuse(found, hint="save the file as CSV in UTF-8") from error

    def _wrong_width(self, fields: Sequence[str]) -> RefusedError:
        want = len(self.columns)
        if len(fields) < want:
            what = f"column {len(fields) + 1} ({shown(self.columns[len(fields)])}) is missing"
        else:
            what = f"column {want + 1} has no name"
        return self.place().refuse(f"{what}; {counted(len(fields), 'field')}, want {want}")


def _wider(declared: str, field: str) -> str:
    """Return the narrowest type that takes `field` and what was seen before."""
    if declared == "INTEGER" and not isinstance(to_integer(field), int):
        declared = "REAL"
    return "TEXT" if declared == "REAL" and not isinstance(to_real(field), float) else declared


def to_integer(field: str) -> int | str:
    """Return `field` as an integer of 64 bits where it spells one, else as it is."""
    text = field.strip()
    if _INTEGER.fullmatch(text) and -(2**63) <= (number := int(text)) < 2**63:
        return number
    return field


def to_real(field: str) -> float | str:
    """Return `field` as a finite number where it spells one, else as it is."""
    text = field.strip()
    if _REAL.fullmatch(text) and abs(number := float(text)) != float("inf"):
        return number
    return field


def to_number(field: str) -> int | float | str:
    """Return `field` as SQLite's NUMERIC would keep it."""
    number = to_integer(field)
    return number if isinstance(number, int) else to_real(field)


def converter(declared: str) -> Callable[[str], Any]:
    """Return what turns a field into a value of this declared type, by SQLite's own rules of affinity."""
    declared = declared.upper()
    if "INT" in declared:
        return to_number  # as SQLite would: 1.5 in an INTEGER column is kept as 1.5
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT", "BLOB")) or not declared:
        return str
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return to_real
    return to_number


def spelled_key(text: str, declared: Sequence[str]) -> tuple[Any, ...]:
    """Return the key that `text` spells: a value, or a JSON list of as many as there are key columns.

    Raises:
        UsageError: It spells no such list.
    """
    parts: Any = [text]
    if len(declared) > 1:
        with contextlib.suppress(ValueError):
            parts = json.loads(text)
        if not isinstance(parts, list) or len(parts) != len(declared):
            raise UsageError(f"{text!r:.60} is no key here: want a JSON list of {len(declared)} values")
    return tuple(
        _key_part(part, kind) if isinstance(part, str) else part for part, kind in zip(parts, declared, strict=True)
    )


def _key_part(text: str, declared: str) -> Any:
    blob = _BLOB.fullmatch(text) if "BLOB" in declared.upper() else None
    return converter(declared)(text) if blob is None else bytes.fromhex(blob[1])


def match_columns(reader: CsvReader, table: str, declared: Sequence[tuple[str, str]]) -> list[Callable[[str], Any]]:
    """Return a converter for each column of the file.

    Raises:
        RefusedError: The header names a column that the table does not have.
    """
    types = {name.lower(): kind for name, kind in declared}
    for index, name in enumerate(reader.columns, 1):
        if name.lower() not in types:
            raise Place(reader.path, 1).refuse(
                f"column {index} is {shown(name)!r}, which {table} does not have",
                hint=f"the columns of {table} are {listed([name for name, _ in declared])}",
            )
    return [converter(types[name.lower()]) for name in reader.columns]


def quoted(name: str) -> str:
    """Return `name` as SQL always takes it, a keyword too."""
    return '"' + name.replace('"', '""') + '"'


def spelled(name: str) -> str:
    """Return `name` as a person writes it in SQL: in quotes only where its characters need them."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return name
    return quoted(name)


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterator[Sequence[Any]], *, null: str = "", replace: bool = False
) -> int:
    """Write rows to `path`, whole or not at all.

    Returns:
        How many rows.

    Raises:
        StoreError: The file is there already and `replace` is false, or the disk failed.
    """
    if path.exists() and not replace:
        raise StoreError(f"{path} is there already", hint="--force replaces it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        # Opened exclusively: a name somebody laid there is not followed.
        with temporary.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for row in rows:
                writer.writerow([_field(value, null) for value in row])
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _field(value: Any, null: str) -> Any:
    if value is None:
        return null
    return f"x'{value.hex()}'" if isinstance(value, bytes) else value
