"""Proving a file: every hash, link, seal, payload and certificate, and the tables themselves.

The last step replays the whole history in memory and compares what comes out with what
lies in the file, so a row changed by any other tool is found as surely as a bad hash.

Source:
    Protocol spec sections 5 to 13 and 15, rule FIL-4 (W13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import apsw

from klal.errors import DamagedError, LinkError, MalformedError, RefusedError, SignatureError
from klal.model.acts import Act, Close, Genesis, Join, NameMoment, decode_acts, encode_act
from klal.model.certificate import Certificate, check_certificate
from klal.model.header import ACTS_TABLE, header_hash
from klal.model.keys import branch_id_of, log_id_of
from klal.model.payload import part_root
from klal.rules.closing import Cut
from klal.rules.merge import ChangeRef
from klal.rules.text import decode_document, told_by
from klal.store.base import Base
from klal.store.epochs import Replay
from klal.store.file import unchecked
from klal.store.history import (
    STATE_APPLIED,
    STATE_DROPPED,
    STATE_HELD,
    STATE_LACKING,
    STATE_VOID,
    Log,
    lacks_payload,
    outcome_of,
)
from klal.store.layout import DERIVED, TABLE_OF, quote
from klal.store.roots import RowsRoot, rows_root
from klal.store.sql import Connection
from klal.store.store import Store
from klal.store.words import epoch_of

_NOT_AS_WRITTEN = (
    apsw.CorruptError,
    apsw.SQLError,  # A line of SQLite's own schema was changed.
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    StopIteration,
    AssertionError,  # They say what klal never writes, and here it is what lies in the file.
)
"""What comes of reading something that klal did not write."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was checked."""

    changes: int
    payloads: int
    receipts: int
    certificates: int
    base: Base | None = None


def check_store(store: Store, on_progress: Callable[[int, int], None] | None = None) -> Counts:
    """Return what was checked if all of it holds.

    Raises:
        RefusedError: The first thing that does not hold, with its rule; `evidence` says where.
    """
    counts = [0, 0, 0, 0]

    def check_receipts() -> None:
        counts[2] = _check_receipts(store)

    def check_certificates() -> None:
        counts[3] = _check_certificates(store)

    stages: tuple[tuple[str, Callable[[], None]], ...] = (
        ("integrity_check", lambda: _check_pages(store)),
        ("logs", lambda: _check_logs(store, counts, on_progress)),
        ("branches", lambda: _check_names(store)),
        ("receipts", check_receipts),
        ("certificates", check_certificates),
        ("members and closes", lambda: _check_entries(store)),
        ("tables", lambda: _check_tables(store)),
    )
    with store.reading():
        place = "the file"
        try:
            for stage, check in stages:
                place = stage
                check()
        except RefusedError as error:
            error.evidence = error.evidence or place
            raise
        except (*_NOT_AS_WRITTEN, DamagedError) as error:
            raise MalformedError(
                f"{place}: something is not where it must be", rule="FIL-4", evidence=place, hint="klal heal mends it"
            ) from error
    return Counts(counts[0], counts[1], counts[2], counts[3], store.history.base)


def _check_pages(store: Store) -> None:
    # A row that a merge let break a CHECK is no damage: klal_violations lists it.
    with unchecked(store.connection):
        problem = store.connection.execute("PRAGMA integrity_check(1)").get
    if problem != "ok":
        found = " ".join(str(problem).removeprefix("*** in database main ***").split())
        raise MalformedError(f"the file is damaged: {found}", rule="FIL-4", evidence="integrity_check")


def _check_logs(store: Store, counts: list[int], on_progress: Callable[[int, int], None] | None) -> None:
    """Check every log, counting changes and payloads."""
    total = sum(log.length - log.start for log in store.history.logs.values())
    for log in store.history.logs.values():
        for held in _check_log(store, log):
            counts[0] += 1
            counts[1] += held
            if on_progress is not None and counts[0] % 1000 == 0:
                on_progress(counts[0], total)


def _where(log: Log, seq: int) -> str:
    return f"{log.log_id.hex()}:{seq}"


