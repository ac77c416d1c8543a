"""What is still good in a damaged file: read past broken pages, and believed only as far as hashes and seals go.

Nothing that can be computed is read: not which line belongs to which log, not how long a log is.
A header names the hash of the one before it, and the first one names its log, so the chains are
found again from the headers alone, in whatever order and with whatever holes SQLite can still
give them.

Law: every header that is given lies in one chain from its log's beginning, and under a seal of
its member, or is the unsealed end of the log that this file wrote.

Source:
    Protocol spec sections 4, 5, 7 and 15, rules LOG-1 to LOG-3, SEA-1, SEA-3 and FIL-5.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from klal.errors import DamagedError, MalformedError, RefusedError, SignatureError
from klal.model.acts import Genesis, decode_acts
from klal.model.codec import HASH_SIZE, unpack
from klal.model.header import ACTS_TABLE, Header, header_hash
from klal.model.keys import INCARNATION_SIZE, MEMBER_ID_SIZE, SigningKey, log_id_of
from klal.model.payload import slices_of
from klal.model.receipt import Receipt
from klal.model.seal import SEAL_EVERY_COUNT, Seal, make_seal
from klal.store.file import memory_file, translate
from klal.store.home import Fence
from klal.store.layout import APPLICATION_ID, FILE_FORMAT
from klal.store.packs import unpack_headers
from klal.store.sql import Connection

_LINE_SIZE_MIN = 64  # No line of klal_change is smaller: a bound on how many there can be.
_HEADER_SIZE = 100
LOST_HINT = "bring it back with klal join and klal sync: the key is enough"


@dataclass(slots=True)
class FoundLog:
    """One log, as far as its chain is whole.

    Shape:
        lines: where its headers lie in the damaged file, by number.
        seals: length -> signature, good ones only; the last of them, or the end of the own log, ends `lines`.
        known_length: how long the file once said it was.
        start: of a branch of a log that forked, how many headers it shares with one that was found before.
    """

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    known_length: int = 0
    start: int = 0
    lines: list[int] = field(default_factory=list)
    seals: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundRun:
    """Consecutive headers of a log under a seal, as a session would bring them."""

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    start: int
    headers: tuple[bytes, ...]
    seal: Seal


@dataclass(frozen=True, slots=True)
class FoundSlice:
    """One slice of a part, which its header may or may not vouch for."""

    seq: int
    table_id: bytes
    index: int
    data: bytes


class _Line(NamedTuple):
    """Where a header lies, and what of it says where it belongs."""

    lsn: int
    seq: int
    hash: bytes
    is_sealed: bool


class Salvage:
    """A damaged file, opened to be read and left byte for byte as it is.

    Args:
        path: The file; nobody else has it open.
        name: What to call it in a sentence.

    Raises:
        DamagedError: SQLite cannot read it at all, or it does not say which space it is of.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        with path.open("rb") as file:
            self._header_before = file.read(_HEADER_SIZE)
        self._connection = self._opened()
        try:
            self._meta: dict[Any, Any] = dict(self._rows("name, value", "klal_meta", "name"))
            self._packed: dict[int, bytes] = {}
            self.space_id, self.genesis = self._origin()
            self._packed = self._unpacked()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file, as it was."""
        has_wal = self._has_wal()
        self._connection.close()
        self._write_header(self._header_before)
        for suffix in ("-shm",) if has_wal else ("-shm", "-wal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _opened(self) -> Connection:
        """Return a connection that can read the file, with its first bytes mended where they must be."""
        size = self.path.stat().st_size
        stated = int.from_bytes(self._header_before[16:18], "big")
        for page_size in (stated, *(1 << exponent for exponent in (12, 9, 10, 11, 13, 14, 15, 0))):
            # A write-ahead log has a first page of its own; 1 stands for 65536.
            if not self._has_wal():
                self._write_header(_mended(self._header_before, page_size, size // (page_size or 1)))
            found = _connected(self.path)
            if found is not None:
                return found
        self._write_header(self._header_before)
        raise DamagedError(f"{self.name} cannot be read as a klal file any more", hint=LOST_HINT)

    def _has_wal(self) -> bool:
        wal = self.path.with_name(f"{self.path.name}-wal")
        return wal.exists() and wal.stat().st_size > 0

    def _write_header(self, data: bytes) -> None:
        with self.path.open("r+b") as file:
            if file.read(len(data)) != data:
                file.seek(0)
                file.write(data)

    @property
    def connection(self) -> Connection:
        """The damaged file itself, of which any statement may fail."""
        return self._connection

    def meta(self, name: str, kind: type) -> Any:
        """Return one of the file's own words, or None if it is not there or not of that kind."""
        value = self._meta.get(name)
        return value if isinstance(value, kind) else None

    # -- reading past what is broken -----------------------------------------------------

    def _rows(self, columns: str, table: str, order: str) -> list[Any]:
        """Return the rows of a table, from both of its ends up to where it cannot be read."""
        found: dict[Any, Any] = {}
        for direction in ("", " DESC"):
            keys = ", ".join(f"{name}{direction}" for name in order.split(", "))
            try:
                for row in self._connection.execute(f"SELECT {order}, {columns} FROM {table} ORDER BY {keys}"):
                    found.setdefault(row[: len(order.split(", "))], row[len(order.split(", ")) :])
            except (apsw.Error, UnicodeDecodeError):
                continue
            break
        return [found[key] for key in sorted(found, key=repr)]

    def _numbers(self) -> Iterator[int]:
        """Yield the numbers of all lines of klal_change that can be read."""
        yield from (lsn for lsn in self._packed if lsn < 0)
        last = 0
        try:
            for (lsn,) in self._connection.execute("SELECT lsn FROM klal_change ORDER BY lsn"):
                yield lsn
                last = lsn
        except apsw.Error:
            # Beyond a broken page each line is asked for by itself.
            for lsn in range(last + 1, self.path.stat().st_size // _LINE_SIZE_MIN + 1):
                if self._header(lsn) is not None:
                    yield lsn

    def _header(self, lsn: int) -> bytes | None:
        return self._blob("SELECT header FROM klal_change WHERE lsn = ?", lsn) or self._packed.get(lsn)

    def _unpacked(self) -> dict[int, bytes]:
        """Return the headers that lie in blocks, by the numbers of their lines, or below 0 where these are lost."""
        spans: dict[Any, list[tuple[int, int]]] = {}
        for lsn, log, seq in self._rows("lsn, log, seq", "klal_span", "lsn"):
            spans.setdefault(log, []).append((seq, lsn))
        found: dict[int, bytes] = {}
        for log, seq, data in self._rows("log, seq, data", "klal_pack", "log, seq"):
            with suppress(DamagedError, TypeError):
                places = sorted(spans.get(log, ()))
                for at, header in enumerate(unpack_headers(self.space_id, data), seq):
                    first, start = places[index] if (index := bisect_right(places, (at + 1,)) - 1) >= 0 else (0, 0)
                    lsn = start + at - first
                    is_there = start > 0 and self._blob("SELECT header FROM klal_change WHERE lsn = ?", lsn) == b""
                    found[lsn if is_there else -len(found) - 1] = header
        return found

    def _blob(self, sql: str, *place: int) -> bytes | None:
        with suppress(apsw.Error, UnicodeDecodeError):
            value = self._connection.execute(sql, place).get
            return value if isinstance(value, bytes) else None
        return None

    # -- the space -----------------------------------------------------------------------

    def _origin(self) -> tuple[bytes, Genesis]:
        """Return the space's id and its genesis, from what the file says or from its first change."""
        given = self.meta("space_id", bytes)
        for genesis in self._geneses():
            if given is None or len(given) != HASH_SIZE or genesis.space_id == given or self._is_founded_by(genesis):
                return genesis.space_id, genesis
        raise DamagedError(f"{self.name} does not say any more which space it is of", hint=LOST_HINT)

    def _geneses(self) -> Iterator[Genesis]:
        stored = self.meta("genesis", bytes)
        if stored is not None:
            with suppress(MalformedError):
                yield unpack(stored, Genesis, "stored genesis")
        for lsn in self._numbers():
            data = self._header(lsn)
            with suppress(MalformedError):
                header = None if not data else Header.decode(data)
                # Of a header in a block only the acts lie in its line.
                acts = self._blob("SELECT payload FROM klal_change WHERE lsn = ?", lsn) if not data else None
                if header is not None and header.seq == 0:
                    acts = self._part(lsn, header, ACTS_TABLE)
                yield from (act for act in decode_acts(acts or b"") if isinstance(act, Genesis))

    def _is_founded_by(self, genesis: Genesis) -> bool:
        """True when a log of this file is that of the genesis's founder in its space."""
        return any(
            log_id == log_id_of(genesis.space_id, genesis.founder, incarnation)
            for log_id, incarnation in self._rows("origin, incarnation", "klal_log", "log")
            if isinstance(incarnation, bytes)
        )

    # -- logs ----------------------------------------------------------------------------

    def receipts(self) -> list[Receipt]:
        """Return the receipts that somebody signed."""
        found = []
        for body, signature in self._rows("body, signature", "klal_receipt", "log_id"):
            with suppress(RefusedError, TypeError):
                receipt = Receipt.decode(body, signature)
                receipt.check(self.space_id)
                found.append(receipt)
        return found

    def logs(self, key: SigningKey | None, fence_of: Callable[[bytes], Fence | None]) -> list[FoundLog]:
        """Return every log that begins here, in the order of their arrival, each cut to what is good of it.

        Args:
            key: Of the member whose file it is, if at hand: it can seal the end of that log anew.
            fence_of: What the home remembers of a log.
        """
        after: dict[bytes, list[_Line]] = {}
        hashes: set[bytes] = set()
        for lsn in self._numbers():
            data = self._header(lsn)
            with suppress(MalformedError):
                if data:
                    header = Header.decode(data)
                    line = _Line(lsn, header.seq, header_hash(self.space_id, data), header.is_sealed)
                    after.setdefault(header.backlink, []).append(line)
                    hashes.add(line.hash)
        # The branches of a log that forked have a line each, under the log's own id.
        rows = self._rows("log, origin, member_id, incarnation, length", "klal_log", "log")
        names = self._names(rows)
        numbers: dict[bytes, list[Any]] = {}
        lengths: dict[bytes, int] = {}
        for number, log_id, *_, length in rows:
            if log_id in names:
                numbers.setdefault(log_id, []).append(number)
            if isinstance(length, int) and length and isinstance(log_id, bytes):
                lengths[log_id] = max(length, lengths.get(log_id, 0))
        signatures: dict[Any, list[tuple[int, bytes]]] = {}
        for number, length, signature in self._rows("log, length, signature", "klal_seal", "log, length"):
            if isinstance(signature, bytes) and isinstance(length, int):
                signatures.setdefault(number, []).append((length, signature))
        loose = {line.seq for hashed, lines in after.items() if hashed not in hashes | names.keys() for line in lines}
        found = []
        began = [log_id for log_id in names if log_id in after]
        # Of a log whose first header is gone it is at least known that there was one.
        for log_id in sorted(began, key=lambda log_id: after[log_id][0].lsn) + sorted(lengths.keys() - set(began)):
            if log_id not in names:
                continue
            for start, chain in _chains(log_id, after):
                log = FoundLog(log_id, *names[log_id], known_length=0 if start else lengths.get(log_id, 0), start=start)
                mine = numbers.get(log_id, [])
                if not mine:
                    unnamed = signatures.keys() - {number for each in numbers.values() for number in each}
                    mine = [n for n in sorted(unnamed, key=repr) if self._is_of(log, chain, signatures[n])][:1]
                given = [signed for number in mine for signed in signatures.get(number, ())]
                said = () if start else (length for length, _ in given)
                log.known_length = max(log.known_length, len(chain), *said, 0)
                self._find_seals(log, chain, given)
                if key is not None and key.member_id == log.member_id and mine == [self.meta("own_log", int)]:
                    fence = fence_of(log_id)
                    log.known_length = max(log.known_length, 0 if fence is None else fence.length)
                    self._seal_own(log, chain, dict(given), key, fence, is_cut=len(chain) in loose)
                _cut(log, chain)
                log.start = min(start, len(log.lines))
                found.append(log)
        return found

    def _names(self, rows: Sequence[Any]) -> dict[bytes, tuple[bytes, bytes]]:
        """Return log id -> (member id, incarnation), as far as any two of the three are still right."""
        members = {row[2] for row in rows if isinstance(row[2], bytes) and len(row[2]) == MEMBER_ID_SIZE}
        members.add(self.genesis.founder)
        pairs = {(receipt.statement.member_id, receipt.statement.incarnation) for receipt in self.receipts()}
        for _, log_id, member_id, incarnation, _ in rows:
            if not isinstance(incarnation, bytes) or len(incarnation) != INCARNATION_SIZE:
                continue
            if member_id in members:
                pairs.add((member_id, incarnation))
            if member_id not in members or log_id_of(self.space_id, member_id, incarnation) != log_id:
                pairs |= {(other, incarnation) for other in members}
        return {log_id_of(self.space_id, *pair): pair for pair in sorted(pairs)}

    def _is_of(self, log: FoundLog, chain: list[_Line], signatures: list[tuple[int, bytes]]) -> bool:
        """True when the first of these seals that can be looked at is one of this log."""
        length, signature = min(signatures)
        if not 0 < length <= len(chain):
            return False
        with suppress(SignatureError):
            seal = Seal(log.log_id, length, chain[length - 1].hash, signature)
            seal.check(self.space_id, log.member_id)
            return True
        return False

    def _find_seals(self, log: FoundLog, chain: list[_Line], signatures: list[tuple[int, bytes]]) -> None:
        for length, signature in sorted(signatures):
            if 0 < length <= len(chain):
                seal = Seal(log.log_id, length, chain[length - 1].hash, signature)
                with suppress(SignatureError):
                    seal.check(self.space_id, log.member_id)
                    log.seals[length] = signature

    def _seal_own(
        self,
        log: FoundLog,
        chain: list[_Line],
        signatures: dict[int, bytes],
        key: SigningKey,
        fence: Fence | None,
        *,
        is_cut: bool,
    ) -> None:
        """Seal what is good of the log that this file wrote, wherever a seal of it is due or lost.

        What lies beyond its last seal has never left the file, and nothing else vouches for it.
        But where the chain breaks off its last header is the one that may be wrong, and to seal
        it where it once stood sealed would fork the log.

        Args:
            is_cut: True when a header names a predecessor that should be the last of the chain and is not.
        """
        sealed = max((*signatures, 0 if fence is None else fence.length), default=0)
        good = max(log.seals, default=0)
        if fence is not None and 0 < fence.length <= len(chain) and chain[fence.length - 1].hash == fence.head_hash:
            good = max(good, fence.length)
        whole = len(chain) - is_cut
        if whole > sealed:
            good = whole
        for length, line in enumerate(chain[:good], 1):
            if _is_due(line) or length == good:
                log.seals[length] = make_seal(key, self.space_id, log.log_id, length, line.hash).signature

    # -- what a session would bring ------------------------------------------------------

    def runs(self, log: FoundLog) -> Iterator[FoundRun]:
        """Yield a log's headers in runs that end at seals."""
        start = 0
        for length in sorted(log.seals):
            headers = tuple(self._header(lsn) or b"" for lsn in log.lines[start:length])
            seal = Seal(log.log_id, length, header_hash(self.space_id, headers[-1]), log.seals[length])
            yield FoundRun(log.log_id, log.member_id, log.incarnation, start, headers, seal)
            start = length

    def head_of(self, log: FoundLog) -> bytes:
        """Return the hash of a log's last good header."""
        return header_hash(self.space_id, self._header(log.lines[-1]) or b"")

    def payload(self, log: FoundLog, seq: int) -> Iterator[FoundSlice]:
        """Yield the slices of one change that can be read, unchecked."""
        lsn = log.lines[seq]
        header = Header.decode(self._header(lsn) or b"")
        for part in header.parts:
            data = self._part(lsn, header, part.table_id)
            for index, piece in enumerate(() if data is None else slices_of(data)):
                yield FoundSlice(seq, part.table_id, index, piece)

    def _part(self, lsn: int, header: Header, table_id: bytes) -> bytes | None:
        whole = self._blob("SELECT payload FROM klal_change WHERE lsn = ?", lsn)
        start = 0
        for index, part in enumerate(header.parts):
            if part.table_id == table_id:
                if whole is not None:
                    return whole[start : start + part.size]
                return self._joined(lsn, index)
            start += part.size
        return None

    def _joined(self, lsn: int, index: int) -> bytes | None:
        pieces: list[bytes] = []
        with suppress(apsw.Error):
            rows = self._connection.execute(
                "SELECT data FROM klal_slice WHERE lsn = ? AND part = ? ORDER BY slice", (lsn, index)
            )
            pieces = [data for (data,) in rows if isinstance(data, bytes)]
        return b"".join(pieces) or None

    def founding_log(self, logs: Sequence[FoundLog]) -> bytes:
        """Return the log that the space began with, as the file says or as its first log of the founder.

        Raises:
            DamagedError: It cannot be told.
        """
        own = {log.log_id for log in logs if log.member_id == self.genesis.founder}
        said = [row[0] for row in self._rows("log_id, ticket_id", "klal_member", "member_id") if row[1] is None]
        names = (
            [log_id for log_id in said if log_id in own] or [log.log_id for log in logs if log.log_id in own] or said
        )
        if not names or not isinstance(names[0], bytes):
            raise DamagedError(f"{self.name} does not say any more which log began its space", hint=LOST_HINT)
        return names[0]


def _chains(log_id: bytes, after: dict[bytes, list[_Line]]) -> Iterator[tuple[int, list[_Line]]]:
    """Yield each branch's headers from the log's first on, and how many of them an earlier one has; at least one."""
    waiting: list[list[_Line]] = [[]]
    while waiting:
        chain = waiting.pop()
        start = max(0, len(chain) - 1)
        hashed = chain[-1].hash if chain else log_id
        while nexts := [line for line in after.get(hashed, ()) if line.seq == len(chain)]:
            waiting += [[*chain, line] for line in nexts[:0:-1]]
            chain.append(nexts[0])
            hashed = nexts[0].hash
        yield start, chain


def _is_due(line: _Line) -> bool:
    """True where others may join no run of headers across this one, so that a seal must stand here."""
    return line.is_sealed or not (line.seq + 1) % SEAL_EVERY_COUNT


def _cut(log: FoundLog, chain: list[_Line]) -> None:
    """Keep a log up to its last seal, and not beyond a place where one is due and is not good."""
    unsealed = (length for length, line in enumerate(chain, 1) if _is_due(line) and length not in log.seals)
    end = next(unsealed, len(chain) + 1)
    log.seals = {length: signature for length, signature in sorted(log.seals.items()) if length < end}
    log.lines = [line.lsn for line in chain[: max(log.seals, default=0)]]


def _connected(path: Path) -> Connection | None:
    """Return a connection that leaves file and write-ahead log as they are, or None if klal's tables are not there."""
    connection = Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.pragma("trusted_schema", "off")
        connection.pragma("cell_size_check", "on")
        connection.pragma("writable_schema", "on")  # A line of the schema that cannot be read hides no other one.
        _mend_schema(connection)
        connection.execute("SELECT 1 FROM klal_meta LIMIT 1; SELECT 1 FROM klal_change LIMIT 1").fetchall()
        is_readable = True
    except apsw.CorruptError:
        is_readable = True  # Some of it is, or nothing will be found.
    except (apsw.NotADBError, apsw.SQLError):
        is_readable = False
    except apsw.Error as error:
        connection.close()
        raise translate(error, path) from error
    if is_readable:
        return connection
    connection.close()
    return None


def _mend_schema(connection: Connection) -> None:
    """Put klal's own lines of the schema right, which are the same in every file, in a transaction that is never ended.

    They are told by their names, or by their places where the name is what was changed.
    """
    texts = ("type", "name", "tbl_name", "sql")
    # As bytes, since what was changed may be no text.
    columns = f"SELECT rowid, {', '.join(f'CAST({text} AS BLOB)' for text in texts)} FROM sqlite_schema"
    model = memory_file()
    wanted = model.execute(columns).fetchall()
    model.close()
    found = {row[0]: row for row in connection.execute(columns)}
    named = {row[2]: row for row in found.values()}
    names = {line[2] for line in wanted}
    if 2 * len(names & named.keys()) < len(names):
        return  # This is another kind of database.
    unnamed = {rowid: row for rowid, row in found.items() if row[2] not in names}
    wrong = []
    for line in wanted:
        row = named.get(line[2], unnamed.get(line[0]))
        if row is not None and row[1:] != line[1:]:
            wrong.append((*line[1:], row[0]))
    if wrong:
        connection.pragma("cache_spill", "off")  # Not a page of it reaches the file.
        connection.execute("BEGIN")
        settings = ", ".join(f"{text} = CAST(? AS TEXT)" for text in texts)
        connection.executemany(f"UPDATE sqlite_schema SET {settings} WHERE rowid = ?", wrong)
        connection.pragma("writable_schema", "reset")
        connection.pragma("writable_schema", "on")


def _mended(header: bytes, page_size: int, page_count: int) -> bytes:
    """Return the first bytes of a database with what is the same in every klal file put right."""
    return b"".join(
        (
            b"SQLite format 3\0",
            page_size.to_bytes(2, "big"),
            b"\2\2\0\x40\x20\x20",
            header[24:28],
            page_count.to_bytes(4, "big"),
            header[32:44],
            (4).to_bytes(4, "big"),
            bytes(8),
            (1).to_bytes(4, "big"),
            FILE_FORMAT.to_bytes(4, "big"),
            bytes(4),
            APPLICATION_ID.to_bytes(4, "big"),
            bytes(20),
            header[24:28],
            header[96:100],
        )
    )
