"""Closing: from Closes that are applied here to the certificate of an epoch.

The certificate describes the rows as of the cut, while this file may already be further
on. If it is exactly at the cut its tables are read; otherwise the cut is replayed in a
file in memory, by the same code that applied it here.

An epoch nobody was gone on without has one certificate, and a past has it or not. Where
somebody was retired or expelled, or closed an epoch twice, pasts can give different ones:
what a change had seen is then worked out from its own past, and what stands here from
everything applied here, unless the steward has named one (EPO-8).

Source:
    Protocol spec section 13. Decisions D14 to D16.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from klal.errors import DamagedError
from klal.model.acts import Certify, Close, Expel, Retire, Take, Word, decode_acts
from klal.model.acts import Join as JoinAct
from klal.model.certificate import (
    CERTIFICATE_SIZE_MAX,
    NO_MEMBER,
    Body,
    Certificate,
    CutHead,
    GoneMember,
    MemberName,
    Witness,
)
from klal.model.codec import UNIX_MS_MAX, pack, unpack
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, header_hash
from klal.model.keys import log_id_of
from klal.model.roots import chain_root, members_root
from klal.rules import closing
from klal.rules.closing import (
    Cut,
    Entry,
    Gone,
    Ground,
    Open,
    Said,
    Spoken,
    Vector,
    covers,
    cut_of,
    has_half,
    steward_of,
    uncounted,
    undoes,
)
from klal.rules.membership import FIRST_ELECTORATE_MIN, Electorate, Past, fault_of, may_name, members_of
from klal.rules.merge import ChangeRef
from klal.store.apply import Applier, Closed
from klal.store.base import PutDownError, open_base
from klal.store.catalog import Catalog
from klal.store.file import memory_file
from klal.store.history import STATE_APPLIED, STATE_HELD, History, Log, outcome_of
from klal.store.roots import RowsRoot, changes_root, rows_root
from klal.store.rows import Rows
from klal.store.sql import Connection
from klal.store.unique import Uniques
from klal.store.words import Words

_EPOCH_ANY = (1 << 31) - 1


class Epochs:
    """The epochs of one file: which are complete here, and what the next waits for."""

    def __init__(self, connection: Connection, history: History, catalog: Catalog, applier: Applier) -> None:
        self._connection = connection
        self._history = history
        self._catalog = catalog
        self._applier = applier
        self.words = Words(connection, history)
        self._variants: dict[tuple[object, ...], Closed] = {}
        self.expelled: frozenset[bytes] = frozenset()
        self._founder = b""
        self._awaited: tuple[int, list[bytes]] = (0, [])
        applier.certificate_in = self.certificate_in

    def load(self) -> None:
        """Read the certificates, and with them the cuts, from the file."""
        self.words.load()
        self._variants = {}
        self._awaited = (0, [])
        # A certificate of very many members takes seconds to read, and never changes.
        known = {closed.certificate_hash: closed for closed in self._applier.closed}
        self._applier.closed = []
        for epoch, hashed in self._connection.execute("SELECT epoch, hash FROM klal_epoch ORDER BY epoch").fetchall():
            certificate = None if hashed in known else self.certificate(epoch)
            self._applier.closed.append(known[hashed] if certificate is None else self._closed(certificate))
        self.question()

    def _closed(self, certificate: Certificate) -> Closed:
        """Return what a certificate says of its epoch, by this file's own numbers of logs."""
        body = certificate.body
        lengths = self._history.lengths_of(certificate.frontier())
        if lengths is None:
            raise DamagedError(f"the certificate of epoch {body.epoch} names changes that are not here")
        closes = {}
        for witness in certificate.witness:
            member_id = witness.member.member_id
            log_id = log_id_of(body.space_id, member_id, witness.incarnation)
            length = Header.decode(witness.header).seq + 1
            close = self._history.head_at(log_id, length, header_hash(body.space_id, witness.header))
            if close is None:
                raise DamagedError(f"the certificate of epoch {body.epoch} shows a Close that is not here")
            closes[member_id] = close
        cut = Cut(
            body.epoch,
            lengths,
            tuple(sorted(closes)),
            closes,
            tuple(Gone(each.member_id, each.kind, each.epoch, each.reason, each.is_counted) for each in body.gone),
            _member(body.steward),
            _member(body.steward_next),
        )
        return Closed(certificate.hash, cut, body.payload_size)

    @property
    def next_epoch(self) -> int:
        """Return the first epoch that is not complete here."""
        return len(self._applier.closed)

    @property
    def open_epoch(self) -> int:
        """Return the first epoch that is not decided here: not complete, or its steward has yet to name it (EPO-8)."""
        return len(self._decided(self._applier.closed, None))

    def _decided(self, chain: Sequence[Closed], within: Vector | None) -> Sequence[Closed]:
        """Return the leading certificates of a chain that nothing said later can put in the place of another."""
        for at, closed in enumerate(chain):
            said = self.words.said(closed.cut.epoch, within)
            is_once = not self.words.is_repeated(closed.cut.epoch) or self._is_closed_once(said.closes.values())
            is_plain = is_once and not any(
                gone.epoch == closed.cut.epoch and gone.kind != "left" for gone in closed.cut.gone
            )
            if not is_plain and not any(
                isinstance(each.act, Certify) and each.act.certificate == closed.certificate_hash for each in said.words
            ):
                return chain[:at]
        return chain

    def cut_before(self, epoch: int) -> Cut:
        """Return the cut of the epoch before one that is complete here or next, or NOTHING."""
        return self._applier.closed[epoch - 1].cut if epoch else closing.NOTHING

    @property
    def previous(self) -> Cut:
        """Return the cut of the newest epoch that is complete here, or NOTHING."""
        return self._applier.closed[-1].cut if self._applier.closed else closing.NOTHING

    def certificate(self, epoch: int) -> Certificate | None:
        """Return the certificate of an epoch that is complete here, or None."""
        stored = self._connection.execute("SELECT certificate FROM klal_epoch WHERE epoch = ?", (epoch,)).get
        return None if stored is None else unpack(stored, Certificate, "stored certificate", CERTIFICATE_SIZE_MAX)

    def finished(self, member_id: bytes) -> int:
        """Return the first epoch that this member has not finished, as far as applied here."""
        return self.words.finished(member_id)

    # -- cuts --------------------------------------------------------------------------

    @property
    def founder(self) -> bytes:
        """Return the space's first member."""
        if not self._founder:
            self._founder = (
                self._connection.execute("SELECT member_id FROM klal_member WHERE ticket_id IS NULL").get or b""
            )
        return self._founder

    def next_cut(self) -> Cut | Open:
        """Return the cut of the next epoch, or why it has none."""
        return cut_of(self.previous, self.words.said(self.next_epoch), self._ground(self.previous))

    def gone(self, member_id: bytes) -> Gone | None:
        """Return how a member has gone, or None while it belongs, or once it said that it is back (MEM-8)."""
        decided = self.cut_before(self.open_epoch)
        gone = next((each for each in decided.gone if each.member_id == member_id), None)
        is_back = gone is not None and any(
            entry.member_id == member_id and undoes(decided, entry, gone) for entry in self.words.returns()
        )
        return None if is_back else gone

    def removed(self) -> dict[bytes, str]:
        """Return those whom the next epoch goes on without, as it stands here: "retired" or "expelled" (EPO-7)."""
        return uncounted(self.previous, self.words.said(self.next_epoch), self._ground(self.previous))

    def _ground(self, previous: Cut) -> Ground:
        return Ground(self.founder, self._entries, self._history.vector, partial(self._groups, previous))

    def _entries(self) -> Iterator[Entry]:
        # Every log begins with its member's entry. Which of several a file met first differs
        # between files, so whoever has any of them inside the cut is counted (W28).
        for log in self._history.logs.values():
            if log.applied_length > log.start:
                yield Entry(log.member_id, ChangeRef(log.log, log.start))
        yield from self.words.returns()

    def _groups(self, previous: Cut, take: Spoken | None, lengths: Vector) -> Iterator[Sequence[bytes]]:
        """Yield the members of whom at least half must be counted where somebody is gone on without (EPO-8)."""
        if previous.epoch >= 0:
            yield previous.members
        elif take is not None:
            yield sorted(members_of(self.electorate(0, self._history.vector(take.change))))
        else:
            yield from self._met_by_founder(lengths)

    def steward(self, epoch: int) -> bytes:
        """Return the steward of an epoch as it stands here; empty bytes when vacant, or where nobody can know yet."""
        if epoch < self.open_epoch:
            return self._applier.closed[epoch].cut.steward
        return b"" if epoch > len(self._applier.closed) else self.steward_in_force(epoch)

    def electorate(self, epoch: int, within: Vector | None = None) -> Electorate:
        """Return who may vote in an epoch, as a past has it, or all that is applied here (EPO-9).

        Those whom the epoch before has counted; in the first, whom the founder is known to have met.
        """
        if epoch:
            return (self.chain(within)[epoch - 1].cut.members,)
        return tuple(self._met_by_founder(self._history.applied_lengths() if within is None else within))

    def _met_by_founder(self, lengths: Vector) -> Iterator[Sequence[bytes]]:
        """Yield the members that the founder met in epoch 0, in the order it met them in, those met at once together.

        What it met after its Close does not count: that could give an election to members the epoch has not counted.
        """
        met: dict[bytes, int] = {self.founder: -1}
        for log in self._history.logs.values():
            if log.member_id == self.founder:
                rows = self._connection.execute(
                    "SELECT past_log, min(seq) FROM klal_past WHERE log = ? AND seq < ? GROUP BY past_log",
                    (log.log, self._first_epoch_stop(log, lengths.get(log.log, 0))),
                ).fetchall()
                for index, seq in rows:
                    member_id = self._history.logs[index].member_id
                    met[member_id] = min(met.get(member_id, seq), seq)
        for when in sorted(set(met.values())):
            yield sorted(member_id for member_id, seq in met.items() if seq == when)

    def _first_epoch_stop(self, log: Log, length: int) -> int:
        """Return where the changes of epoch 0 end among the first `length` of a log: epochs never fall along one."""
        seqs = range(log.start, length)
        epoch_of = partial(self._epoch_of, log.log)
        return log.start + bisect_right(seqs, 0, key=epoch_of)

    def _epoch_of(self, log: int, seq: int) -> int:
        return self._history.read(ChangeRef(log, seq)).header.epoch

    # -- who has put their name to it ------------------------------------------------------

    def settled_count(self, named: Mapping[bytes, int]) -> int:
        """Return of how many epochs, from the first on, nothing honest can give up the certificate any more (EPO-5).

        The steward of each has put its name to it, and so says nothing of the epoch any more; and so many others have
        that nobody else can be elected.

        Args:
            named: member id -> the newest epoch whose certificate here it has put its name to.
        """
        for epoch, closed in enumerate(self._applier.closed):
            naming = {member_id for member_id, newest in named.items() if newest >= epoch}
            steward = self.steward_in_force(epoch)
            size_min = 1 if epoch else FIRST_ELECTORATE_MIN
            is_named = not steward or steward in naming
            if not is_named or self.needs_word(closed) or not has_half(naming, self.electorate(epoch), size_min):
                return epoch
        return self.next_epoch

    def steward_in_force(self, epoch: int) -> bytes:
        """Return who may speak about an epoch that is complete here or next, by everything that is applied here."""
        return steward_of(self.cut_before(epoch), self.words.said(epoch), self.founder)

    # -- certificates in a past ----------------------------------------------------------

    def chain(self, within: Vector | None = None) -> list[Closed]:
        """Return the certificates that can be computed from a past, or from all that is applied here (EPO-4)."""
        found: list[Closed] = []
        while (closed := self._next_in(found, within)) is not None:
            found.append(closed)
        return found

    def certificate_in(self, within: Vector) -> bytes:
        """Return the newest certificate that this past holds, or 32 zero bytes (EPO-4)."""
        if all(self._is_plain(closed.cut.epoch) for closed in self._applier.closed) and self._is_plain(self.next_epoch):
            for closed in reversed(self._applier.closed):
                if covers(within, closed.cut):
                    return closed.certificate_hash
            return NO_CERTIFICATE
        chain = self.chain(within)
        return chain[-1].certificate_hash if chain else NO_CERTIFICATE

    def _is_plain(self, epoch: int) -> bool:
        """True while an epoch can come to one certificate only."""
        if any(isinstance(each.act, Retire | Expel | Certify | Take) for each in self.words.said(epoch).words):
            return False
        return not self.words.is_repeated(epoch) or self._is_closed_once(self.words.closes(epoch).values())

    def _is_closed_once(self, closes: Iterable[Sequence[ChangeRef]]) -> bool:
        """True when nobody closed an epoch a second time without having seen its first Close, as a copied file does."""
        return all(self._history.sees(other, refs[0]) for refs in closes for other in refs[1:])

    def _next_in(self, before: Sequence[Closed], within: Vector | None) -> Closed | None:
        """Return the certificate of the epoch after `before` that a past gives, or None."""
        epoch = len(before)
        standing = self._applier.closed[epoch] if epoch < len(self._applier.closed) else None
        is_plain = self._is_plain(epoch) and list(self._applier.closed[:epoch]) == list(before)
        if is_plain:
            if standing is not None:
                return standing if within is None or covers(within, standing.cut) else None
            if within is not None:
                return None  # Whoever has seen less cannot have more.
            if self._is_awaiting(epoch):
                return None
        said = self.words.said(epoch, within)
        named = self._named(before, said)
        if named is not None:
            return named
        heard = tuple(sorted(ref for refs in said.closes.values() for ref in refs))
        spoken = tuple(sorted(each.change for each in said.words))
        key = (before[-1].certificate_hash if before else NO_CERTIFICATE, heard, spoken)
        if key not in self._variants:
            previous = before[-1].cut if before else closing.NOTHING
            cut = cut_of(previous, said, self._ground(previous))
            if isinstance(cut, Open):
                if is_plain:
                    self._awaited = (epoch, list(cut.waiting))
                return None
            certificate = self.certify(cut, before, rows=self._rows_known(cut))
            self._variants[key] = Closed(certificate.hash, cut, certificate.body.payload_size)
        return self._variants[key]

    def _is_awaiting(self, epoch: int) -> bool:
        """True while one whom a plain epoch waited for at the last look has still not finished.

        What is said later only ever adds to whom it waits for, so the cut need not be asked for with every Close.
        """
        waited_epoch, waiting = self._awaited
        closes = self.words.closes(epoch)
        while waiting and waiting[-1] in closes:
            waiting.pop()
        return waited_epoch == epoch and bool(waiting)

    def _named(self, before: Sequence[Closed], said: Said) -> Closed | None:
        """Return the certificate that the steward named, if it did: of several, the first in the one order (EPO-8)."""
        previous = before[-1].cut if before else closing.NOTHING
        steward = steward_of(previous, said, self.founder)
        for each in said.words:
            if isinstance(each.act, Certify) and each.member_id == steward:
                within = dict(self._history.vector(each.change))
                within[each.change.log] = each.change.seq
                found = self._next_in(before, within)
                if found is not None and found.certificate_hash == each.act.certificate:
                    return found
        return None

    def word_of(self, closed: Closed) -> Spoken | None:
        """Return the steward's word that names this certificate, or None."""
        for each in self.words.said(closed.cut.epoch).words:
            if isinstance(each.act, Certify) and each.act.certificate == closed.certificate_hash:
                return each
        return None

    def needs_word(self, closed: Closed) -> bool:
        """True when this certificate stands for good only once the steward has named it (EPO-8)."""
        return not self._is_plain(closed.cut.epoch) and self.word_of(closed) is None

    def nameable(self, member_id: bytes, named: Mapping[bytes, int]) -> int:
        """Return the newest epoch whose certificate here a member may put its name to, or -1 (EPO-8, EPO-9).

        Args:
            member_id: Whose name.
            named: member id -> the newest epoch whose certificate here it has put its name to.
        """
        for epoch, closed in enumerate(self._applier.closed):
            if self.needs_word(closed) or not self.may_name(epoch, member_id, named):
                return epoch - 1
        return self.next_epoch - 1

    def may_name(self, epoch: int, member_id: bytes, named: Mapping[bytes, int]) -> bool:
        """True when a member's votes let it put its name to a certificate of an epoch (EPO-9)."""
        votes = self.words.votes(epoch)
        if not votes:
            return True
        naming = {each for each, newest in named.items() if newest >= epoch}
        return may_name(votes, member_id, self.words.said(epoch).take(), naming, members_of(self.electorate(epoch)))

    def advance(self) -> bool:
        """Make the certificates that are due here, and unmake those that no longer stand; True if any changed."""
        closed = self._applier.closed
        first = next((each.cut.epoch for each in closed if not self._is_plain(each.cut.epoch)), len(closed))
        found = closed[:first]
        self._applier.unmade = {}
        try:
            while (standing := self._next_in(found, None)) is not None:
                found.append(standing)
        except PutDownError as error:
            # What stands goes on standing until the payloads are here again that say otherwise (CMP-11).
            self._applier.unmade = error.lengths
            found += closed[len(found) :]
        hashes = [each.certificate_hash for each in found]
        changed = next(
            (at for at, each in enumerate(closed) if [each.certificate_hash] != hashes[at : at + 1]), len(closed)
        )
        is_new = changed < len(closed) or len(found) > len(closed)
        if changed < len(closed):
            self._connection.execute("DELETE FROM klal_epoch WHERE epoch >= ?", (changed,))
        self._applier.closed = found
        for standing in found[changed:]:
            self._keep(self.certify(standing.cut, found[: standing.cut.epoch], rows=self._rows_known(standing.cut)))
        if is_new:
            self._awaited = (0, [])
            self.question()
        return is_new

    def _keep(self, certificate: Certificate) -> None:
        row = (certificate.epoch, certificate.hash, pack(certificate))
        self._connection.execute("INSERT OR REPLACE INTO klal_epoch VALUES(?,?,?)", row)

    # -- words -------------------------------------------------------------------------

    def note(self, log: Log, seq: int, acts: Sequence[object]) -> None:
        """Keep the Closes and words of an applied change, the words each with its verdict (MEM-6)."""
        ref = ChangeRef(log.log, seq)
        closes = [act.epoch for act in acts if isinstance(act, Close)]
        for epoch in closes:
            self.words.add_close(ref, log.member_id, epoch)
        for number, act, fault, rank in self.judged(ref, acts):
            self.words.add(ref, number, log.member_id, act, fault, rank=rank)
            if isinstance(act, Certify) and fault is None:
                self._keep_word(act)
        if any(isinstance(act, Word) for act in acts):
            self.question()

    def judged(self, ref: ChangeRef, acts: Sequence[object]) -> Iterator[tuple[int, Word, str | None, bool]]:
        """Yield the words of an applied change: (which act, word, why it has no effect, by a steward)."""
        member_id = self._history.logs[ref.log].member_id
        closes = [act.epoch for act in acts if isinstance(act, Close)]
        past: Past | None = None
        for number, act in enumerate(acts):
            if isinstance(act, Word):
                past = past or self._past(ref)
                yield number, act, fault_of(act, member_id, closes, past), past.steward_in(past.epoch) == member_id

    def _past(self, ref: ChangeRef) -> Past:
        """Return what a change had seen, as far as words are judged by it."""
        within = dict(self._history.vector(ref))
        within[ref.log] = ref.seq
        chain = self.chain(within)

        def steward_in(epoch: int) -> bytes:
            previous = chain[epoch - 1].cut if epoch else closing.NOTHING
            return steward_of(previous, self.words.said(epoch, within), self.founder)

        # An epoch whose certificate its steward has yet to name is open still for words: the steward may be lost.
        return Past(
            len(self._decided(chain, within)),
            steward_in,
            partial(self.electorate, within=within),
            partial(self.words.votes, within=within),
            {self._history.logs[index].member_id for index, length in within.items() if length},
            [each.certificate_hash for each in chain],
        )

    def _keep_word(self, word: Certify) -> None:
        """Put the steward's word beside the certificate it names, if that one stands here already."""
        if word.epoch < len(self._applier.closed):
            standing = self._applier.closed[word.epoch]
            if standing.certificate_hash == word.certificate:
                self._keep(self.certify(standing.cut, self._applier.closed[: word.epoch]))

    def question(self) -> None:
        """Work out whose changes wait for another member's word (MEM-9, MEM-10)."""
        asked: dict[bytes, dict[int, int]] = {}
        gone = {each.member_id: each for each in self.previous.gone}
        said = self.words.said(self.next_epoch)
        steward = steward_of(self.previous, said, self.founder)
        expelled = [each for each in said.words if isinstance(each.act, Expel) and each.member_id == steward]
        for each in gone.values():
            if each.kind == "expelled":
                words = self.words.said(each.epoch).words
                expelled += [
                    word for word in words if isinstance(word.act, Expel) and word.act.member == each.member_id
                ]
        for word in expelled:
            assert isinstance(word.act, Expel)
            if self._is_let_in_again(word):
                continue
            allowed = asked.setdefault(word.act.member, {})
            for index, length in self._history.vector(word.change).items():
                if self._history.logs[index].member_id == word.act.member:
                    allowed[index] = max(allowed.get(index, 0), length)
        self.expelled = frozenset(asked)
        # Afterwards, since whoever was invited by one who was expelled waits too.
        for log in self._history.logs.values():
            if log.length and not log.applied_length and self._is_late(log, asked):
                asked.setdefault(log.member_id, {})
        self._applier.questioned = asked

    def _is_late(self, log: Log, asked: Mapping[bytes, object]) -> bool:
        """True when a newcomer whose join is not applied came too late for the epoch of its invitation (MEM-10)."""
        entry = self._connection.execute("SELECT log_id FROM klal_member WHERE member_id = ?", (log.member_id,)).get
        if entry != log.log_id or log.member_id in self.words.admitted():
            return False
        stored = self._history.read(ChangeRef(log.log, 0))
        data = self._history.part(stored, ACTS_TABLE)
        for act in () if data is None else decode_acts(data):
            if isinstance(act, JoinAct):
                epoch = stored.header.epoch
                is_of_its_epoch = epoch == act.invitation.epoch and epoch >= self.next_epoch
                return not is_of_its_epoch or act.invitation.inviter in asked
        return False

    def came_late(self, log: Log) -> bool:
        """True when a newcomer whose join is applied here is in no cut yet though its epoch is over (MEM-10)."""
        if log.start or any(log.member_id in closed.cut.closes for closed in self._applier.closed):
            return False
        is_known = any(self.previous.lengths.get(each.log) for each in self._logs_of(log.member_id))
        return not is_known and self._history.read(ChangeRef(log.log, 0)).header.epoch < self.next_epoch

    def _logs_of(self, member_id: bytes) -> list[Log]:
        return [log for log in self._history.logs.values() if log.member_id == member_id]

    def _is_let_in_again(self, expulsion: Spoken) -> bool:
        """True when a steward who had seen this expulsion admitted the member again."""
        assert isinstance(expulsion.act, Expel)
        return any(
            "expelled" in each.undoes
            and each.member_id == expulsion.act.member
            and self._history.sees(each.change, expulsion.change)
            for each in self.words.returns()
        )

    # -- certificates ----------------------------------------------------------------------

    def certify(
        self, cut: Cut, earlier: Sequence[Closed], *, replayed: bool = False, rows: RowsRoot | None = None
    ) -> Certificate:
        """Return the certificate of a cut that is complete here (CRT-1 to CRT-9).

        Args:
            cut: What it is of.
            earlier: The certificates before it.
            replayed: Make its rows from history alone.
            rows: Those of the cut, where they are known.
        """
        history = self._history
        frontier = history.frontier_of(cut.lengths)
        previous = earlier[-1].cut if earlier else closing.NOTHING
        payload_size = earlier[-1].payload_size if earlier else 0
        late: dict[bytes, int] = {}
        for log, length in cut.lengths.items():
            for stored in history.lines(history.logs[log], previous.lengths.get(log, 0), length):
                payload_size += stored.header.payload_size
                if stored.header.epoch < cut.epoch:
                    member_id = history.logs[log].member_id
                    late[member_id] = late.get(member_id, 0) + 1
        rows = rows or self.rows_at(cut, replayed=replayed)
        names = self._names(cut)
        before = set(previous.counted)
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
            left=tuple(member for member in previous.counted if member not in cut.closes),
            gone=tuple(
                GoneMember(each.member_id, names[each.member_id], each.kind, each.epoch, each.reason, each.is_counted)
                for each in cut.gone
            ),
            late=tuple(sorted(late.items())),
            steward=cut.steward or NO_MEMBER,
            steward_next=cut.steward_next or NO_MEMBER,
        )
        heads = tuple(CutHead(log_id, head.length, head.head_hash) for log_id, head in frontier.heads.items())
        witness = tuple(self._witness(names[member], cut.closes[member], cut) for member in cut.counted)
        word = self.word_of(Closed(body.hash, cut, payload_size))
        # One elected when the epoch was complete is not named in the body: its word says nothing to who has the file.
        is_shown = word is not None and word.member_id == cut.steward
        words = (self._witness(names[word.member_id], word.change, cut),) if word and is_shown else ()
        return Certificate(body, heads, witness, words)

    def _rows_known(self, cut: Cut) -> RowsRoot | None:
        """Return the rows of a cut below the base, where it is that of a certificate here; None to make them."""
        closed = self._applier.closed
        if self._history.holds_base(cut.lengths) or cut.epoch >= len(closed):
            return None
        standing = closed[cut.epoch].cut.lengths
        if any(standing.get(log, 0) != cut.lengths.get(log, 0) for log in standing.keys() | cut.lengths.keys()):
            return None
        certificate = self.certificate(cut.epoch)
        return None if certificate is None else RowsRoot(certificate.body.rows_root, certificate.body.row_count)

    def _names(self, cut: Cut) -> dict[bytes, str]:
        """Return the counted members' names: of several joins of one key, that of the first log of the cut."""
        names: dict[bytes, str] = dict(self._connection.execute("SELECT member_id, name FROM klal_member").fetchall())
        logs: dict[bytes, list[Log]] = {}
        for log in reversed(self._history.by_join()):
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

    def _witness(self, name: str, close: ChangeRef, cut: Cut) -> Witness:
        log = self._history.logs[close.log]
        stored = self._history.read(close)
        acts = self._history.part(stored, ACTS_TABLE)
        signature: bytes = self._connection.execute(
            "SELECT signature FROM klal_seal WHERE log = ? AND length = ?", (close.log, close.seq + 1)
        ).get
        assert acts is not None, "a Close that was applied has its acts"
        assert signature is not None, "finish seals exactly at the Close"
        branch = self._history.branch_in(close, cut.lengths)
        return Witness(MemberName(log.member_id, name), log.incarnation, branch, stored.header_bytes, acts, signature)

    def rows_at(self, cut: Cut, *, replayed: bool = False) -> RowsRoot:
        """Return the root of the rows as of a cut, from history alone if `replayed`."""
        if not replayed and self._history.applied_lengths() == {
            log: length for log, length in cut.lengths.items() if length
        }:
            return rows_root(self._connection, self._catalog)
        is_below = not self._history.holds_base(cut.lengths)
        if is_below and self._history.lacks_payloads(cut.lengths):
            raise PutDownError(f"the rows of a cut of epoch {cut.epoch} were compacted here", cut.lengths)
        replay = Replay(self._connection, self._history, self._applier.certificate_in, from_nothing=is_below)
        try:
            replay.run(cut.lengths)
            return rows_root(replay.connection, replay.catalog)
        finally:
            replay.connection.close()