def _check_log(store: Store, log: Log) -> list[bool]:
    """Check one log, or one strand of a forked one, and return for each change whether its payload is held."""
    history = store.history
    space_id = store.space_id
    if log_id_of(space_id, log.member_id, log.incarnation) != log.origin:
        raise LinkError("a log's id is not that of its member", rule="LOG-1", evidence=_where(log, 0))
    below = history.before(ChangeRef(log.log, log.start))
    first = log.origin if below is None else history.hash_at(below)
    hashes: list[bytes] = []
    held = []
    indexed = store.indexed_length(log)
    for seq, stored in enumerate(history.lines(log, log.start, log.length), log.start):
        header = stored.header
        before = hashes[-1] if hashes else first
        if header.seq != seq or header.backlink != before:
            raise LinkError(f"change {seq} does not link to the one before it", rule="LOG-3", evidence=_where(log, seq))
        hashes.append(header_hash(space_id, stored.header_bytes))
        is_here = not lacks_payload(stored.state)
        held.append(is_here)
        if stored.state >= STATE_DROPPED and seq >= history.floor.get(log.log, 0):
            raise LinkError(f"change {seq} was never compacted", rule="CMP-2", evidence=_where(log, seq))
        if stored.state != STATE_LACKING:
            for part in header.parts:
                if part.table_id != ACTS_TABLE and not is_here:
                    continue  # Compacted; its acts stay, and are checked.
                data = history.part(stored, part.table_id)
                if data is None or len(data) != part.size or part_root(data) != part.root:
                    raise LinkError(
                        f"payload of change {seq} is not what its header names", rule="PAY-6", evidence=_where(log, seq)
                    )
        if seq < indexed and not history.is_findable(ChangeRef(log.log, seq), hashes[-1]):
            raise LinkError(f"change {seq} is not in the index of hashes", rule="FIL-3", evidence=_where(log, seq))
    length = log.start + len(hashes)
    if length != log.length or (hashes and hashes[-1] != log.head_hash):
        raise LinkError(f"log ends at {length}, want {log.length}", rule="LOG-2", evidence=_where(log, length))
    _check_fork(store, log)
    _check_seals(store, log, length)
    return held


def _check_fork(store: Store, log: Log) -> None:
    """Check that a strand is a branch: another header goes on from the same one, under the same number (LOG-4)."""
    history = store.history
    if log.log_id == log.origin:
        return
    where = _where(log, log.start)
    first = ChangeRef(log.log, log.start)
    others = history.after(history.before(first), log.origin)
    if log.length == log.start or len({history.hash_at(ref) for ref in others}) < 2:
        raise LinkError("a log is kept as two, and has not forked", rule="LOG-4", evidence=where)
    if branch_id_of(log.origin, history.hash_at(first)) != log.log_id:
        raise LinkError("a branch's id is not that of its first header", rule="LOG-7", evidence=where)


def _check_names(store: Store) -> None:
    """Check that the branches are called what the headers here make of them (LOG-7)."""
    kept = store.connection.execute("SELECT log, seq, log_id FROM klal_branch ORDER BY 1, 2").fetchall()
    if kept != store.history.branch_names():
        raise LinkError("klal_branch is not what history gives", rule="LOG-7", evidence="klal_branch")


def _check_seals(store: Store, log: Log, length: int) -> None:
    sealed = log.start
    for seal in store.history.seals(log, 0, log.length):
        sealed = seal.length
        try:
            seal.check(store.space_id, log.member_id)
        except SignatureError as error:
            raise SignatureError(error.message, rule="SEA-1", evidence=_where(log, seal.length - 1)) from error
    beyond = store.history.sealed_length(log)
    if beyond > length:
        where = _where(log, beyond - 1)
        raise LinkError(f"log ends at {length}, and a seal names {beyond}", rule="LOG-2", evidence=where)
    own = store.writer.own
    is_own = own is not None and own.log is log
    if sealed < length and not is_own:
        raise SignatureError(f"changes from {sealed} lie under no seal", rule="SEA-2", evidence=_where(log, sealed))


def _check_receipts(store: Store) -> int:
    receipts = store.knowledge.receipts()
    for log_id, receipt in receipts.items():
        number = store.connection.execute("SELECT number FROM klal_receipt WHERE log_id = ?", (log_id,)).get
        if receipt.log_id(store.space_id) != log_id or receipt.statement.number != number:
            raise LinkError("a receipt is kept under another log or number", rule="RCP-1", evidence=log_id.hex())
        try:
            receipt.check(store.space_id)
        except SignatureError as error:
            raise SignatureError(error.message, rule="RCP-1", evidence=log_id.hex()) from error
    named = dict(store.connection.execute("SELECT log_id, length FROM klal_named").fetchall())
    if named != store.knowledge.named():
        raise LinkError("klal_named is not what the receipts name", rule="FIL-4", evidence="klal_named")
    return len(receipts)


