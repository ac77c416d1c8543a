"""One klal file: the rooms of the store joined, one SQLite transaction per step.

Source:
    Protocol spec section 15. Decisions D1 to D8, D13 to D15, D21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import apsw
import msgspec

from klal.errors import (
    DamagedError,
    KlalError,
    MalformedError,
    MembershipError,
    ReadOnlyError,
    RefusedError,
    StoreError,
    UsageError,
)
from klal.model.acts import (
    Act,
    Certify,
    Close,
    Genesis,
    Invite,
    Join,
    NameMoment,
    Return,
    SchemaAct,
    Word,
    decode_acts,
    make_invitation,
    make_join,
)
from klal.model.certificate import Certificate
from klal.model.codec import EPOCH_MAX, HASH_SIZE, UNIX_MS_MAX, pack, unpack
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, header_hash
from klal.model.keys import INCARNATION_SIZE, SEED_SIZE, SigningKey, log_id_of
from klal.model.receipt import HEAD_COUNT_MAX, HeldHead, Statement, make_receipt
from klal.model.seal import SEAL_EVERY_COUNT, Seal, make_seal
from klal.model.ticket import TICKET_SIZE_MAX, Ticket, encode_ticket
from klal.ports import Clock, Entropy
from klal.rules.closing import Gone
from klal.rules.merge import ChangeRef
from klal.rules.schema import standing_acts
from klal.store.apply import Applier
from klal.store.behind import Behind, Finding
from klal.store.catalog import Catalog
from klal.store.contacts import Contacts
from klal.store.copies import Copies
from klal.store.epochs import Epochs
from klal.store.file import alone, create_file, is_as_left, is_there, mark_left, translate, translated, unchecked
from klal.store.history import STATE_HELD, History, Log
from klal.store.home import Fence, Home, Identity
from klal.store.intake import Intake
from klal.store.knowledge import Knowledge
from klal.store.rows import Rows
from klal.store.runs import RUN_COUNT_MAX, DoesNotFitError, Runs
from klal.store.sql import Connection, runner
from klal.store.writer import Outcome, OwnLog, Writer

# What is applied in one SQLite transaction, in small changes: bounds the WAL, not correctness.
_APPLY_BATCH_WEIGHT = RUN_COUNT_MAX
_SINGLE_WEIGHT = 16  # Of a change that is applied by itself: it may be of any size.
_TOKEN_SIZE = 16


@dataclass(frozen=True, slots=True)
class World:
    """What a store is handed of the world."""

    clock: Clock
    entropy: Entropy


class Store:
    """A klal file with everything it can do; no thread but one uses it at a time."""

    def __init__(self, connection: Connection, path: Path, home: Home, world: World, member_name: str | None) -> None:
        self.path = path
        self.connection = connection
        self._run = runner(connection)
        self._home = home
        self._world = world
        self._wanted_name = member_name
        self.space_id: bytes = self._meta("space_id") or b""
        if len(self.space_id) != HASH_SIZE:
            raise DamagedError(f"{path} has no space id")
        self.history = History(connection, self.space_id)
        self.catalog = Catalog(connection)
        self.rows = Rows(connection)
        self.applier = Applier(connection, self.history, self.catalog, self.rows)
        self.runs = Runs(connection, self.history, self.catalog, self.rows, self.applier)
        self.epochs = Epochs(connection, self.history, self.catalog, self.applier)
        self.knowledge = Knowledge(connection, self.history)
        self.contacts = Contacts(connection, self.history)
        self.copies = Copies(connection, self.history, self.knowledge, self.applier)
        self.intake = Intake(connection, self.history, self.knowledge, self._admit_member, self._leave_own_log)
        self.writer = Writer(
            connection, self.history, self.catalog, self.rows, self.applier, world.clock, world.entropy, path
        )
        self.behind = Behind(connection, self.history, self.catalog, self.applier, path)
        self._data_version = -1
        self._token: str | None = None
        self._is_fenced = False
        self.is_closed = False
        self._gone: Gone | None = None
        self._depth = 0
        self._listeners: list[Callable[[], object]] = []
        found = path.stat()
        self._place = f"{found.st_dev}:{found.st_ino}"
        self._synchronous = "normal"
        self.identity: Identity | None = None
        try:
            self.refresh()
        except (KeyError, StopIteration, RuntimeError, MalformedError, apsw.Error) as error:
            # What klal keeps in the file refers to something that is not there.
            raise DamagedError(f"{path} contradicts itself", hint="klal heal mends it") from error
        self.identity = self._find_identity()
        if self.identity is not None:
            self.writer.capture.start()
            # Asked after the first read: whoever commits from here on is noticed by the data version.
            self.behind.is_suspect = not self._is_as_left()

    # -- the file's own words ------------------------------------------------------------

    def _meta(self, name: str) -> Any:
        return self.connection.execute("SELECT value FROM klal_meta WHERE name = ?", (name,)).get

    def _set_meta(self, name: str, value: object) -> None:
        self.connection.execute("INSERT OR REPLACE INTO klal_meta VALUES(?,?)", (name, value))

    @cached_property
    def genesis(self) -> Genesis:
        """Return the space's origin, which never changes."""
        return unpack(self._meta("genesis"), Genesis, "stored genesis")

    @property
    def surroundings(self) -> tuple[Home, World]:
        """Return what this store was handed besides its file."""
        return self._home, self._world

    @property
    def member_id(self) -> bytes:
        """Return the member this file speaks for, or empty bytes when it has no key."""
        return b"" if self.identity is None else self.identity.key.member_id

    def _find_identity(self) -> Identity | None:
        """Return the member whose key is at hand: the file's own, else the one asked for, else the only one."""
        identities = self._home.identities(self.space_id)
        if self._wanted_name is not None:
            identities = [identity for identity in identities if identity.name == self._wanted_name]
            if not identities:
                raise UsageError(f"there is no key of {self._wanted_name!r} for this space in {self._home.folder}")
        file_member = self._meta("member_id")
        own = [identity for identity in identities if identity.key.member_id == file_member]
        if own:
            return own[0]
        # A file without a writer (a backup) becomes that of the only member at hand.
        return identities[0] if len(identities) == 1 and (file_member is None or self._wanted_name) else None

    def refresh(self) -> None:
        """Read again everything kept in memory; another process may have written.

        In one transaction, so that it is of one moment: what is read a little later than the
        rest would be taken for known, and its number in the file for free.
        """
        is_alone = not self.connection.in_transaction
        version = self.connection.data_version()
        if is_alone:
            self._run("BEGIN -- klal")
        try:
            self._read_all(version)
        finally:
            if is_alone:
                self._undo()

    def _read_all(self, version: int) -> None:
        own_log = self._meta("own_log")
        self.history.load(own_log)
        self.catalog.load()
        self.rows.forget()
        self.writer.uniques.forget()
        self.applier.window.clear()
        self._is_entering = self._meta("ticket") is not None
        self.applier.not_after_ms = self.genesis.policy.not_after_ms
        self.knowledge.forget()
        self.epochs.load()
        self.intake.own_log = own_log
        self.writer.own = None
        if own_log is not None:
            self._load_own(self.history.logs[own_log])
        self.history.wanted = self.applier.wanted(self.writer.epoch)
        self._token = self._meta("fence")
        is_first, self._data_version = self._data_version < 0, self.connection.data_version()
        if self._data_version != version and not is_first:
            self.behind.others_wrote(is_klal=False)  # Outside of a transaction, while this read.

    def _catch_up(self) -> None:
        """Read again what another connection has committed, and note whether that was klal.

        It was if history grew, or a writer has passed the fence. What of it was another program's
        nobody can tell, so that is left unsure.
        """
        before = self.history.lsn_max, self._token
        self.refresh()
        self.behind.others_wrote(is_klal=before != (self.history.lsn_max, self._token))

    def _is_as_left(self) -> bool:
        """True when the file lies as klal's last close left it, so that its tables are what history says."""
        own = self.writer.own
        fence = None if own is None else self._home.fence(self.space_id, own.log.log_id)
        return fence is not None and fence.token == self._token and is_as_left(self.path, fence.left)

    def _load_own(self, log: Log) -> None:
        unix_ms = counter = 0
        if log.length:
            header = self.history.read(ChangeRef(log.log, log.length - 1)).header
            unix_ms, counter = header.unix_ms, header.counter
        self.writer.own = OwnLog(log, unix_ms, counter, past_is_fresh=False)
        self._renew_epoch()

    def _renew_epoch(self) -> None:
        """Work out which epoch this member writes in now (EPO-2)."""
        own = self.writer.own
        finished = 0 if own is None else self.epochs.finished(own.log.member_id)
        self.writer.epoch = max(finished, self.epochs.open_epoch, self._meta("entry_epoch") or 0)
        self._gone = None if own is None else self.epochs.gone(own.log.member_id)
        if self._gone is not None:
            # It has applied what others write in epochs that it does not finish; a header is of no earlier one.
            heads = [log for log in self.history.logs.values() if log.applied_length > log.start]
            applied = (self.history.read(ChangeRef(log.log, log.applied_length - 1)).header.epoch for log in heads)
            self.writer.epoch = max(self.writer.epoch, *applied)

    # -- transactions --------------------------------------------------------------------

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            self.connection.pragma("synchronous", level)
            self._synchronous = level

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[None]:
        """A write transaction; nested ones join the outermost. All of it is kept, or nothing."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self.begin(durable=durable)
        try:
            yield
        except apsw.Error as error:
            self.rollback()
            raise translate(error, self.path) from error
        except BaseException:
            self.rollback()
            raise
        self.commit()

    def begin(self, *, durable: bool = False) -> None:
        """Begin a write transaction under this file's fence.

        Args:
            durable: Commit it with synchronous=FULL, so that it survives a power loss.
        """
        if durable:
            self._set_synchronous("full")
        if self.identity is None:
            raise ReadOnlyError(
                f"{self.path} is read-only here: the key of its member is not in {self._home.folder}",
                hint="open it with the home folder that has the key, or join as a new member",
            )
        try:
            self._run("BEGIN IMMEDIATE -- klal")
        except apsw.Error as error:
            raise translate(error, self.path) from error
        try:
            if self.connection.data_version() != self._data_version:
                self._catch_up()
                self._is_fenced = self._is_fenced and self._fence_agrees()
            if self.behind.is_suspect:
                self.behind.check()
            if not self._is_fenced:
                # In a transaction of its own: if the user's is rolled back, the fence stands.
                self._pass_fence()
                self._run("COMMIT -- klal")
                self._data_version = self.connection.data_version()
                self.begin()
        except (apsw.Error, StoreError) as error:
            self._undo()
            # The fence may be passed at home and not here, or a log begun that is not in the file.
            self._is_fenced = False
            with suppress(apsw.Error, KlalError):
                self.refresh()
            if isinstance(error, apsw.Error):
                raise translate(error, self.path) from error
            raise
        except BaseException:
            self._undo()
            raise
        self._depth = 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A read transaction: everything inside is of one moment."""
        if self._depth:
            yield
            return
        try:
            self.connection.execute("BEGIN -- klal")
            # The first read takes the snapshot; memory is then made to agree with it.
            self._meta("space_id")
            if self.connection.data_version() != self._data_version:
                self._catch_up()
            yield
        except apsw.Error as error:
            raise translate(error, self.path) from error
        finally:
            self._undo()

    def commit(self) -> int | None:
        """Append what the transaction did and commit all of it; return the number of its change, if it made one."""
        try:
            if self.behind.found:
                self.behind.refuse_touched(self.writer.capture)
            seq = self.writer.flush()
            if seq is not None and not (seq + 1) % SEAL_EVERY_COUNT:
                self._seal()
            self.knowledge.save_named()
            self._run("COMMIT -- klal")
        except apsw.Error as error:
            self.rollback()
            raise translate(error, self.path) from error
        except BaseException:
            self.rollback()
            raise
        self._depth = 0
        self.writer.clear()
        self._data_version = self.connection.data_version()
        if self._synchronous == "full":
            self._set_synchronous("normal")
        if self._listeners:
            self._tell()
        return seq

    def listen(self, told: Callable[[], object]) -> Callable[[], None]:
        """Call `told` after every commit of this store and when it is closed; return what ends that."""
        self._listeners.append(told)
        return lambda: self._listeners.remove(told)

    def _tell(self) -> None:
        for told in tuple(self._listeners):
            told()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors inside the block into klal's."""
        try:
            yield
        except apsw.Error as error:
            raise translate(error, self.path) from error

    def rollback(self) -> None:
        """Undo the running transaction."""
        self._undo()
        self._depth = 0
        self.writer.clear()
        self._set_synchronous("normal")
        self.refresh()

    def noticed(self) -> None:
        """Take what this connection did outside of a transaction of the store for its own."""
        self._data_version = self.connection.data_version()

    def token(self, size: int) -> bytes:
        """Return random bytes."""
        return self._world.entropy.token(size)

    def check_ended(self) -> None:
        """Notice that SQLite ended the running transaction by itself, as INSERT OR ROLLBACK does."""
        if self.in_transaction and not self.connection.in_transaction:
            self.rollback()

    def _undo(self) -> None:
        if not self.is_closed and self.connection.in_transaction:
            self.connection.execute("ROLLBACK -- klal")

    @property
    def in_transaction(self) -> bool:
        """True inside `begin` and `commit`."""
        return self._depth > 0

    # -- the fence -----------------------------------------------------------------------

    def _fence_agrees(self) -> bool:
        """True when file and home remember the same token and the same sealed head (LOG-5)."""
        own = self.writer.own
        if own is None or own.log.member_id != self.member_id:
            return False
        fence = self._home.fence(self.space_id, own.log.log_id)
        if fence is None or fence.token != self._meta("fence") or own.log.length < fence.length:
            return False
        if fence.place not in ("", self._place):
            return False
        if not fence.length:
            return True
        return self.history.hash_at(ChangeRef(own.log.log, fence.length - 1)) == fence.head_hash

    def _pass_fence(self) -> None:
        """Swap the fence's token, or begin a new log if file and home disagree (LOG-6)."""
        if not self._fence_agrees():
            self._begin_log()
        own = self.writer.own
        assert own is not None, "_begin_log made it"
        token = self._world.entropy.token(_TOKEN_SIZE).hex()
        self._home.save_fence(self.space_id, own.log.log_id, self._fence(token, self._place))
        self._set_meta("fence", token)
        self._token = token
        self._set_meta("member_id", self.member_id)
        self._is_fenced = True

    def _fence(self, token: str, place: str) -> Fence:
        own = self.writer.own
        assert own is not None
        length = self.history.sealed_length(own.log)
        head = self.history.hash_at(ChangeRef(own.log.log, length - 1)) if length else b""
        return Fence(token, length, head, place)

    def _leave_own_log(self) -> None:
        """Never write the own log again: it is longer elsewhere (LOG-6).

        Said in the file, in the transaction that takes what is theirs, so that no later
        opening goes on where another file has gone on already.
        """
        # Whatever a copied or restored file holds unsealed is work too.
        own = self.writer.own
        assert own is not None, "only who writes a log can leave it"
        self._seal()
        self.history.index_hashes(own.log, self.indexed_length(own.log))
        self._set_meta("own_log", None)
        self.intake.own_log = None
        self.writer.own = None
        self._is_fenced = False

    def _begin_log(self) -> None:
        assert self.identity is not None
        old = self.writer.own
        if old is not None and old.log.member_id == self.member_id:
            # Whatever the copied or restored file holds unsealed is work too.
            self._seal()
            self.history.index_hashes(old.log, self.indexed_length(old.log))
        incarnation = self._world.entropy.token(INCARNATION_SIZE)
        log_id = log_id_of(self.space_id, self.member_id, incarnation)
        log = self.history.add_log(log_id, self.member_id, incarnation)
        self._set_meta("own_log", log.log)
        self._set_meta("indexed_length", 0)
        self.intake.own_log = log.log
        self._load_own(log)

    # -- seals and receipts --------------------------------------------------------------

    def _seal(self) -> None:
        """Sign the own log up to here (SEA-1)."""
        own = self.writer.own
        assert own is not None
        assert self.identity is not None
        log = own.log
        sealed = self.history.sealed_length(log)
        if not log.length or sealed == log.length:
            return
        self.history.add_seal(log, make_seal(self.identity.key, self.space_id, log.log_id, log.length, log.head_hash))
        self.history.save_log(log)

    def indexed_length(self, log: Log) -> int:
        """Return how many headers of a log can be found by hash; of the own one, those that have left."""
        return self._meta("indexed_length") or 0 if log.log == self._meta("own_log") else log.length

    def seal(self) -> None:
        """Seal the own log durably, as must be done before bytes leave this file."""
        own = self.writer.own
        if self.identity is None or own is None or not own.log.length or own.log.member_id != self.member_id:
            return
        if self.history.sealed_length(own.log) == own.log.length and self.indexed_length(own.log) == own.log.length:
            return
        with self.writing(durable=True):
            self._seal()
            # Now that they leave, others may name these headers by hash.
            self.history.index_hashes(own.log, self.indexed_length(own.log))
            self._set_meta("indexed_length", own.log.length)
        if self._is_fenced:
            self._home.save_fence(self.space_id, own.log.log_id, self._fence(str(self._meta("fence")), self._place))

    def sign_receipt(self) -> None:
        """Sign what is durably held here, if that says anything new (RCP-3)."""
        if self.identity is None:
            return
        with self.writing(durable=True):
            own = self.writer.own
            assert own is not None
            kept = self.knowledge.receipt(own.log.log_id)
            if not own.log.length and kept is None and not self.history.applied_lengths():
                return
            statement = self._statement(own.log, 0 if kept is None else kept.statement.number + 1)
            if kept is not None and kept.statement.content == statement.content:
                return
            self.knowledge.keep(own.log.log_id, make_receipt(self.identity.key, self.space_id, statement))

    def _statement(self, own: Log, number: int) -> Statement:
        parked = [
            self._held_head(ChangeRef(index, length - 1))
            for index, length in self.history.held_lengths().items()
            if length > self.history.logs[index].applied_length
        ]
        epoch = self.epochs.nameable(own.member_id, self.named())
        cut = self.applier.closed[epoch].cut.lengths if epoch >= 0 else {}
        heads = [self._held_head(ref) for ref in self.history.maximal_heads(cut)]
        return Statement(
            own.member_id,
            own.incarnation,
            number,
            min(max(self._world.clock.unix_ms(), 0), UNIX_MS_MAX),
            # What does not fit is claimed later: a word less is never a false one.
            tuple(sorted(heads, key=msgspec.structs.astuple)[:HEAD_COUNT_MAX]),
            tuple(sorted(parked, key=msgspec.structs.astuple)[:HEAD_COUNT_MAX]),
            NO_CERTIFICATE if epoch < 0 else self.applier.closed[epoch].certificate_hash,
            self.copies.statement(own.log_id, own.member_id),
        )

    def named(self) -> dict[bytes, int]:
        """Return the newest epoch whose certificate here a member's receipts name, by member id."""
        epochs = {closed.certificate_hash: epoch for epoch, closed in enumerate(self.applier.closed)}
        found: dict[bytes, int] = {}
        for voice in self.knowledge.voices().values():
            # A later certificate is made only upon this one, so naming it names this one too.
            epoch = epochs.get(voice.certificate, -1)
            if epoch > found.get(voice.member_id, -1):
                found[voice.member_id] = epoch
        return found

    def _held_head(self, ref: ChangeRef) -> HeldHead:
        return HeldHead(self.history.logs[ref.log].origin, ref.seq + 1, self.history.hash_at(ref))

    # -- applying ------------------------------------------------------------------------

    def apply_ready(self) -> int:
        """Apply every held change whose past and epoch allow it; return how many."""
        total = 0
        # A run that does not fit is undone with its transaction, which must be this one's own.
        in_runs = not self.in_transaction
        is_done = False
        self.applier.forget_vouched()
        self.epochs.question()
        self._heed_retirement()
        waiting = [log.log for log in self.history.logs.values() if log.applied_length < log.payload_length]
        with self.writer.engine_writes():
            while not is_done:
                try:
                    with self.writing():
                        count, left, is_done = self._apply_batch(waiting, in_runs=in_runs)
                except DoesNotFitError:
                    in_runs = False
                else:
                    total += count
                    waiting = left
        self.applier.window.clear()
        self.history.wanted = self.applier.wanted(self.writer.epoch)
        if total:
            self.history.forget()
        return total

    def _heed_retirement(self) -> None:
        """Go on to the next epoch if a change held here, though parked, names the certificate of this one (MEM-7).

        Then it is decided who was counted, and whoever has not finished was not: it would wait for itself.
        """
        epoch = self.writer.epoch
        steward = self.epochs.steward(epoch)
        is_removed = self.member_id in self.epochs.removed()
        for log in self.history.logs.values():
            if log.member_id != self.member_id and (log.member_id == steward or is_removed):
                for stored in self.history.lines(log, log.applied_length, log.payload_length):
                    data = self.history.part(stored, ACTS_TABLE) if stored.header.epoch > epoch else None
                    for act in () if data is None else acts_of(data):
                        if isinstance(act, Certify) and act.epoch == epoch:
                            with self.writing():
                                self._set_meta("entry_epoch", epoch + 1)
                                self._renew_epoch()
                            return

    def _apply_batch(self, waiting: list[int], *, in_runs: bool) -> tuple[int, list[int], bool]:
        """Apply as much of these logs as one transaction should.

        Returns:
            (changes applied, logs that have more, whether none of that can be applied).
        """
        self.behind.require_clean()  # T40: a merge would write over what another program wrote.
        count = 0
        left = _APPLY_BATCH_WEIGHT
        rose: set[int] = set()
        progress = True
        while progress and left > 0:
            progress = False
            vouched_count = self.applier.vouched_count
            blocked: list[int] = []
            looked_at = 0
            while looked_at < len(waiting) and left > 0:
                log = self.history.logs[waiting[looked_at]]
                applied = self._apply_next(log, left, in_runs=in_runs) if log.applied_length < log.payload_length else 0
                if applied:
                    rose.add(log.log)
                    progress = True
                    count += applied
                    left -= applied if applied > 1 else _SINGLE_WEIGHT
                    continue
                looked_at += 1
                if log.applied_length < log.payload_length:
                    blocked.append(log.log)
            # Those that could go no further come last, so that each batch begins with what has not been tried.
            waiting = [*waiting[looked_at:], *blocked]
            progress = progress or self.applier.vouched_count > vouched_count
        for index in sorted(rose):
            self.history.save_log(self.history.logs[index])
        self._advance()
        own = self.writer.own
        if own is not None and count:
            own.past_is_fresh = False
        return count, waiting, not progress

    def _apply_next(self, log: Log, count_max: int, *, in_runs: bool) -> int:
        """Apply the next change of a log, or the next few together; return how many."""
        # Whoever has gone finishes nothing more, so nothing of a later epoch need wait for that (EPO-2).
        epoch_max = EPOCH_MAX if self._gone is not None else self.writer.epoch
        together = self.runs.apply(log, epoch_max, count_max) if in_runs else 0
        if together:
            return together
        acts = self.applier.apply(log, epoch_max)
        if acts is None:
            return 0
        self._after_apply(log, acts)
        return 1

    def _after_apply(self, log: Log, acts: tuple[Act, ...]) -> None:
        seq = log.applied_length - 1
        for act in acts:
            if isinstance(act, Join | Genesis):
                # Whoever is a member already enters no further; an invitation is asked of others.
                if not self.intake.is_member(log.member_id):
                    self._admit_member(log, seq, act)
            elif isinstance(act, NameMoment):
                self.connection.execute("INSERT OR IGNORE INTO klal_moment VALUES(?,?,?)", (log.log, seq, act.name))
        if any(isinstance(act, Close | Word) for act in acts):
            self.epochs.note(log, seq, acts)
            self._advance()

    def _advance(self) -> None:
        self.writer.uniques.settle()
        before = self.writer.epoch
        self.epochs.advance()
        self._renew_epoch()
        if self.writer.epoch < before:
            # An epoch is open again. What is applied of a later one stays, and a header is of no earlier one (EPO-1).
            self._set_meta("entry_epoch", before)
            self._renew_epoch()

    def _admit_member(self, log: Log, seq: int, act: Act) -> None:
        """Enter a member by its join, or the founder by the genesis (MEM-1, MEM-2).

        Raises:
            RefusedError: The invitation or its use is not valid here.
        """
        if isinstance(act, Genesis):
            if act.space_id != self.space_id or act.founder != log.member_id or seq != 0:
                raise MembershipError("another genesis cannot enter this space", rule="MEM-1")
            row: tuple[Any, ...] = (act.founder, act.founder_name, log.log_id, 0, None, None)
        elif isinstance(act, Join):
            if act.member != log.member_id:
                raise MembershipError("a join in another member's log", rule="MEM-1")
            act.check(self.space_id)
            # Of oneself the ticket is proof enough: its inviter may be somebody not met yet.
            if log.member_id != self.member_id:
                self.check_inviter(act)
            invitation = act.invitation
            row = (act.member, act.name, log.log_id, seq, invitation.ticket_id, invitation.use_count_max)
        else:
            return
        self.connection.execute("INSERT OR IGNORE INTO klal_member VALUES(?,?,?,?,?,?)", row)

    def check_inviter(self, join: Join) -> None:
        """Return if who invited this member is known here and may.

        Raises:
            MembershipError: MEM-2, MEM-5.
        """
        invitation = join.invitation
        inviter = invitation.inviter
        is_stewards = self.genesis.policy.invited_by == "steward"
        if is_stewards and inviter != self.epochs.steward(invitation.epoch):
            raise MembershipError(f"{join.name!r:.40} was invited by a member who may not invite", rule="MEM-5")
        if not self.intake.is_member(inviter):
            raise MembershipError(f"{join.name!r:.40} was invited by somebody not known here", rule="MEM-2")

    def enter_founder(self, log_id: bytes) -> None:
        """Enter the founder by the genesis that the space is named after, whether or not its change is here."""
        with self.writing():
            self._admit_member(Log(0, log_id, self.genesis.founder, b""), 0, self.genesis)

    def found(self, genesis: Genesis) -> None:
        """Write the genesis as the first change of the founder's log, sealed at length 1."""
        with self.writing(durable=True):
            self.append_acts(genesis)

    def enter_if_waiting(self, *, is_writing: bool) -> None:
        """Let a member enter who is not in yet, if it must: one who returns, or whose joining was cut off.

        Where the space still knows the member there is nothing to write, and the file
        that came back is byte for byte in the others' history. It joins again before it
        writes offline, or when a whole replica turns out not to know it.

        Args:
            is_writing: True before a local write; False after a sync.
        """
        if is_writing and self._gone is not None:
            self._come_back(self._gone)
        if not self._is_entering:
            return
        ticket = unpack(self._meta("ticket"), Ticket, "stored ticket", TICKET_SIZE_MAX)
        self.apply_ready()  # Of a joining that was cut off the genesis may wait.
        has_met = self.history.applied_lengths().keys() != {self._founder_log().log}
        is_known = self.intake.is_member(self.member_id)
        if not has_met and not is_writing:
            return
        with self.writing(durable=True):
            if not (has_met and is_known):
                self._enter(ticket)
            self.connection.execute("DELETE FROM klal_meta WHERE name = 'ticket'")
        self._is_entering = False

    @property
    def is_entering(self) -> bool:
        """True while this member's join is still to be written, or found not to be needed."""
        return self._is_entering

    @property
    def is_returning(self) -> bool:
        """True when `enter_if_waiting` has something to do before a local write."""
        return self._is_entering or self._gone is not None

    def _come_back(self, gone: Gone) -> None:
        """Say that this member is back, which its first write says for one who was retired (MEM-8)."""
        if gone.kind == "left":
            raise UsageError(f"this member left after epoch {gone.epoch}", hint="klal return FILE says that it is back")
        if gone.kind == "expelled":
            raise UsageError(f"this member was expelled in epoch {gone.epoch}: {gone.reason}", rule="MEM-9")
        self.come_back()

    def come_back(self) -> None:
        """Append the word that this member is back, in an epoch no earlier than any it has applied."""
        with self.writing(durable=True), self.writer.engine_writes():
            self._set_meta("entry_epoch", self.writer.epoch)
            self.append_acts(Return())

    def _enter(self, ticket: Ticket) -> None:
        """Write this member's join, with the tables the ticket knows, as its log's first change."""
        identity = self.identity
        assert identity is not None
        acts: list[Act] = list(ticket.schema)
        if identity.key.member_id != ticket.genesis.founder:
            member_id = identity.key.member_id
            acts.insert(0, make_join(ticket.key, self.space_id, member_id, identity.name, ticket.invitation))
        with unchecked(self.connection):
            if ticket.schema:
                self.writer.declare_acts(ticket.schema)
        if acts:
            self.append_acts(*acts)

    def acknowledge(self) -> None:
        """Append a header without payload that names what was applied since the change before."""
        with self.writing(durable=True):
            self.writer.append(())
            self._seal()

    def append_acts(self, *acts: Act) -> None:
        """Append acts as one change, sealed, and let them take effect; the caller holds a durable transaction."""
        for act in acts:
            self.writer.note(act)
        self.writer.flush()
        own = self.writer.own
        assert own is not None
        self.writer.clear()
        # Sealed here, before its effect: a Close counts with the seal exactly at it.
        self._seal()
        self._after_apply(own.log, acts)

    # -- writes behind klal's back -------------------------------------------------------

    def find_foreign(self) -> list[Finding]:
        """Compare the tables with history, and return what another program wrote."""
        with self.reading():
            self.behind.check()
        return self.behind.found

    def settle_foreign(self, *, is_adopting: bool) -> tuple[int, int | None]:
        """Adopt what another program wrote as this member's change, or undo it; return (rows, number of the change)."""
        self.begin()
        try:
            self.behind.check()
            settle = self.behind.adopt if is_adopting else self.behind.undo
            count = settle(self.writer.capture)
            seq = self.commit()
        except apsw.Error as error:
            self.rollback()
            self.behind.is_suspect = True
            raise translate(error, self.path) from error
        except BaseException:
            if self.in_transaction:
                self.rollback()
            self.behind.is_suspect = True
            raise
        return count, seq

    # -- acts of this member -------------------------------------------------------------

    def invite(self, use_count_max: int) -> str:
        """Record an invitation in history and return its ticket."""
        identity = self.identity
        if identity is None:
            raise ReadOnlyError(f"{self.path} is read-only here: only a member can invite")
        epoch = self.writer.epoch
        if self.genesis.policy.invited_by == "steward" and self.member_id != self.epochs.steward(epoch):
            raise UsageError("only the steward of this space may invite")
        seed = self._world.entropy.token(SEED_SIZE)
        ticket_key = SigningKey(seed)
        invitation = make_invitation(identity.key, self.space_id, ticket_key.member_id, use_count_max, epoch)
        with self.writing():
            self.writer.note(Invite(invitation))
        self.seal()
        founder = self._founder_log()
        stored = self.history.read(ChangeRef(founder.log, 0))
        seal = self.history.seals(founder, 0, 1)
        acts = self.history.part(stored, ACTS_TABLE)
        assert acts is not None
        assert seal, "the genesis is sealed when it is made"
        ticket = Ticket(
            stored.header_bytes, acts, founder.incarnation, seal[0].signature, invitation, seed, self.schema_acts()
        )
        return encode_ticket(ticket)

    def _founder_log(self) -> Log:
        log_id = self.connection.execute("SELECT log_id FROM klal_member WHERE ticket_id IS NULL").get
        return self.history.by_id[log_id]

    def schema_acts(self) -> tuple[SchemaAct, ...]:
        """Return the acts that what is declared and not dropped comes from, in an order in which they apply."""
        return standing_acts(self.catalog.schema)

    def finish(self) -> int:
        """Append this member's Close of the epoch it writes in, and return that epoch (EPO-1)."""
        with self.writing(durable=True):
            self.behind.require_clean()
            epoch = self.writer.epoch
            with self.writer.engine_writes():
                self.append_acts(Close(epoch))
        self.apply_ready()
        return epoch

    def name_moment(self, name: str) -> int:
        """Append a name for what is applied here, and return the number of the change that gives it (MOM-1)."""
        with self.writing(durable=True):
            self.append_acts(NameMoment(name))
            own = self.writer.own
            assert own is not None, "it was just written to"
            return own.log.length - 1

    def certificate(self, epoch: int) -> Certificate | None:
        """Return the certificate of an epoch that is complete here."""
        return self.epochs.certificate(epoch)

    def note_contact(self) -> None:
        """Remember that word came from elsewhere now, and how much was here then."""
        with self.writing():
            now_ms = self._world.clock.unix_ms()
            self._set_meta("contact_unix_ms", now_ms)
            self.contacts.note(self.history.lsn_max, now_ms)

    @property
    def contact_unix_ms(self) -> int | None:
        """Return when word last came from elsewhere, by this machine's clock; None if never."""
        contact: int | None = self._meta("contact_unix_ms")
        return contact

    def now_ms(self) -> int:
        """Return this machine's clock."""
        return self._world.clock.unix_ms()

    def run_read(self, sql: str, parameters: object) -> Outcome:
        """Run a statement that only reads."""
        return self.writer.run(sql, parameters)

    # -- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """Seal what is not sealed and release the file."""
        if self.is_closed:
            return
        try:
            if self.in_transaction:
                self.rollback()
            if self.identity is not None and not self.connection.readonly("main"):
                with self.translated():
                    self.seal()
                    self._release_fence()
        finally:
            self.is_closed = True
            self.connection.close()
            self._tell()

    def release(self) -> None:
        """Release the file as it lies: nothing is sealed, and the home is told nothing."""
        self.is_closed = True
        self.connection.close()
        self._tell()

    def _release_fence(self) -> None:
        """Say that the log is written no more for now, and how the file is left.

        From here on its last seal tells copies apart, and its time tells whether anybody wrote.
        """
        own = self.writer.own
        fence = None if own is None else self._home.fence(self.space_id, own.log.log_id)
        if own is None or fence is None or fence.token != self._token or fence.place not in ("", self._place):
            return
        is_left = self.behind.is_known and is_as_left(self.path, fence.left)
        left = fence.left if is_left else self._mark_left()
        now = replace(fence, place="" if self._is_fenced else fence.place, left=left)
        if now != fence:
            self._home.save_fence(self.space_id, own.log.log_id, now)

    def _mark_left(self) -> tuple[int, int] | None:
        """Leave the file so that any later write shows; None where it is open elsewhere, or is not known."""
        if not self.behind.is_known or alone(self.connection) != self._data_version:
            return None
        return mark_left(self.path)