class Replay:
    """Part of a file's history, applied again in memory: from its base where it is compacted, else from nothing.

    Args:
        source: The file.
        history: Of the file.
        certificate_in: Which certificate a past holds.
        from_nothing: Pass over the base; all payloads that are to be applied must be here.
    """

    def __init__(
        self,
        source: Connection,
        history: History,
        certificate_in: Callable[[Mapping[int, int]], bytes],
        *,
        from_nothing: bool = False,
    ) -> None:
        self._source = source
        self._original = history
        base = None if from_nothing else history.base
        self.connection = memory_file() if base is None else open_base(source)
        self.history = History(self.connection, history.space_id)
        self.history.rest_on(base)
        self.catalog = Catalog(self.connection)
        self.rows = Rows(self.connection)
        self.applier = Applier(self.connection, self.history, self.catalog, self.rows)
        self.uniques = Uniques(self.connection, self.history, self.catalog, self.rows)
        if base is not None:
            self.catalog.load()
        # Certificates are known beforehand: a header is judged by those in its own past.
        self.applier.certificate_in = certificate_in
        self.applier.not_after_ms = UNIX_MS_MAX

    def run(self, lengths: dict[int, int]) -> None:
        """Apply the prefixes `lengths`, a causally closed set, in the order they arrived here.

        In a compacted file they must hold its base, on which the others are applied (CMP-2).
        """
        floor = self.history.floor
        if not self.history.holds_base(lengths):
            raise DamagedError("a state below what was compacted cannot be made again")
        self.connection.execute("BEGIN")
        for log in sorted(self._original.logs.values(), key=lambda log: log.log):
            self.history.add_copy(log)
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
        waiting = {log: length for log, length in self.history.floor.items() if length}
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


def _member(named: bytes) -> bytes:
    """Return who is named, or empty bytes where nobody is."""
    return b"" if named == NO_MEMBER else named