def _check_certificates(store: Store) -> int:
    chain = store.epochs.chain()
    for closed in store.applier.closed:
        epoch = closed.cut.epoch
        stored = store.epochs.certificate(epoch)
        where = f"certificate of epoch {epoch}"
        if stored is None:
            raise LinkError(f"{where} is not here", rule="CRT-1", evidence=where)
        if not store.epochs.needs_word(closed):
            check_certificate(stored.encode())
        if epoch >= len(chain) or (chain[epoch].certificate_hash, chain[epoch].cut.counted) != (
            closed.certificate_hash,
            closed.cut.counted,
        ):
            raise LinkError(f"{where} is not the one that history gives", rule="CRT-1", evidence=where)
        kept = store.connection.execute("SELECT hash FROM klal_epoch WHERE epoch = ?", (epoch,)).get
        again = _certified_again(store, closed.cut, stored)
        if again.body.rows_root != stored.body.rows_root:
            raise LinkError(f"{where} names other rows than history gives", rule="CRT-3", evidence=where)
        if kept != stored.hash or stored != again:
            raise LinkError(f"{where} is not the one that history gives", rule="CRT-1", evidence=where)
    if isinstance(store.epochs.next_cut(), Cut):
        where = f"certificate of epoch {len(store.applier.closed)}"
        raise LinkError(f"{where} is not here, though the epoch is complete", rule="EPO-5", evidence=where)
    return len(store.applier.closed)


def _certified_again(store: Store, cut: Cut, stored: Certificate) -> Certificate:
    """Return the certificate of a cut made anew, from history alone.

    Below the base of a compacted file the rows cannot be made again. There the certificate's own
    word for them is taken, which the certificate of the base binds by its hash (CMP-4).
    """
    base = store.history.base
    earlier = store.applier.closed[: cut.epoch]
    if base is None or cut.epoch >= base.epoch:
        return store.epochs.certify(cut, earlier, replayed=True)
    return store.epochs.certify(cut, earlier, rows=RowsRoot(stored.body.rows_root, stored.body.row_count))


def _judged_again(store: Store, log: Log, seq: int, acts: Sequence[Act]) -> Iterator[tuple[object, ...]]:
    """Yield the lines of klal_word that a change must have, each verdict found again from its past (MEM-6)."""
    for number, word, fault, rank in store.epochs.judged(ChangeRef(log.log, seq), acts):
        yield log.log, seq, number, epoch_of(word), log.member_id, encode_act(word), fault, int(rank)


def _check_entries(store: Store) -> None:
    """Check that members, Closes and named moments are those that the acts in history name."""
    history = store.history
    joins: dict[bytes, set[tuple[object, ...]]] = {}
    entered: set[bytes] = set()
    closes: set[tuple[object, ...]] = set()
    moments: set[tuple[object, ...]] = set()
    words: set[tuple[object, ...]] = set()
    for log in history.logs.values():
        for stored in history.lines(log, 0, log.length):
            data = history.part(stored, ACTS_TABLE)
            state = outcome_of(stored.state)
            if data is None or state == STATE_VOID:
                continue
            seq = stored.header.seq
            acts = decode_acts(data) if seq == 0 or state == STATE_APPLIED else ()
            if state == STATE_APPLIED:
                words.update(_judged_again(store, log, seq, acts))
            for act in acts:
                if isinstance(act, Close) and state == STATE_APPLIED:
                    closes.add((act.epoch, log.log, seq, log.member_id))
                elif isinstance(act, NameMoment) and state == STATE_APPLIED:
                    moments.add((log.log, seq, act.name))
                elif isinstance(act, Join):
                    uses = act.invitation.use_count_max
                    joins.setdefault(act.member, set()).add((act.name, log.log_id, seq, act.invitation.ticket_id, uses))
                    entered |= {act.member} if state == STATE_APPLIED else set()
                elif isinstance(act, Genesis):
                    joins.setdefault(act.founder, set()).add((act.founder_name, log.log_id, seq, None, None))
                    entered.add(act.founder)
    members = store.connection.execute(
        "SELECT member_id, name, log_id, seq, ticket_id, use_count_max FROM klal_member"
    ).fetchall()
    genesis = store.genesis
    if genesis.space_id != store.space_id:
        raise LinkError("the genesis is of another space", rule="MEM-1", evidence="genesis")
    if genesis.founder not in joins:
        # The space is named after its genesis, so its founder is known before the first change is here.
        joins[genesis.founder] = {(genesis.founder_name, log_id, 0, None, None) for _, _, log_id, *_ in members}
    for member_id, *entry in members:
        if tuple(entry) not in joins.get(member_id, set()):
            raise LinkError("a member is not entered as its join says", rule="MEM-1", evidence=member_id.hex())
    absent = entered - {member_id for member_id, *_ in members}
    if absent:
        raise LinkError("a member who joined is not entered", rule="MEM-1", evidence=min(absent).hex())
    if set(store.connection.execute("SELECT epoch, log, seq, member_id FROM klal_close").fetchall()) != closes:
        raise LinkError("klal_close is not what history gives", rule="FIL-4", evidence="klal_close")
    if set(store.connection.execute("SELECT * FROM klal_word").fetchall()) != words:
        raise LinkError("klal_word is not what history gives", rule="MEM-6", evidence="klal_word")
    if set(store.connection.execute("SELECT log, seq, name FROM klal_moment").fetchall()) != moments:
        raise LinkError("klal_moment is not what history gives", rule="FIL-4", evidence="klal_moment")


