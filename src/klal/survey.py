"""One look at a file: everything status, coverage and who-has say, from one moment.

Source:
    Protocol spec section 14. Decisions D13 to D15.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from klal.coverage import Coverage, Waiting
from klal.errors import IncompleteError, UsageError
from klal.holding import Holding
from klal.model.acts import (
    Act,
    AddColumn,
    Admit,
    Certify,
    Close,
    CreateIndex,
    CreateTable,
    CreateView,
    Drop,
    DropColumn,
    Expel,
    Genesis,
    Hand,
    Invite,
    Join,
    Leave,
    NameMoment,
    Rename,
    Retire,
    Return,
    SetPolicy,
    Support,
    Take,
    Word,
    decode_acts,
)
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header
from klal.model.schema import Value, key_text
from klal.reports import (
    ChangeId,
    Claim,
    Conflict,
    EpochStatus,
    LogEntry,
    News,
    Parked,
    Status,
    Violation,
)
from klal.rules.closing import Cut
from klal.rules.coverage import space_state
from klal.rules.merge import ChangeRef
from klal.store.history import STATE_VOID, STATE_VOID_DROPPED, Stored, outcome_of
from klal.store.resolve import hidden_id_of, lines
from klal.store.stewardship import HOW_GONE

_SKEW_WARN_MS = 5 * 60 * 1000
_DAY_MS = 24 * 60 * 60 * 1000


class Survey(Holding):
    """Answers about one store; used inside one read transaction and then dropped."""

    def coverage_of_epoch(self, epoch: int) -> Coverage:
        """Return how much of an epoch's cut is here."""
        return self.coverage(self.epoch_extent(epoch, self.waiting_for(epoch)))

    # -- epochs ------------------------------------------------------------------------------

    def check_may_finish(self, *, alone: bool) -> None:
        """Return if this member may finish the epoch it writes in.

        Raises:
            IncompleteError: The epoch before is not complete here; or this member knows of
                nobody else though it has invited, and not `alone` (W4).
            UsageError: It was retired from this epoch, or expelled (MEM-7).
        """
        epoch = self._store.writer.epoch
        if self._me in self._store.epochs.removed():
            raise UsageError(
                f"epoch {self._store.epochs.next_epoch} goes on without this member",
                rule="MEM-7",
                hint="klal status says why, and what next",
            )
        if not alone and len(self.names) == 1 and self._has_invited():
            raise IncompleteError(
                f"epoch {epoch} would be finished for everybody: invitations are out and nobody has been heard of yet",
                epoch=epoch,
                hint="sync first, or finish alone on purpose",
            )
        if epoch > self._store.epochs.next_epoch:
            waiting = self.waiting_for(epoch - 1)
            names = ", ".join(f"{each.member_name} ({each.reason})" for each in waiting)
            raise IncompleteError(
                f"epoch {epoch} cannot be finished before epoch {epoch - 1} is complete here, which waits for {names}",
                waiting_for=waiting,
                epoch=epoch - 1,
            )

    def _has_invited(self) -> bool:
        own = self._store.writer.own
        if own is None:
            return False
        lines = self._history.lines(own.log, 0, own.log.length)
        parts = (self._history.part(stored, ACTS_TABLE) for stored in lines)
        return any(isinstance(act, Invite) for data in parts if data is not None for act in decode_acts(data))

    def epoch_to_close(self) -> int:
        """Return the newest epoch that this member has finished, or the first when it has finished none."""
        return max(0, self._store.epochs.finished(self._me) - 1)

    def waiting_for(self, epoch: int) -> tuple[Waiting, ...]:
        """Return whom an epoch that is not complete here waits for, and why (W10, W26)."""
        store = self._store
        if epoch < store.epochs.next_epoch:
            return tuple(each for each in self.unnamed(epoch) if each.reason == "certificate not named")
        cut = store.epochs.next_cut()
        if isinstance(cut, Cut):
            return ()
        waiting = []
        if cut.is_too_few:
            steward = store.epochs.steward(epoch)
            waiting.append(Waiting(self.name(steward), steward, "fewer than half would be left", 0, ()))
        # The cut names those it is sure to count. Whoever else is known and has not finished
        # is named too: a join inside somebody's Close makes them counted.
        unfinished = {member_id for member_id in self.names if store.epochs.finished(member_id) <= epoch}
        unfinished -= self.standings.keys()
        for member_id in sorted({*cut.waiting, *unfinished}):
            mine = [gap for gap in self.gaps if gap.member_id == member_id]
            # Headers first: while they are missing, a Close may lie among them.
            for what, reason in (("headers", "missing changes"), ("payloads", "missing payloads")):
                found = [gap for gap in mine if gap.what == what]
                if found:
                    holders = sorted({self.name(holder) for gap in found for holder in gap.holders})
                    count = sum(len(gap.seqs) for gap in found)
                    waiting.append(Waiting(self.name(member_id), member_id, reason, count, tuple(holders)))
                    break
            else:
                waiting.append(Waiting(self.name(member_id), member_id, "not finished", 0, ()))
        return tuple(sorted(waiting, key=lambda each: (each.member_name, each.member_id)))

    def epoch_state(self, epoch: int) -> str:
        """Return "open", "complete" (all is here) or "closed" (every counted member names it)."""
        if epoch >= len(self._store.applier.closed):
            return "open"
        # What stands on a certificate that may still be given up may be given up with it.
        return "complete" if epoch > self.settled_count or self.unnamed(epoch) else "closed"

    @cached_property
    def settled_count(self) -> int:
        """Return how many epochs there are from the first on whose certificates nobody can give up any more (EPO-5)."""
        return self._store.epochs.settled_count(self.named)

    @cached_property
    def named(self) -> dict[bytes, int]:
        """Return the newest epoch whose certificate each member has put its name to; of this one, may."""
        named = self._store.named()
        mine = self._store.epochs.nameable(self._me, named) if self._me else -1
        return {**named, self._me: mine} if mine >= 0 else named

    def unnamed(self, epoch: int) -> tuple[Waiting, ...]:
        """Return the counted members not known to name the certificate of an epoch, if that is complete here."""
        closed = self._store.applier.closed
        if epoch >= len(closed):
            return ()
        waiting = [
            Waiting(self.name(member), member, "not heard from", 0, ())
            for member in closed[epoch].cut.counted
            if self.named.get(member, -1) < epoch
        ]
        if self._store.epochs.needs_word(closed[epoch]):
            steward = self._store.epochs.steward_in_force(epoch)
            waiting = [each for each in waiting if each.member_id != steward]
            waiting.insert(0, Waiting(self.name(steward), steward, "certificate not named", 0, ()))
        return tuple(waiting)

    def epoch(self) -> EpochStatus:
        """Return the first epoch that is not closed and has work in it, else the last closed one."""
        closed = self._store.applier.closed
        # Whoever names a later certificate names what came before: nobody waits for an epoch before a closed one.
        ended = max((each.cut.epoch for each in closed if self.epoch_state(each.cut.epoch) == "closed"), default=-1)
        for each in closed[ended + 1 :]:
            number = each.cut.epoch
            if self.epoch_state(number) == "complete":
                return EpochStatus(number, "complete", self.unnamed(number))
        number = len(closed)
        if closed and self._is_within(closed[-1].cut):
            return EpochStatus(number - 1, "closed", ())
        return EpochStatus(number, "open", self.waiting_for(number))

    def _is_within(self, cut: Cut) -> bool:
        """True when nothing known lies beyond this cut."""
        known = {log_id: log.known_length for log_id, log in self.held.items()}
        inside = {self._history.logs[index].log_id: length for index, length in cut.lengths.items()}
        return all(inside.get(log_id, 0) >= length for log_id, length in known.items())

    # -- status ------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return everything about where this replica stands."""
        store = self._store
        epoch = self.epoch()
        coverage = self.coverage(epoch=epoch.number)
        stable_count = sum(
            max(0, length - self._history.by_id[log_id].start)
            for log_id, length in self.stable.items()
            if log_id in self._history.by_id
        )
        # Another branch of a log, which a member signed for, is known of and not here.
        is_whole = coverage.certainty != "incomplete"
        connection = store.connection
        return Status(
            space=store.genesis.space_name,
            member="" if store.identity is None else store.identity.name,
            state=space_state(
                is_alone=self.is_alone,
                is_whole=is_whole,
                is_stable=stable_count == coverage.known,
                is_closed=epoch.state == "closed",
                is_part=bool(coverage.dropped),
            ),
            standing="whole"
            if is_whole and not coverage.dropped
            else "part"
            if coverage.payloads_held > 1
            else "spark",
            coverage=coverage,
            root=self._history.frontier().root(),
            members=coverage.members,
            epoch=epoch,
            stable_count=stable_count,
            only_here=sum(len(seqs) for _, seqs in self.only_here()),
            conflicts=connection.execute("SELECT count(*) FROM klal_conflict").get,
            violations=connection.execute("SELECT count(*) FROM klal_violations").get,
            parked=sum(log.payload_length - log.applied_length for log in self._history.logs.values()),
            warnings=self._warnings(),
            parked_why=self._parked(),
            news=self._news(),
            now_unix_ms=store.now_ms(),
        )

    def _parked(self) -> tuple[Parked, ...]:
        """Return what is held and not applied, with what the first of each log waits for (APP-1, EPO-2)."""
        found = []
        for log in self._history.logs.values():
            if log.payload_length > log.applied_length:
                header = self._history.read(ChangeRef(log.log, log.applied_length)).header
                count = log.payload_length - log.applied_length
                name = self._history.name_of(ChangeRef(log.log, log.applied_length))
                found.append(Parked(self.name(log.member_id), name, count, self._why_parked(header)))
        return tuple(sorted(found, key=lambda each: (each.member_name, each.log_id)))

    def _why_parked(self, header: Header) -> str:
        if header.epoch > self._store.writer.epoch:
            return f"epoch {header.epoch} has not begun here"
        for hashed in header.past:
            ref = self._history.find(hashed)
            if ref is None:
                return "a change that it had seen is not here"
            log = self._history.logs[ref.log]
            if ref.seq >= log.applied_length:
                what = "whose payload is not here" if ref.seq >= log.payload_length else "which waits too"
                return f"it had seen change {ref.seq} of {self.name(log.member_id)}, {what}"
        if self._history.wanted:
            return "it must be compared with payloads that were compacted here"
        return "it may not be judged here yet"

    def _news(self) -> News:
        """Return what came since about a day ago: by marks of arrival, and of one's own by one's own clock."""
        contacts = self._store.contacts
        own = self._store.writer.own
        day_ago = self._store.now_ms() - _DAY_MS
        lsn, since = contacts.mark_before(day_ago)
        arrived: dict[str, int] = {}
        for index, count in contacts.arrived_after(lsn).items():
            if own is None or index != own.log.log:
                name = self.name(self._history.logs[index].member_id)
                arrived[name] = arrived.get(name, 0) + count
        most = sorted(arrived.items(), key=lambda each: (-each[1], each[0]))
        return News(since, 0 if own is None else contacts.written_after(own.log, day_ago), dict(most))

    def only_here_entries(self) -> list[LogEntry]:
        """Return own changes that no other member is known to hold, oldest first in each log (W5)."""
        return [
            self._entry(ChangeId(self._history.name_of(ref), ref.seq), ref, stored)
            for log, seqs in self.only_here()
            for stored in self._history.lines(log, seqs.start, seqs.stop)
            for ref in [ChangeRef(log.log, stored.header.seq)]
        ]

    def _warnings(self) -> tuple[str, ...]:
        connection = self._store.connection
        warnings = []
        warnings.extend(self._forks())
        for name, used, meant in connection.execute(
            "SELECT min(name), count(*), min(use_count_max) FROM klal_member WHERE ticket_id IS NOT NULL"
            " GROUP BY ticket_id HAVING count(*) > min(use_count_max)"
        ).fetchall():
            warnings.append(f"a ticket for {meant} members was used by {used}, {name!r} among them")
        for (lsn,) in connection.execute(
            "SELECT lsn FROM klal_change WHERE state IN (?, ?) ORDER BY lsn", (STATE_VOID, STATE_VOID_DROPPED)
        ).fetchall():
            ref = self._history.ref_of(lsn)
            who = self.name(self._history.logs[ref.log].member_id)
            warnings.append(f"change {ref.seq} of {who} broke a rule and has no effect")
        warnings.extend(self._membership())
        warnings.extend(self._other_certificates())
        warnings.extend(self._skew())
        warnings.extend(warning for warning in (self._store.behind.warning(),) if warning)
        return tuple(warnings)

    def _membership(self) -> list[str]:
        """Say what of membership somebody should know or do."""
        found = []
        epochs = self._store.epochs
        for gone in epochs.previous.gone:
            if gone.member_id == self._me:
                why = f": {gone.reason}" if gone.reason else ""
                found.append(f"this member {HOW_GONE[gone.kind]} epoch {gone.epoch}{why}")
        if self._me in epochs.removed():
            found.append(f"epoch {epochs.next_epoch} goes on without this member; its work enters a later one")
        for member_id in sorted(self._store.applier.questioned):
            if self.standings[member_id] == "waiting":
                found.append(f"{self.name(member_id)} joined too late for its epoch and waits to be admitted")
            else:
                found.append(f"changes of {self.name(member_id)}, who was expelled, wait for another member's word")
        own = self._store.writer.own
        if own is not None and own.log.length and epochs.came_late(own.log):
            found.append("this member joined too late for its epoch and waits to be admitted by another")
        if not epochs.steward(epochs.open_epoch):
            found.append(f"epoch {epochs.open_epoch} has no steward")
        for member_id, word, fault in epochs.words.without_effect():
            found.append(f"{self.name(member_id)} {describe_word(word, self.name)}: no effect, since it {fault}")
        return found

    def _forks(self) -> list[str]:
        """Tell what became of logs that forked: nothing is lost by it, and most who did it do not know of it."""
        told = []
        for log_id in sorted(self._history.forked):
            strands = self._history.forked[log_id]
            seq = min(log.start for log in strands if log.log_id != log_id)
            if strands[0].member_id == self._me:
                told.append(
                    f"your log was written on two machines from change {seq} on, as after a restored backup;"
                    " all of it is kept, and you go on in a new log"
                )
            else:
                who = self.name(strands[0].member_id)
                told.append(f"a log of {who} went on in {len(strands)} ways from change {seq} on; all of it is kept")
        for log_id, member_id in sorted(self.branches):
            owner = self.name(self._history.by_id[log_id].member_id)
            told.append(f"{self.name(member_id)} holds changes of {owner} that are not here, beside others that are")
        return told

    def _other_certificates(self) -> list[str]:
        """Name members whose certificate is not one computed here although all of its ground is."""
        if self.gaps or self._parked():
            return []
        known = {closed.certificate_hash for closed in self._store.applier.closed} | {NO_CERTIFICATE}
        return sorted(
            f"{self.name(voice.member_id)} names certificate"
            f" {voice.certificate.hex()[:8]}, which does not follow from what is held here"
            for voice in self._store.knowledge.voices().values()
            if voice.certificate not in known
        )

    def _skew(self) -> list[str]:
        """Name members whose newest statement is stamped in this machine's future."""
        now = self._store.now_ms()
        found = []
        for voice in self._store.knowledge.voices().values():
            ahead = voice.unix_ms - now
            if ahead > _SKEW_WARN_MS and voice.member_id != self._me:
                found.append(f"the clock of {self.name(voice.member_id)} is {ahead // 60000} minutes ahead of this one")
        return sorted(set(found))

    # -- conflicts and history -----------------------------------------------------------------

    def conflicts(self) -> list[Conflict]:
        """Return every conflict entry, by table, key and column."""
        found = []
        for line in lines(self._store):
            info = line.table.by_id.get(line.column_id)
            found.append(
                Conflict(
                    line.conflict_id,
                    line.table.name,
                    line.key,
                    None if info is None else info.name,
                    self.claim(line.winner_value, line.winner),
                    self.claim(line.value, line.loser),
                )
            )
        return sorted(found, key=lambda c: (c.table, repr(c.key), c.column or "", c.loser.change or ChangeId(b"", 0)))

    def violations(self) -> list[Violation]:
        """Return every line of klal_violations, with the rows that UNIQUE hides."""
        store = self._store
        hidden: dict[tuple[str, str], tuple[str, dict[str, Value]]] = {}
        for table in store.catalog.by_id.values():
            for key, cells in store.rows.hidden(table).items() if store.rows.has_hidden(table) else ():
                row = dict(zip((info.name for info in table.key), key, strict=True))
                row.update((info.name, cells.get(info.column_id)) for info in table.values)
                hidden[table.name, key_text(key)] = hidden_id_of(table, key), row
        lines = store.connection.execute('SELECT kind, "table", "key", detail FROM klal_violations').fetchall()
        return [
            Violation("", kind, table, key, detail)
            if kind != "unique" or (table, key) not in hidden
            else Violation(hidden[table, key][0], kind, table, key, detail, hidden[table, key][1])
            for kind, table, key, detail in sorted(lines, key=lambda line: tuple(map(str, line)))
        ]

    def claim(self, value: Value, ref: ChangeRef | None) -> Claim:
        """Return a value with who wrote it, in which change; nobody where that is not known."""
        if ref is None:
            return Claim(value, "", None, None)
        log = self._history.logs[ref.log]
        unix_ms = self._history.read(ref).header.unix_ms
        return Claim(value, self.name(log.member_id), ChangeId(self._history.name_of(ref), ref.seq), unix_ms)

    def log(self, limit: int | None, table: str | None) -> list[LogEntry]:
        """Return changes, newest first by order stamp, then by log and number."""
        history = self._history
        table_id = None if table is None else self._store.catalog.named(table).table_id
        found: list[tuple[int, ChangeId, ChangeRef, Stored]] = []
        for log in history.logs.values():
            for stored in history.lines(log, 0, log.length):
                if table_id is None or any(part.table_id == table_id for part in stored.header.parts):
                    ref = ChangeRef(log.log, stored.header.seq)
                    change = ChangeId(history.name_of(ref), ref.seq)
                    found.append((stored.order_stamp or stored.header.unix_ms, change, ref, stored))
        found.sort(key=lambda each: each[:2], reverse=True)
        return [self._entry(change, ref, stored) for _, change, ref, stored in found[:limit]]

    def _entry(self, change: ChangeId, ref: ChangeRef, stored: Stored) -> LogEntry:
        header = stored.header
        log = self._history.logs[ref.log]
        tables = {}
        for part in header.parts:
            if part.table_id != ACTS_TABLE:
                table = self._store.catalog.by_id.get(part.table_id)
                tables[table.name if table else part.table_id.hex()[:8]] = part.row_count
        is_held = log.member_id != self._me or self.elsewhere.get(log.log_id, 0) > ref.seq
        is_stable = self.stable.get(log.log_id, 0) > ref.seq
        return LogEntry(
            change,
            self.name(log.member_id),
            header.unix_ms,
            header.epoch,
            tables,
            self._acts(stored),
            "stable" if is_stable else "held" if is_held else "local",
            self._is_late(log.log, ref.seq, header.epoch),
        )

    def _is_late(self, log: int, seq: int, epoch: int) -> bool:
        closed = self._store.applier.closed
        return epoch < len(closed) and closed[epoch].cut.lengths.get(log, 0) <= seq

    def _acts(self, stored: Stored) -> tuple[str, ...]:
        # What had no effect may not even be readable.
        data = None if outcome_of(stored.state) == STATE_VOID else self._history.part(stored, ACTS_TABLE)
        return () if data is None else tuple(_describe(act, self.name) for act in decode_acts(data))


