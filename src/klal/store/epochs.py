"""Closing: from Closes that are applied here to the certificate of an epoch.

The certificate describes the rows as of the cut, while this file may already be further
on. If it is exactly at the cut its tables are read; otherwise the cut is replayed in a
file in memory, by the same code that applied it here.

Source:
    Protocol spec section 13. Decisions D14 to D16.
"""

from __future__ import annotations

from klal.errors import DamagedError
from klal.model.acts import Join as JoinAct
from klal.model.acts import decode_acts
from klal.model.certificate import CERTIFICATE_SIZE_MAX, Body, Certificate, CutHead, MemberName, Witness
from klal.model.codec import UNIX_MS_MAX, pack, unpack
from klal.model.frontier import Frontier, Head
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE
from klal.model.roots import chain_root, members_root
from klal.rules import closing
from klal.rules.closing import Cut, Join, cut_of
from klal.rules.merge import ChangeRef
from klal.store.apply import Applier, Closed
from klal.store.base import open_base
from klal.store.catalog import Catalog
from klal.store.file import memory_file
from klal.store.history import STATE_APPLIED, STATE_HELD, History, Log, outcome_of
from klal.store.roots import RowsRoot, changes_root, rows_root
from klal.store.rows import Rows
from klal.store.sql import Connection
from klal.store.unique import Uniques
from klal.store.window import order_key

_EPOCH_ANY = (1 << 31) - 1