def acts_of(part: bytes) -> tuple[Act, ...]:
    """Return the acts in a part that may be anybody's; none where it cannot be read."""
    try:
        return decode_acts(part)
    except RefusedError:
        return ()


def opened_store(connection: Connection, path: Path, home: Home, world: World, member_name: str | None) -> Store:
    """Return the store of a file that exists.

    Raises:
        DamagedError: What lies in it contradicts itself. UsageError, StoreError, RefusedError.
    """
    try:
        if connection.execute("SELECT max(lsn) FROM klal_change").get is None:
            # A space begins with its genesis, so whoever made this was cut off before it.
            raise DamagedError(f"{path} was not made to its end", hint="remove it, and make it again")
        return Store(connection, path, home, world, member_name)
    except apsw.Error as error:
        raise translate(error, path) from error
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        # Everything read here is what klal wrote, so whatever cannot be read was changed by something else.
        found = f"{path} is damaged: {type(error).__name__} while it was opened"
        raise DamagedError(found, hint="klal heal mends it") from error


def found_space(
    path: Path,
    home: Home,
    world: World,
    genesis: Genesis,
    key: SigningKey,
    first: Callable[[Store], object] | None = None,
) -> Store:
    """Create a file with a new space, its genesis written and sealed, and what `first` writes; or no file."""
    identity = Identity(key, genesis.founder_name)

    def begin(store: Store) -> None:
        store.found(genesis)
        if first is not None:
            first(store)

    return _make(path, home, world, genesis, identity, None, begin)


