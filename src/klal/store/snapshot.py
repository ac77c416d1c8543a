"""Snapshots in a file: one made here to be given to newcomers, or one that came and is read until history is here.

Rows that came lie in a file of their own beside this one, `FILE.snapshot`, and never in its
tables: what these show follows from history at any time, and a snapshot is somebody's word until
history has proven it. So throwing one away, for a lie or when history is here, changes no row.

The choice a reader would question: the pages of SQLite that came are attached to a database of
ours, looked through by SQLite's own check, and read by nothing but one SELECT for each table.

Law: whatever a peer sends, either the rows are those that the certificate names, or there are none.

Source:
    Protocol spec section 19, rules SNP-1 to SNP-6 (W21, T39). Decision 0037.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import apsw.ext
import msgspec
import zstandard

from klal.disk import sync_folder
from klal.errors import IncompleteError, LinkError, MalformedError, RefusedError, StoreError, UsageError
from klal.model.certificate import Certificate, check_certificate
from klal.model.codec import pack, tree_leaf, unpack
from klal.model.payload import slices_of
from klal.model.snapshot import (
    OUTLINE_SIZE_MAX,
    SNAPSHOT_SIZE_MAX,
    SNAPSHOT_VERSION,
    Head,
    Outline,
    check_snapshot_slice,
    decode_content,
    encode_content,
)
from klal.rules.schema import standing_acts
from klal.store.catalog import Catalog
from klal.store.file import allow_klal_id, create_file, translated
from klal.store.layout import quote
from klal.store.proofs import certified, tables_at
from klal.store.roots import root_columns, rows_in_order, rows_root
from klal.store.sql import Connection
from klal.store.store import Store

_META = "snapshot"
_LIE = "snapshot_lie"
_LEVEL = 3
_SUFFIX = ".snapshot"
_ROW_SIZE_MIN = 3  # Of a row in a page: so many rows an image of a certain size can hold, and no more.


class Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The snapshot that a file has something to do with.

    Shape:
        state: "made" here, to be given; or "arriving", "unchecked" (its rows can be read), "certified".
        giver: who gave it; "" of one made here.
    """

    outline: Outline
    state: str
    giver: str
    row_count: int


