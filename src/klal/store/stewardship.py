"""What a member says about who belongs and who decides, and what its file says by itself.

Each call appends one sealed change. What it means everywhere is decided by its own past
(`rules.membership`); here is only what an honest member does not say.

Two words are said without being asked, once everything for them is here: who is elected
takes the stewardship, and the steward names the certificate of an epoch that went on
without somebody.

Source:
    Protocol spec section 9, MEM-6 to MEM-11; section 13, EPO-6 to EPO-9. Decisions D15, D21.
"""

from __future__ import annotations

from dataclasses import dataclass

from klal.errors import ReadOnlyError, UsageError
from klal.model.acts import (
    Admit,
    Certify,
    Close,
    Expel,
    Hand,
    Leave,
    Retire,
    Support,
    Take,
    Word,
)
from klal.model.codec import NAME_LENGTH_MAX
from klal.model.header import NO_CERTIFICATE
from klal.rules.membership import choices, is_elected, members_of, taken_round, tally
from klal.store.history import Log
from klal.store.store import Store

# Heads that a receipt would name, 70 bytes each and in every replica's. A header joins 16 of them in 600 bytes.
_JOINED_FROM = 256


@dataclass(frozen=True, slots=True)
class Votes:
    """Who supports whom as the steward of the open epoch, in its newest round.

    Shape:
        round: 0 while nobody was asked.
        supporters: candidate -> who supports it, ascending.
        needed: how many it takes.
    """

    epoch: int
    round: int
    supporters: dict[bytes, tuple[bytes, ...]]
    needed: int


