"""Proving a file: every hash, link, seal, payload and certificate, and the tables themselves.

The last step replays the whole history in memory and compares what comes out with what
lies in the file, so a row changed by any other tool is found as surely as a bad hash.

Source:
    Protocol spec sections 5 to 13 and 15, rule FIL-4 (W13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import apsw

from klal.errors import LinkError, MalformedError, SignatureError
from klal.model.certificate import check_certificate
from klal.model.header import header_hash
from klal.model.keys import log_id_of
from klal.model.payload import part_root
from klal.store.epochs import Replay, rows_root
from klal.store.history import STATE_LACKING, Log
from klal.store.layout import quote
from klal.store.store import Store

# Tables are numbered in each file as they came, so lines are compared by the table's id.
_TABLE = "(SELECT table_id FROM klal_table t WHERE t.tab = klal_{0}.tab)"
_DERIVED = (
    ("klal_life", f"{_TABLE.format('life')}, key, life, was_deleted"),
    ("klal_dead", f"{_TABLE.format('dead')}, key, life, is_born, was_deleted, image"),
    (
        "klal_conflict",
        f"{_TABLE.format('conflict')}, key, column_id, log, seq, life, key_text, value,"
        " winner_log, winner_seq, winner_value",
    ),
    ("klal_past", "log, past_log, seq, length"),
    ("klal_column", f"{_TABLE.format('column')}, column_id, name, definition, is_added"),
    ("klal_table", "table_id, name, definition, order_key"),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was checked."""

    changes: int
    payloads: int
    receipts: int
    certificates: int


def check_store(store: Store, on_progress: Callable[[int, int], None] | None = None) -> Counts:
    """Return what was checked if all of it holds.

    Raises:
        RefusedError: The first thing that does not hold, with its rule; `evidence` says where.
    """
    connection = store.connection
    with store.reading():
        problem = connection.execute("PRAGMA integrity_check(1)").get
        if problem != "ok":
            raise MalformedError(f"the file is damaged: {problem}", rule="FIL-4", evidence="integrity_check")
        total = sum(log.length for log in store.history.logs.values())
        changes = payloads = 0
        for log in store.history.logs.values():
            for held in _check_log(store, log):
                changes += 1
                payloads += held
                if on_progress is not None and changes % 1000 == 0:
                    on_progress(changes, total)
        receipts = _check_receipts(store)
        certificates = _check_certificates(store)
        _check_tables(store)
    return Counts(changes, payloads, receipts, certificates)


def _where(log: Log, seq: int) -> str:
    return f"{log.log_id.hex()}:{seq}"


def _check_log(store: Store, log: Log) -> list[bool]:
    """Check one log, and return for each change whether its payload is held."""
    history = store.history
    space_id = store.space_id
    if log_id_of(space_id, log.member_id, log.incarnation) != log.log_id:
        raise LinkError("a log's id is not that of its member", rule="LOG-1", evidence=_where(log, 0))
    hashes: list[bytes] = []
    held = []
    indexed = store.indexed_length(log)
    for seq, stored in enumerate(history.lines(log, 0, log.length)):
        header = stored.header
        before = hashes[-1] if hashes else log.log_id
        if header.seq != seq or header.backlink != before:
            raise LinkError(f"change {seq} does not link to the one before it", rule="LOG-3", evidence=_where(log, seq))
        hashes.append(header_hash(space_id, stored.header_bytes))
        held.append(stored.state != STATE_LACKING)
        if stored.state != STATE_LACKING:
            for part in header.parts:
                data = history.part(stored, part.table_id)
                if data is None or len(data) != part.size or part_root(data) != part.root:
                    raise LinkError(
                        f"payload of change {seq} is not what its header names", rule="PAY-6", evidence=_where(log, seq)
                    )
        if seq < indexed and history.find(hashes[-1]) is None:
            raise LinkError(f"change {seq} is not in the index of hashes", rule="FIL-3", evidence=_where(log, seq))
    if len(hashes) != log.length or (hashes and hashes[-1] != log.head_hash):
        raise LinkError(
            f"log ends at {len(hashes)}, want {log.length}", rule="LOG-2", evidence=_where(log, len(hashes))
        )
    _check_seals(store, log, hashes)
    return held


