"""What this file says of old payloads in its receipts: what it put down, what it asks, what it has shown to hold.

Source:
    Protocol spec section 8, rules CMP-7 to CMP-10. Decision D17.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec

from klal.model.codec import pack, unpack
from klal.model.header import NO_CERTIFICATE
from klal.model.receipt import PROOF_COUNT_MAX, Copy, Proof, Question
from klal.rules.compaction import Answers, Word, answers, digest_of, goes_first, standing, tally_of
from klal.store.apply import Applier
from klal.store.history import History
from klal.store.knowledge import Knowledge
from klal.store.sql import Connection

_META = "question"


class Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A question of this file, with the tally that the answers are compared with."""

    question: Question
    tally: bytes


class Copies:
    """The words about old payloads in one file."""

    def __init__(self, connection: Connection, history: History, knowledge: Knowledge, applier: Applier) -> None:
        self._connection = connection
        self._history = history
        self._knowledge = knowledge
        self._applier = applier

    def words(self) -> list[Word]:
        """Return what the newest receipt of every log says, ascending by log id."""
        return [Word(log_id, voice.member_id, voice.copy) for log_id, voice in self._knowledge.voices().items()]

    def own(self, log_id: bytes, member_id: bytes) -> Word:
        """Return this file's word as it last signed it; an empty one where it never did."""
        return next((word for word in self.words() if word.log_id == log_id), Word(log_id, member_id, Copy()))

    # -- what the next receipt says ---------------------------------------------------------

    def statement(self, log_id: bytes, member_id: bytes) -> Copy:
        """Return what the next receipt says, answering what is asked; inside a write transaction."""
        words, base, asked = self.words(), self._history.base, self.asked()
        question = () if asked is None else (asked.question,)
        me = replace(self.own(log_id, member_id), copy=Copy(questions=question))
        proofs = standing(words, self.own(log_id, member_id))
        for word in words:
            if word.member_id == member_id or not word.copy.questions or len(proofs) >= PROOF_COUNT_MAX:
                continue
            (theirs,) = word.copy.questions
            is_known = (word.log_id, theirs.nonce) in proofs
            if is_known or not self._can_answer(theirs) or (me.copy.questions and not goes_first(word, me)):
                continue
            self.withdraw()
            me = replace(me, copy=Copy())
            tally = tally_of(theirs.nonce, self._payloads(theirs))
            digest = digest_of(self._history.space_id, theirs, member_id, tally)
            proofs[word.log_id, theirs.nonce] = Proof(word.log_id, theirs.nonce, digest)
        return Copy(
            NO_CERTIFICATE if base is None else base.certificate,
            () if base is None else base.keepers,
            me.copy.questions,
            tuple(proofs[place] for place in sorted(proofs)),
        )

    def _can_answer(self, question: Question) -> bool:
        """True when every payload of history up to the question's cut is here, also what it does not ask for."""
        cut = self._cut(question.certificate)
        if self._history.base is not None or cut is None:
            return False
        if question.above != NO_CERTIFICATE and self._cut(question.above) is None:
            return False
        return all(self._history.logs[log].payload_length >= length for log, length in cut.items())

    def _cut(self, certificate: bytes) -> Mapping[int, int] | None:
        for closed in self._applier.closed:
            if closed.certificate_hash == certificate:
                return closed.cut.lengths
        return None

    def _payloads(self, question: Question) -> Iterator[bytes]:
        """Yield the payloads that a question is about: by log id, number, hash and place in the header (CMP-8)."""
        history = self._history
        stops = self._cut(question.certificate) or {}
        starts = self._cut(question.above) or {}
        for _, stored in history.in_order(starts, stops):
            if stored.payload is not None:
                yield stored.payload
                continue
            for index in range(len(stored.header.parts)):
                for _, data in history.slices(stored, index):
                    yield data

    # -- this file's own question -----------------------------------------------------------

    def asked(self) -> Asked | None:
        """Return the question that this file asks, or None."""
        told = self._connection.execute("SELECT value FROM klal_meta WHERE name = ?", (_META,)).get
        return None if told is None else unpack(told, Asked, "stored question")

    def ask(self, certificate: bytes, nonce: bytes) -> None:
        """Ask who has the payloads below a cut, in the place of any question before; inside a write transaction."""
        base = self._history.base
        question = Question(certificate, NO_CERTIFICATE if base is None else base.certificate, nonce)
        asked = Asked(question, tally_of(nonce, self._payloads(question)))
        self._connection.execute("INSERT OR REPLACE INTO klal_meta VALUES(?,?)", (_META, pack(asked)))

    def withdraw(self) -> None:
        """Ask nothing any more; inside a write transaction."""
        self._connection.execute("DELETE FROM klal_meta WHERE name = ?", (_META,))

    def answers(self, log_id: bytes, member_id: bytes) -> Answers:
        """Return who has answered the question of this file."""
        asked, words = self.asked(), self.words()
        if asked is None:
            return Answers((), ())
        members = {word.member_id for word in words}
        digests = {each: digest_of(self._history.space_id, asked.question, each, asked.tally) for each in members}
        return answers(words, Word(log_id, member_id, Copy()), asked.question, digests)