def describe_word(word: Word, name: Callable[[bytes], str]) -> str:
    """Return what a word says, in a few words."""
    match word:
        case Leave():
            return f"left after epoch {word.epoch}"
        case Return():
            return "came back"
        case Retire():
            return f"retired {name(word.member)} from epoch {word.epoch}: {word.reason}"
        case Expel():
            return f"expelled {name(word.member)} in epoch {word.epoch}: {word.reason}"
        case Admit():
            return f"admitted {name(word.member)}"
        case Support():
            return f"supported {name(word.candidate)} as steward of epoch {word.epoch}, round {word.round}"
        case Take():
            return f"took the stewardship of epoch {word.epoch}, round {word.round}"
        case Hand():
            return f"handed the stewardship after epoch {word.epoch} to {name(word.member)}"
        case Certify():
            return f"named certificate {word.certificate.hex()[:8]} of epoch {word.epoch}"


def _describe(act: Act, name: Callable[[bytes], str]) -> str:
    match act:
        case Genesis():
            return f"founded {act.space_name}"
        case Invite():
            return f"invited up to {act.invitation.use_count_max}"
        case Join():
            return f"{act.name} joined"
        case CreateTable():
            return f"created table {act.definition.name}"
        case SetPolicy():
            return "set " + " and ".join(
                [f"merge to {act.merge}"] * bool(act.merge) + [f"on delete to {act.on_delete}"] * bool(act.on_delete)
            )
        case Close():
            return f"finished epoch {act.epoch}"
        case Leave() | Return() | Retire() | Expel() | Admit() | Support() | Take() | Hand() | Certify():
            return describe_word(act, name)
        case NameMoment():
            return f"named {act.name}"
        case AddColumn():
            return f"added column {act.column.name}"
        case CreateIndex():
            return f"created index {act.definition.name}"
        case CreateView():
            return f"created view {act.definition.name}"
        case Rename():
            return f"renamed a {'column' if act.column_id else 'table'} to {act.name}"
        case DropColumn():
            return "dropped a column"
        case Drop():
            return "dropped a table, index or view"