class Snapshots:
    """The snapshot of one store: at most one, made or taken."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def kept(self) -> Kept | None:
        """Return what this file has of a snapshot, or None."""
        kept: Kept | None = self._meta(_META, Kept)
        return kept

    def lie(self) -> str:
        """Return what was wrong with the last one that came, as a sentence, or ""."""
        return self._meta(_LIE, str) or ""

    @property
    def path(self) -> Path:
        """Where the rows of one that came can be read."""
        return self._store.path.with_name(self._store.path.name + _SUFFIX)

    # -- giving ------------------------------------------------------------------------------

    def make(self) -> Kept:
        """Make the snapshot of the newest certificate here, in the place of any before it.

        Raises:
            IncompleteError: No epoch is complete here. UsageError: One that came is still read here.
            StoreError: It would be too large to be sent.
        """
        store = self._store
        with store.reading():
            kept = self.kept()
            if kept is not None and kept.state != "made":
                raise UsageError("this file reads a snapshot itself until history is here")
            certificate = certified(store, None)
            if kept is not None and kept.outline.certificate == certificate.hash:
                return kept
            content, row_count = _content(store, certificate)
        if len(content) > SNAPSHOT_SIZE_MAX:
            raise StoreError(f"a snapshot of {len(content)} bytes is too large, want at most {SNAPSHOT_SIZE_MAX}")
        leaves = tuple(tree_leaf(piece) for piece in slices_of(content))
        outline = Outline(SNAPSHOT_VERSION, store.space_id, certificate.epoch, certificate.hash, len(content), leaves)
        kept = Kept(outline, "made", "", row_count)
        with store.writing(durable=True):
            self._drop_slices()
            store.connection.executemany("INSERT INTO klal_snapshot VALUES(?,?)", enumerate(slices_of(content)))
            self._set(_META, kept)
        return kept

    def slice(self, root: bytes, index: int) -> bytes:
        """Return one slice of the snapshot with this root, made or taken, or empty bytes."""
        kept = self.kept()
        if kept is None or kept.outline.root != root:
            return b""
        data: bytes | None = self._store.connection.execute(
            "SELECT data FROM klal_snapshot WHERE slice = ?", (index,)
        ).get
        return data or b""

    # -- taking ------------------------------------------------------------------------------

    def is_wanted(self) -> bool:
        """True where no work of others is here yet, so that a snapshot would help, or where one was begun."""
        store = self._store
        kept, own = self.kept(), store.writer.own
        is_done = kept is not None and kept.state in ("made", "certified")
        if store.identity is None or store.history.base is not None or is_done:
            return False
        others = [log for log in store.history.logs.values() if own is None or log is not own.log]
        return sum(log.length for log in others) <= 1 or kept is not None

    def begin(self, outline: Outline, giver: str) -> int | None:
        """Take up an outline, and return the first of its slices that lacks; None where it is of no use here.

        Args:
            outline: Checked.
            giver: Whom to name if it is a lie.
        """
        store, kept = self._store, self.kept()
        if outline.epoch < store.epochs.next_epoch:
            return None
        with store.writing(durable=True):
            if kept is None or kept.outline != outline:
                self._drop_slices()
                self._set(_META, Kept(outline, "arriving", giver, 0))
            count: int = store.connection.execute("SELECT count(*) FROM klal_snapshot").get
        return count

    def take(self, index: int, data: bytes) -> None:
        """Keep one slice, once its hash is right; they come in order.

        Raises:
            RefusedError: SNP-2.
        """
        kept = self.kept()
        assert kept is not None, "slices follow an outline"
        check_snapshot_slice(kept.outline, index, data)
        with self._store.writing(durable=True):
            self._store.connection.execute("INSERT OR REPLACE INTO klal_snapshot VALUES(?,?)", (index, data))

    def open(self) -> None:
        """Make the rows readable, and then check them against the root that the certificate names.

        Raises:
            RefusedError: It is no snapshot of this space, or its rows are others; nothing of it is kept then.
        """
        kept = self.kept()
        assert kept is not None, "it came"
        partial = self.path.with_name(f"{self.path.name}-partial")
        try:
            for each in (partial, self.path):
                _remove(each)
            pieces = self._store.connection.execute("SELECT data FROM klal_snapshot ORDER BY slice").fetchall()
            content = b"".join(piece for (piece,) in pieces)
            with closing(create_file(partial)) as connection, translated(partial):
                certificate, catalog, count = _unpack(connection, content, kept.outline)
                _put_in_place(partial, self.path)
                with self._store.writing(durable=True):
                    self._set(_META, msgspec.structs.replace(kept, state="unchecked", row_count=count))
                found = rows_root(connection, catalog)
            if found.root != certificate.body.rows_root:
                raise LinkError("its rows are not those that its certificate names", rule="SNP-4", evidence=found.root)
        except RefusedError as error:
            self.throw_away(f"{kept.giver} gave a snapshot of epoch {kept.outline.epoch}, and {error.message}")
            raise
        finally:
            _remove(partial)
        with self._store.writing(durable=True):
            self._drop_slices()
            self._set(_META, msgspec.structs.replace(kept, state="certified", row_count=count))

    def judge(self) -> None:
        """Let a snapshot go that is not needed any more: history is here, and says whether it was true (SNP-6)."""
        kept, store = self.kept(), self._store
        if kept is None or kept.state == "made" or kept.outline.epoch >= store.epochs.next_epoch:
            return
        standing = store.applier.closed[kept.outline.epoch]
        if standing.certificate_hash == kept.outline.certificate:
            self.throw_away("")
        elif not store.epochs.needs_word(standing):
            epoch = kept.outline.epoch
            self.throw_away(
                f"{kept.giver} gave a snapshot of epoch {epoch} under a certificate that history does not give"
            )

    def throw_away(self, lie: str) -> None:
        """Drop whatever is here of a snapshot, and remember why.

        Args:
            lie: What was wrong with it; "" where nothing was.
        """
        with self._store.writing(durable=True):
            self._drop_slices()
            self._set(_META, None)
            self._set(_LIE, lie or None)
        _remove(self.path)

    # -- reading -----------------------------------------------------------------------------

    def query(self, sql: str, parameters: Any) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Return columns and rows of a SELECT over the rows of a snapshot that came.

        Raises:
            IncompleteError: There is none. UsageError: Not a SELECT that SQLite takes.
        """
        if not self.path.exists():
            raise IncompleteError("no snapshot is to be read here")
        connection = Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.pragma("trusted_schema", "off")
            connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
            with translated(self.path):
                columns = _columns_of(connection, sql)
                return columns, connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    # -- what is kept ------------------------------------------------------------------------

    def _meta(self, name: str, kind: type[Any]) -> Any:
        told = self._store.connection.execute("SELECT value FROM klal_meta WHERE name = ?", (name,)).get
        return None if told is None else unpack(told, kind, "stored snapshot", 2 * OUTLINE_SIZE_MAX)

    def _set(self, name: str, value: object) -> None:
        self._store.connection.execute("DELETE FROM klal_meta WHERE name = ?", (name,))
        if value is not None:
            self._store.connection.execute("INSERT INTO klal_meta VALUES(?,?)", (name, pack(value)))

    def _drop_slices(self) -> None:
        self._store.connection.execute("DELETE FROM klal_snapshot")


def _columns_of(connection: Connection, sql: str) -> tuple[str, ...]:
    """Return the names of what a SELECT gives, without running it.

    Raises:
        UsageError: It is none.
    """
    info = apsw.ext.query_info(connection, sql)
    if not info.is_readonly or info.is_explain or not info.description or info.query_remaining:
        raise UsageError("a snapshot can only be read, by one SELECT")
    return tuple(column[0] for column in info.description)