def join_space(path: Path, home: Home, world: World, ticket: Ticket, name: str) -> Store:
    """Create a file of an existing space from a ticket, as a new or a returning member."""
    genesis = ticket.genesis
    returning = [identity for identity in home.identities(genesis.space_id) if identity.name == name]
    identity = returning[0] if returning else Identity(SigningKey(world.entropy.token(SEED_SIZE)), name)

    def begin(store: Store) -> None:
        store.apply_ready()
        if not returning:
            store.enter_if_waiting(is_writing=True)

    return _make(path, home, world, genesis, identity, ticket, begin)


def _make(
    path: Path,
    home: Home,
    world: World,
    genesis: Genesis,
    identity: Identity,
    ticket: Ticket | None,
    begin: Callable[[Store], None],
) -> Store:
    """Create a file and let `begin` write its first change; on any failure no file is left.

    The key comes first: a file whose key was never kept is nobody's.
    """
    if is_there(path):
        raise UsageError(f"{path} exists already")
    home.save_identity(genesis.space_id, identity)
    connection = create_file(path)
    try:
        with translated(path), connection:
            _write_origin(connection, genesis, identity.key.member_id)
            if ticket is not None:
                _write_genesis(connection, ticket, genesis.space_id)
                connection.execute("INSERT INTO klal_meta VALUES('ticket', ?)", (pack(ticket),))
                connection.execute("INSERT INTO klal_meta VALUES('entry_epoch', ?)", (ticket.invitation.epoch,))
        store = Store(connection, path, home, world, identity.name)
        store.behind.is_suspect = False  # Nobody but this has ever written it.
        begin(store)
        store.seal()
    except BaseException:
        connection.close()
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # What made it fail is what the caller must hear of.
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise
    return store


def _write_origin(connection: Connection, genesis: Genesis, member_id: bytes) -> None:
    for name, value in (("space_id", genesis.space_id), ("genesis", pack(genesis)), ("member_id", member_id)):
        connection.execute("INSERT INTO klal_meta VALUES(?,?)", (name, value))


def _write_genesis(connection: Connection, ticket: Ticket, space_id: bytes) -> None:
    """Store the genesis change that the ticket carries, held under its seal, and enter the founder."""
    history = History(connection, space_id)
    founder = ticket.genesis.founder
    log = history.add_log(log_id_of(space_id, founder, ticket.incarnation), founder, ticket.incarnation)
    hashed = header_hash(space_id, ticket.genesis_header)
    lsn = history.append(log, ticket.genesis_header, hashed, STATE_HELD, 0, ticket.genesis_acts)
    history.index_hash(hashed, lsn)
    log.payload_length = 1
    history.add_seal(log, Seal(log.log_id, 1, hashed, ticket.genesis_seal))
    history.save_log(log)
    row = (founder, ticket.genesis.founder_name, log.log_id, 0, None, None)
    connection.execute("INSERT INTO klal_member VALUES(?,?,?,?,?,?)", row)