class Stewardship:
    """Membership words of one store's member."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._epochs = store.epochs

    # -- going on without somebody -------------------------------------------------------

    def retire(self, member_id: bytes, reason: str) -> int:
        """Go on without a member in the open epoch, and return its number (EPO-7)."""
        return self._remove(Retire(member_id, self._epochs.open_epoch, _checked(reason)), "retire")

    def expel(self, member_id: bytes, reason: str) -> int:
        """Expel a member in the open epoch, and return its number (EPO-7, MEM-9)."""
        return self._remove(Expel(member_id, self._epochs.open_epoch, _checked(reason)), "expel")

    def _remove(self, word: Retire | Expel, verb: str) -> int:
        self._require_standing()
        self.do_duties()
        epoch = word.epoch
        me = self._store.member_id
        if word.member == me:
            raise UsageError(f"nobody can {verb} themselves", hint="klal leave FILE leaves after this epoch")
        if self._epochs.steward(epoch) != me:
            raise UsageError(
                f"only the steward of epoch {epoch} may {verb} a member",
                rule="EPO-7",
                hint="klal steward FILE says who that is, and how their place is taken",
            )
        if isinstance(word, Retire) and word.member in self._epochs.words.closes(epoch):
            raise UsageError(f"that member has finished epoch {epoch}: nobody waits for it")
        if self._epochs.gone(word.member) is not None:
            raise UsageError("that member is gone already")
        self._require_met(word.member)
        self._say(word)
        return epoch

    # -- oneself -------------------------------------------------------------------------

    def leave(self, epoch: int) -> None:
        """Finish an epoch as the last one (MEM-8); the caller has asked whether it may be finished."""
        self._require_standing()
        if self._epochs.steward(epoch) == self._store.member_id and not self._heir(epoch):
            raise UsageError(
                "the steward hands the stewardship to somebody before leaving",
                hint="klal steward FILE --hand MEMBER",
            )
        self._say(Close(epoch), Leave(epoch))

    def _heir(self, epoch: int) -> bool:
        words = self._epochs.words.said(epoch).words
        hands = [each.act for each in words if isinstance(each.act, Hand) and each.member_id == self._store.member_id]
        return any(self._stays(act.member) for act in hands)

    def _stays(self, member_id: bytes) -> bool:
        """True when another member is one of the next epoch too, as far as said here."""
        leaving = {
            each.member_id
            for each in self._epochs.words.said(self._epochs.open_epoch).words
            if isinstance(each.act, Leave)
        }
        is_gone = self._epochs.gone(member_id) is not None or member_id in self._epochs.removed()
        return not is_gone and member_id != self._store.member_id and member_id not in leaving

    def _require_met(self, member_id: bytes) -> None:
        logs = self._store.history.logs.values()
        if not any(log.applied_length for log in logs if log.member_id == member_id):
            raise UsageError("nothing of that member is applied here", hint="klal status says what it waits for")

    def come_back(self) -> None:
        """Say that this member, who left or was retired, is back (MEM-8)."""
        gone = self._epochs.gone(self._store.member_id)
        if gone is None:
            raise UsageError("this member is not gone")
        if gone.kind == "expelled":
            raise UsageError("this member was expelled: only the steward can admit it again", rule="MEM-9")
        self._store.come_back()

    # -- others --------------------------------------------------------------------------

    def admit(self, member_id: bytes) -> None:
        """Let in who joined too late for their epoch; as the steward, who was expelled, or is gone on without."""
        self._require_standing()
        gone = {each.member_id: each.kind for each in self._epochs.previous.gone}
        is_steward = self._epochs.steward(self._epochs.open_epoch) == self._store.member_id
        if gone.get(member_id) == "expelled" and not is_steward:
            raise UsageError("only the steward can admit a member who was expelled", rule="MEM-9")
        is_taken_back = is_steward and member_id in self._epochs.removed()
        if member_id not in gone and member_id not in self._store.applier.questioned and not is_taken_back:
            raise UsageError("that member waits for nobody's word")
        self._say(Admit(member_id))
        self._store.apply_ready()

    # -- the steward's place -------------------------------------------------------------

    def hand(self, member_id: bytes) -> int:
        """Hand the stewardship to a member from the next epoch on; return the open epoch (EPO-6)."""
        self._require_standing()
        epoch = self._epochs.open_epoch
        if self._epochs.steward(epoch) != self._store.member_id:
            raise UsageError(f"only the steward of epoch {epoch} can hand its place on", rule="EPO-6")
        if not self._stays(member_id):
            raise UsageError("the stewardship is handed to another member, who stays")
        self._say(Hand(epoch, member_id))
        return epoch

    def support(self, candidate: bytes) -> Votes:
        """Give this member's one vote of the newest round to a candidate, and return how things stand (EPO-9).

        Where the steward of an earlier epoch closed it and was never heard to name its certificate, and the candidate
        was, it is supported there too: once it has taken that place, nothing that steward says can undo the epoch.
        """
        self._require_standing()
        epoch = self._epochs.open_epoch
        within = self._store.history.applied_lengths()
        electorate = members_of(self._epochs.electorate(epoch, within))
        if self._store.member_id not in electorate:
            raise UsageError(
                f"this member has no vote in epoch {epoch}",
                rule="EPO-9",
                hint="those vote whom the epoch before counted; in epoch 0, whom a change of the founder's has seen",
            )
        if candidate not in electorate:
            raise UsageError(f"nobody can be elected in epoch {epoch} but who has a vote in it", rule="EPO-9")
        named = self._store.named()
        said = [
            self._vote(candidate, number)
            for number in range(min(epoch, named.get(candidate, -1) + 1))
            if named.get(self._epochs.steward_in_force(number) or candidate, -1) < number
        ]
        words = [word for word in (*said, self._vote_in_open(candidate, epoch)) if word is not None]
        if words:
            self._say(*words)
            self.do_duties()
        return self.votes()

    def _vote_in_open(self, candidate: bytes, epoch: int) -> Support | None:
        if self._epochs.steward(epoch) == candidate and taken_round(self._epochs.words.said(epoch).take()):
            return None
        if self._has_named(epoch):
            raise UsageError(f"this member has put its name to a certificate of epoch {epoch}", rule="EPO-9")
        word = self._vote(candidate, epoch)
        if epoch == 0 and word is not None and word.round > 1:
            raise UsageError("epoch 0 has one round, and this member has voted in it", rule="EPO-9")
        return word

    def _vote(self, candidate: bytes, epoch: int) -> Support | None:
        """Return the vote in the newest round, if its place is not taken and this member's vote there is free.

        Else that in the next one; None where this member has given it already, or has no vote in that epoch.
        """
        me = self._store.member_id
        if me not in members_of(self._epochs.electorate(epoch)):
            return None
        voted = choices(self._epochs.words.votes(epoch))
        newest = max((number for chosen in voted.values() for number in chosen), default=1)
        mine = voted.get(me, {})
        is_free = mine.get(newest, candidate) == candidate
        is_open = taken_round(self._epochs.words.said(epoch).take()) < newest
        number = newest if is_free and is_open else newest + 1
        return None if mine.get(number) == candidate else Support(epoch, number, candidate)

    def votes(self, epoch: int | None = None) -> Votes:
        """Return who supports whom in the newest round of an epoch, by default the open one."""
        epoch = self._epochs.open_epoch if epoch is None else epoch
        electorate = members_of(self._epochs.electorate(epoch))
        rounds = tally(self._epochs.words.votes(epoch), electorate)
        newest = max(rounds, default=0)
        supporters = {candidate: tuple(sorted(voters)) for candidate, voters in rounds.get(newest, {}).items()}
        return Votes(epoch, newest, supporters, len(electorate) // 2 + 1)

    # -- what is said without being asked ------------------------------------------------

    def do_duties(self) -> None:
        """Say what is this member's to say: whose work it answers for, that it is elected, which certificate stands."""
        store = self._store
        own = store.writer.own
        if store.identity is None or store.is_entering or own is None or own.log.member_id != store.member_id:
            return
        if self._owes_acknowledgement(own.log) or self._has_many_heads():
            store.acknowledge()
        self._take_if_elected()
        for closed in list(store.applier.closed):
            epoch = closed.cut.epoch
            if self._epochs.steward_in_force(epoch) == store.member_id and self._epochs.needs_word(closed):
                if not self._may_certify(epoch):
                    return
                self._say(Certify(epoch, closed.certificate_hash))

    def _may_certify(self, epoch: int) -> bool:
        """True when this member's votes leave it free to, and no certificate before it may still be given up.

        Whoever hears of a word that goes on without it counts on that (MEM-7).
        """
        named, me = self._store.named(), self._store.member_id
        own = {**named, me: self._epochs.nameable(me, named)}
        return self._epochs.may_name(epoch, me, named) and self._epochs.settled_count(own) >= epoch

    def _owes_acknowledgement(self, own: Log) -> bool:
        """True when this member had applied work of one who is questioned now, and no change of its own says so yet."""
        questioned = self._store.applier.questioned
        seen = self._store.history.head_vector(own)
        logs = self._store.history.logs.values()
        unsaid = [log for log in logs if log.applied_length > seen.get(log.log, log.start)]
        return any(log.member_id in questioned or self._epochs.came_late(log) for log in unsaid)

    def _has_many_heads(self) -> bool:
        """True when there are so many changes that nobody has joined that it is cheaper to join them than to name them.

        Whoever has the header that joins them names that one alone, and so does everybody who hears of it.
        """
        closed = self._store.applier.closed
        cut = closed[-1].cut.lengths if closed else {}
        logs = self._store.history.logs.values()
        rose = sum(log.applied_length > max(log.start, cut.get(log.log, 0)) for log in logs)
        return rose > _JOINED_FROM and len(self._store.history.maximal_heads(cut)) > _JOINED_FROM

    def _take_if_elected(self) -> None:
        me, words = self._store.member_id, self._epochs.words
        for epoch in words.voted():
            if epoch > self._epochs.next_epoch:
                return  # What was just taken has opened an earlier epoch again.
            electorate = self._epochs.electorate(epoch)
            votes = words.votes(epoch)
            newest = max(tally(votes, members_of(electorate)), default=0)
            if taken_round(words.said(epoch).take()) < newest and is_elected(epoch, newest, me, votes, electorate):
                self._say(Take(epoch, newest))

    def _has_named(self, epoch: int) -> bool:
        """True when a receipt of this member names a certificate of an epoch or a later one."""
        earlier = {closed.certificate_hash for closed in self._store.applier.closed[:epoch]} | {NO_CERTIFICATE}
        statements = [receipt.statement for receipt in self._store.knowledge.receipts().values()]
        mine = [each.certificate for each in statements if each.member_id == self._store.member_id]
        return any(named not in earlier for named in mine)

    def _require_standing(self) -> None:
        if self._store.identity is None:
            raise ReadOnlyError(f"{self._store.path} is read-only here: the key of its member is not at hand")
        gone = self._epochs.gone(self._store.member_id)
        if gone is not None:
            raise UsageError(
                f"this member {HOW_GONE[gone.kind]} epoch {gone.epoch} and has no say",
                rule="MEM-8",
                hint="klal return FILE says that it is back",
            )

    def _say(self, *words: Word | Close) -> None:
        store = self._store
        with store.writing(durable=True), store.writer.engine_writes():
            store.append_acts(*words)


HOW_GONE = {"left": "left after", "retired": "was retired from", "expelled": "was expelled in"}


def _checked(reason: object) -> str:
    if not isinstance(reason, str) or not 0 < len(reason) <= NAME_LENGTH_MAX or not reason.isprintable():
        raise UsageError(f"a reason has 1 to {NAME_LENGTH_MAX} printable characters")
    return reason