def _check_states(store: Store, replay: Replay) -> None:
    """Check what each change is said to have come to, against its being applied again."""
    for log in store.history.logs.values():
        lacking = log.length
        twin = replay.history.logs[log.log]
        again = replay.history.lines(twin, 0, log.applied_length)
        for stored in store.history.lines(log, 0, log.length):
            seq = stored.header.seq
            if stored.state == STATE_LACKING:
                lacking = min(lacking, seq)
            if seq < log.applied_length:
                other = next(again)
                is_right = (stored.state, stored.order_stamp) == (other.state, other.order_stamp)
            else:
                is_right = stored.state in (STATE_LACKING, STATE_HELD)
            if not is_right:
                raise LinkError(f"change {seq} came to something else", rule="FIL-4", evidence=_where(log, seq))
        if log.payload_length != lacking:
            raise LinkError(
                f"payloads are said to reach {log.payload_length}, want {lacking}",
                rule="FIL-4",
                evidence=_where(log, lacking),
            )


def _check_columns(store: Store, replay: Replay) -> None:
    """Check that each table has the columns it was declared with, and no other, and that nothing was added."""
    objects = "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
    here, there = (set(each.execute(objects).fetchall()) for each in (store.connection, replay.connection))
    if here != there:
        kind, name, _ = min(here ^ there)
        raise LinkError(f"{kind} {name} is not what was declared", rule="FIL-4", evidence=name)
    for table_id, table in store.catalog.by_id.items():
        twin = replay.catalog.by_id.get(table_id)
        name = table.name if twin is None else twin.name
        sql = 'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?)'
        ours = store.connection.execute(sql, (table.name,)).fetchall()
        theirs = replay.connection.execute(sql, (name,)).fetchall()
        if name != table.name or sorted(ours, key=repr) != sorted(theirs, key=repr):
            raise LinkError(f"table {table.name} is not as it was declared", rule="FIL-4", evidence=table.name)


def _check_tables(store: Store) -> None:
    """Replay what is applied, and compare every table with the file's own."""
    replay = Replay(store.connection, store.history, store.applier.certificate_in)
    try:
        replay.run(store.history.applied_lengths())
        _check_columns(store, replay)
        if rows_root(replay.connection, replay.catalog).root != rows_root(store.connection, store.catalog).root:
            raise LinkError(
                "the rows in the tables are not those that history gives",
                rule="FIL-4",
                evidence=_first_difference(store, replay),
            )
        for name, columns in DERIVED:
            ours = store.connection.execute(f"SELECT {columns} FROM {name}").fetchall()
            theirs = replay.connection.execute(f"SELECT {columns} FROM {name}").fetchall()
            if sorted(ours, key=repr) != sorted(theirs, key=repr):
                raise LinkError(f"{name} is not what history gives", rule="FIL-4", evidence=name)
        if _documents(store.connection) != _documents(replay.connection):
            raise LinkError("klal_text is not what history gives", rule="FIL-4", evidence="klal_text")
        _check_states(store, replay)
    except (apsw.Error, UnicodeDecodeError) as error:
        raise MalformedError(f"history cannot be replayed: {error}", rule="FIL-4", evidence="tables") from error
    finally:
        replay.connection.close()


def _documents(connection: Connection) -> dict[object, object]:
    rows = connection.execute(f"SELECT {TABLE_OF.format('text')}, key, column_id, document FROM klal_text").fetchall()
    return {tuple(place): told_by(decode_document(document)) for *place, document in rows}


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