def _check_seals(store: Store, log: Log, hashes: list[bytes]) -> None:
    sealed = 0
    for seal in store.history.seals(log, 0, log.length):
        sealed = seal.length
        try:
            seal.check(store.space_id, log.member_id)
        except SignatureError as error:
            raise SignatureError(error.message, rule="SEA-1", evidence=_where(log, seal.length - 1)) from error
    own = store.writer.own
    is_own = own is not None and own.log is log
    if sealed < len(hashes) and not is_own:
        raise SignatureError(f"changes from {sealed} lie under no seal", rule="SEA-2", evidence=_where(log, sealed))


def _check_receipts(store: Store) -> int:
    receipts = store.knowledge.receipts()
    for log_id, receipt in receipts.items():
        if receipt.log_id(store.space_id) != log_id:
            raise LinkError("a receipt is kept under another log", rule="RCP-1", evidence=log_id.hex())
        try:
            receipt.check(store.space_id)
        except SignatureError as error:
            raise SignatureError(error.message, rule="RCP-1", evidence=log_id.hex()) from error
    return len(receipts)


def _check_certificates(store: Store) -> int:
    for closed in store.applier.closed:
        epoch = closed.cut.epoch
        stored = store.epochs.certificate(epoch)
        where = f"certificate of epoch {epoch}"
        if stored is None:
            raise LinkError(f"{where} is not here", rule="CRT-1", evidence=where)
        check_certificate(stored.encode())
        kept = store.connection.execute("SELECT hash FROM klal_epoch WHERE epoch = ?", (epoch,)).get
        previous = store.applier.closed[epoch - 1].certificate_hash if epoch else bytes(32)
        if kept != stored.hash or stored.body.previous != previous:
            raise LinkError(f"{where} does not follow the one before it", rule="CRT-1", evidence=where)
        rows = store.epochs.rows_at(closed.cut, replayed=True)
        if rows.root != stored.body.rows_root:
            raise LinkError(f"{where} names other rows than history gives", rule="CRT-3", evidence=where)
    return len(store.applier.closed)


def _check_tables(store: Store) -> None:
    """Replay what is applied, and compare every table with the file's own."""
    replay = Replay(store.connection, store.history, store.applier.closed)
    try:
        replay.run(store.history.applied_lengths())
        if rows_root(replay.connection, replay.catalog).root != rows_root(store.connection, store.catalog).root:
            raise LinkError(
                "the rows in the tables are not those that history gives",
                rule="FIL-4",
                evidence=_first_difference(store, replay),
            )
        for name, columns in _DERIVED:
            ours = store.connection.execute(f"SELECT {columns} FROM {name}").fetchall()
            theirs = replay.connection.execute(f"SELECT {columns} FROM {name}").fetchall()
            if sorted(ours, key=repr) != sorted(theirs, key=repr):
                raise LinkError(f"{name} is not what history gives", rule="FIL-4", evidence=name)
    except (apsw.Error, UnicodeDecodeError) as error:
        raise MalformedError(f"history cannot be replayed: {error}", rule="FIL-4") from error
    finally:
        replay.connection.close()


def _first_difference(store: Store, replay: Replay) -> str:
    """Return the table and key of the first row that differs, to show to a person."""
    for table in store.catalog.by_id.values():
        order = ", ".join(quote(info.name) for info in table.key)
        names = ", ".join(quote(info.name) for info in table.columns)
        sql = f"SELECT {names} FROM main.{quote(table.name)} ORDER BY {order}"
        ours = set(store.connection.execute(sql).fetchall())
        twin = replay.catalog.by_id.get(table.table_id)
        if twin is None:
            return table.name
        theirs = set(replay.connection.execute(sql).fetchall())
        if ours != theirs:
            keys = sorted(map(repr, {table.key_of(row) for row in ours ^ theirs}))
            return f"{table.name}, key {keys[0]}"
    return "tables"