class Epochs:
    """The epochs of one file: which are complete here, and what the next waits for."""

    def __init__(self, connection: Connection, history: History, catalog: Catalog, applier: Applier) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog
        self._applier = applier

    def load(self) -> None:
        """Read the certificates, and with them the cuts, from the file."""
        self._applier.closed = []
        rows = self._connection.execute("SELECT certificate FROM klal_epoch ORDER BY epoch").fetchall()
        for (stored,) in rows:
            certificate = unpack(stored, Certificate, "stored certificate", CERTIFICATE_SIZE_MAX)
            lengths = {self._history.by_id[head.log_id].log: head.length for head in certificate.cut}
            closes = self._closes(certificate.epoch)
            counted = tuple(witness.member.member_id for witness in certificate.witness)
            cut = Cut(certificate.epoch, lengths, counted, {member_id: closes[member_id] for member_id in counted})
            self._applier.closed.append(Closed(certificate.hash, cut))

    @property
    def next_epoch(self) -> int:
        """Return the first epoch that is not complete here."""
        return len(self._applier.closed)

    def certificate(self, epoch: int) -> Certificate | None:
        """Return the certificate of an epoch that is complete here, or None."""
        stored = self._connection.execute("SELECT certificate FROM klal_epoch WHERE epoch = ?", (epoch,)).get
        return None if stored is None else unpack(stored, Certificate, "stored certificate", CERTIFICATE_SIZE_MAX)

    def finished(self, member_id: bytes) -> int:
        """Return the first epoch that this member has not finished, as far as applied here."""
        greatest = self._connection.execute("SELECT max(epoch) FROM klal_close WHERE member_id = ?", (member_id,)).get
        return 0 if greatest is None else greatest + 1

    def next_cut(self) -> Cut | tuple[bytes, ...]:
        """Return the cut of the next epoch, or the counted members it waits for."""
        previous = self._applier.closed[-1].cut if self._applier.closed else closing.NOTHING
        founder: bytes = (
            self._connection.execute("SELECT member_id FROM klal_member WHERE ticket_id IS NULL").get or b""
        )
        # Every log begins with its member's entry. Which of several a file met first differs
        # between files, so whoever has any of them inside the cut is counted (W28).
        joins = [
            Join(log.member_id, ChangeRef(log.log, 0)) for log in self._history.logs.values() if log.applied_length
        ]
        return cut_of(previous, founder, joins, self._closes(previous.epoch + 1), self._history.vector)

    def _closes(self, epoch: int) -> dict[bytes, ChangeRef]:
        """Return each member's Close of an epoch, sealed exactly there: of several, the first in the order."""
        found: dict[bytes, list[ChangeRef]] = {}
        for log, seq, member_id in self._connection.execute(
            "SELECT c.log, c.seq, c.member_id FROM klal_close c"
            " JOIN klal_seal s ON s.log = c.log AND s.length = c.seq + 1 WHERE c.epoch = ? ORDER BY c.log, c.seq",
            (epoch,),
        ).fetchall():
            found.setdefault(member_id, []).append(ChangeRef(log, seq))
        return {
            member_id: min(refs, key=self._order) if len(refs) > 1 else refs[0] for member_id, refs in found.items()
        }

    def _order(self, ref: ChangeRef) -> tuple[object, ...]:
        return tuple(order_key(self._history, self._history.logs[ref.log], self._history.read(ref)))

    def advance(self) -> bool:
        """Make the certificate of the next epoch if it is complete here; True if it was."""
        cut = self.next_cut()
        if not isinstance(cut, Cut):
            return False
        certificate = self.certify(cut)
        self._connection.execute(
            "INSERT INTO klal_epoch VALUES(?,?,?)", (cut.epoch, certificate.hash, pack(certificate))
        )
        self._applier.closed.append(Closed(certificate.hash, cut))
        return True

    def certify(self, cut: Cut, *, replayed: bool = False, rows: RowsRoot | None = None) -> Certificate:
        """Return the certificate of a cut that is complete here (CRT-1 to CRT-4).

        Args:
            cut: What it is of.
            replayed: Make its rows from history alone.
            rows: Those of the cut, where they are known.
        """
        history = self._history
        earlier = self._applier.closed[: cut.epoch]
        frontier = Frontier(
            {
                history.logs[log].log_id: Head(length, history.hash_at(ChangeRef(log, length - 1)))
                for log, length in cut.lengths.items()
                if length
            }
        )
        payload_size = 0
        for log, length in cut.lengths.items():
            payload_size += sum(stored.header.payload_size for stored in history.lines(history.logs[log], 0, length))
        rows = rows or self.rows_at(cut, replayed=replayed)
        names = self._names(cut)
        before = set(earlier[-1].cut.counted) if earlier else set()
        body = Body(
            version=1,
            space_id=history.space_id,
            epoch=cut.epoch,
            previous=earlier[-1].certificate_hash if earlier else NO_CERTIFICATE,
            chain_root=chain_root(closed.certificate_hash for closed in earlier),
            history_root=frontier.root(),
            changes_root=changes_root(history, earlier[-1].cut.lengths if earlier else {}, cut.lengths),
            rows_root=rows.root,
            change_count=frontier.change_count,
            payload_size=payload_size,
            row_count=rows.row_count,
            members_root=members_root(list(cut.counted)),
            member_count=len(cut.counted),
            joined=tuple(MemberName(member, names[member]) for member in cut.counted if member not in before),
        )
        heads = tuple(CutHead(log_id, head.length, head.head_hash) for log_id, head in frontier.heads.items())
        witness = tuple(self._witness(names[member], cut.closes[member]) for member in cut.counted)
        return Certificate(body, heads, witness)

    def _names(self, cut: Cut) -> dict[bytes, str]:
        """Return the counted members' names: of several joins of one key, that of the first log of the cut."""
        names: dict[bytes, str] = dict(self._connection.execute("SELECT member_id, name FROM klal_member").fetchall())
        logs: dict[bytes, list[Log]] = {}
        for log in sorted(self._history.logs.values(), key=lambda log: log.log_id, reverse=True):
            logs.setdefault(log.member_id, []).append(log)
        for member_id in cut.counted:
            several = logs.get(member_id, [])
            for log in several if len(several) > 1 else ():
                first = self._history.read(ChangeRef(log.log, 0)) if cut.lengths.get(log.log) else None
                if first is not None and outcome_of(first.state) == STATE_APPLIED:
                    acts = self._history.part(first, ACTS_TABLE)
                    for act in () if acts is None else decode_acts(acts):
                        if isinstance(act, JoinAct) and act.member == member_id:
                            names[member_id] = act.name
        return names

    def _witness(self, name: str, close: ChangeRef) -> Witness:
        log = self._history.logs[close.log]
        stored = self._history.read(close)
        acts = self._history.part(stored, ACTS_TABLE)
        signature: bytes = self._connection.execute(
            "SELECT signature FROM klal_seal WHERE log = ? AND length = ?", (close.log, close.seq + 1)
        ).get
        assert acts is not None, "a Close that was applied has its acts"
        assert signature is not None, "finish seals exactly at the Close"
        return Witness(MemberName(log.member_id, name), log.incarnation, stored.header_bytes, acts, signature)

    def rows_at(self, cut: Cut, *, replayed: bool = False) -> RowsRoot:
        """Return the root of the rows as of a cut, from history alone if `replayed`."""
        if not replayed and self._history.applied_lengths() == {
            log: length for log, length in cut.lengths.items() if length
        }:
            return rows_root(self._connection, self._catalog)
        replay = Replay(self._connection, self._history, self._applier.closed)
        try:
            replay.run(cut.lengths)
            return rows_root(replay.connection, replay.catalog)
        finally:
            replay.connection.close()