def _content(store: Store, certificate: Certificate) -> tuple[bytes, int]:
    """Return the bytes of the snapshot of a certificate here, and how many rows it has."""
    counts = []
    with tables_at(store, certificate.epoch) as (connection, catalog), closing(Connection(":memory:")) as image:
        image.execute("BEGIN")
        for number, table_id in enumerate(sorted(catalog.by_id)):
            table = catalog.by_id[table_id]
            width = len(root_columns(table))
            image.execute(_image_table(number, width))
            marks = ", ".join("?" * width)
            image.executemany(f"INSERT INTO t{number} VALUES({marks})", rows_in_order(connection, table))
            counts.append(image.execute(f"SELECT count(*) FROM t{number}").get)
        image.execute("COMMIT")
        data = image.serialize("main")
        head = Head(certificate.encode(), standing_acts(catalog.schema), tuple(counts), len(data))
    return encode_content(head, zstandard.ZstdCompressor(level=_LEVEL).compress(data)), sum(counts)


def _image_table(number: int, width: int) -> str:
    return f"CREATE TABLE t{number}({', '.join(f'c{at}' for at in range(width))})"


def _unpack(connection: Connection, content: bytes, outline: Outline) -> tuple[Certificate, Catalog, int]:
    """Fill an empty file with the tables and rows of a snapshot.

    Raises:
        RefusedError: SNP-3, SNP-4, or the rule of the certificate or of an act.
    """
    head, packed = decode_content(content)
    certificate = check_certificate(head.certificate)
    body = certificate.body
    if (body.space_id, body.epoch, body.hash) != (outline.space_id, outline.epoch, outline.certificate):
        raise MalformedError("its certificate is another than its outline names", rule="SNP-3")
    connection.pragma("journal_mode", "delete")  # Out of the write-ahead log first, or it stays there.
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "off")
    connection.pragma("ignore_check_constraints", True)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
    allow_klal_id(connection, str)
    catalog = Catalog(connection)
    connection.execute("BEGIN")
    catalog.load()
    if head.schema:
        catalog.declare(head.schema)
    connection.execute("COMMIT")
    tables = [catalog.by_id[table_id] for table_id in sorted(catalog.by_id)]
    is_bounded = sum(head.row_counts) == body.row_count and _ROW_SIZE_MIN * body.row_count <= head.image_size
    if len(tables) != len(head.row_counts) or not is_bounded:
        raise MalformedError("its tables or rows are not as many as it says", rule="SNP-3")
    columns = [[info.name for info in root_columns(table)] for table in tables]
    _attach(connection, packed, head.image_size, [len(names) for names in columns])
    try:
        connection.execute("BEGIN")
        for number, (table, names, count) in enumerate(zip(tables, columns, head.row_counts, strict=True)):
            listed, given = ", ".join(map(quote, names)), ", ".join(f"c{at}" for at in range(len(names)))
            connection.execute(
                f"INSERT INTO main.{quote(table.name)}({listed}) SELECT {given} FROM given.t{number} LIMIT ?", (count,)
            )
        connection.execute("COMMIT")
        connection.execute("DETACH given")
    except apsw.Error as error:
        raise MalformedError(f"its rows do not fit its tables: {error}", rule="SNP-4") from error
    return certificate, catalog, sum(head.row_counts)


def _attach(connection: Connection, packed: memoryview, image_size: int, widths: Sequence[int]) -> None:
    """Attach an image as `given`, if it has just the tables that it must have and SQLite finds no fault (T39)."""
    try:
        if zstandard.frame_content_size(packed) != image_size:
            raise MalformedError("its image does not state the size that it should have", rule="SNP-4")
        image = zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise MalformedError(f"its image cannot be unpacked: {error}", rule="SNP-4") from error
    if image[:16] != b"SQLite format 3\0" or image[18:20] != b"\1\1" or len(image) != image_size:
        raise MalformedError("its image is no database in rollback mode", rule="SNP-4")
    wanted = [("table", f"t{at}", f"t{at}", _image_table(at, width)) for at, width in enumerate(widths)]
    try:
        connection.execute("ATTACH ':memory:' AS given")
        connection.deserialize("given", image)
        sql = "SELECT type, name, tbl_name, sql FROM given.sqlite_schema LIMIT ?"
        if connection.execute(sql, (len(wanted) + 1,)).fetchall() != wanted:
            raise MalformedError("its image has other tables than it must have", rule="SNP-4")
        problem = connection.execute("PRAGMA given.quick_check(1)").get
    except (apsw.Error, UnicodeDecodeError) as error:
        raise MalformedError(f"its image is damaged: {error}", rule="SNP-4") from error
    if problem != "ok":
        raise MalformedError(f"its image is damaged: {' '.join(str(problem).split())}", rule="SNP-4")


def _put_in_place(new: Path, path: Path) -> None:
    try:
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