class Replay:
    """Part of a file's history, applied again from nothing in memory."""

    def __init__(self, source: Connection, history: History, closed: list[Closed]) -> None:
        self._source = source
        self._original = history
        self.connection = memory_file() if history.base is None else open_base(source)
        self.history = History(self.connection, history.space_id)
        self.history.rest_on(history.base)
        self.catalog = Catalog(self.connection)
        self.rows = Rows(self.connection)
        self.applier = Applier(self.connection, self.history, self.catalog, self.rows)
        self.uniques = Uniques(self.connection, self.history, self.catalog, self.rows)
        if history.base is not None:
            self.catalog.load()
        # Certificates are known beforehand: a header is judged by those in its own past.
        self.applier.closed = list(closed)
        self.applier.not_after_ms = UNIX_MS_MAX

    def run(self, lengths: dict[int, int]) -> None:
        """Apply the prefixes `lengths`, a causally closed set, in the order they arrived here.

        In a compacted file they must hold its base, on which the others are applied (CMP-2).
        """
        floor = self._original.floor
        if any(lengths.get(log, 0) < length for log, length in floor.items()):
            raise DamagedError("a state below what was compacted cannot be made again")
        self.connection.execute("BEGIN")
        for log in sorted(self._original.logs.values(), key=lambda log: log.log):
            copy = self.history.add_log(log.log_id, log.member_id, log.incarnation)
            if copy.log != log.log:  # Indexes may have holes; refs must mean the same in both.
                self.connection.execute("UPDATE klal_log SET log = ? WHERE log = ?", (log.log, copy.log))
                del self.history.logs[copy.log]
                copy.log = log.log
                self.history.logs[copy.log] = copy
        spans = self._source.execute("SELECT lsn, log, seq FROM klal_span ORDER BY lsn").fetchall()
        ends = [lsn for lsn, _, _ in spans[1:]] + [self._original.lsn_max + 1]
        for (lsn, log_index, seq), end in zip(spans, ends, strict=True):
            stop = min(seq + end - lsn, lengths.get(log_index, 0))
            for stored in self._original.lines(self._original.logs[log_index], seq, stop):
                copy = self.history.logs[log_index]
                hashed = self._original.hash_at(ChangeRef(log_index, stored.header.seq))
                state = stored.state if stored.header.seq < floor.get(log_index, 0) else STATE_HELD
                at = self.history.append(copy, stored.header_bytes, hashed, state, 0, stored.payload)
                if stored.payload is None:
                    self._copy_slices(stored.lsn, at)
                self.history.index_hash(hashed, at)
                copy.payload_length = copy.length
        self._pass_base()
        self.apply_all()
        self.connection.execute("COMMIT")

    def _pass_base(self) -> None:
        """Take all of the base as applied, before anything is compared with it."""
        waiting = {log: length for log, length in self._original.floor.items() if length}
        while waiting:
            count = len(waiting)
            for index, length in list(waiting.items()):
                log = self.history.logs[index]
                while log.applied_length < length and self.applier.pass_over(log):
                    count += 1
                if log.applied_length == length:
                    del waiting[index]
            if count == len(waiting):
                raise DamagedError("what was compacted is not all in the file")

    def _copy_slices(self, lsn: int, at: int) -> None:
        rows = self._source.execute("SELECT part, slice, data FROM klal_slice WHERE lsn = ?", (lsn,))
        self.connection.executemany("INSERT INTO klal_slice VALUES(?,?,?,?)", ((at, *row) for row in rows))

    def apply_all(self) -> None:
        """Apply everything held, whatever waits for what."""
        progress = True
        while progress:
            progress = False
            for log in self.history.logs.values():
                while log.applied_length < log.payload_length and self.applier.apply(log, _EPOCH_ANY) is not None:
                    progress = True
        self.uniques.settle()
