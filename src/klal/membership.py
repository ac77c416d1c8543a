"""Who belongs and who decides: the calls of a replica that speak about members.

Joining, leaving, being retired, expelled and admitted are different things with different
words and effects. All of them work offline and are words in history; what they mean is
decided everywhere by their own past.

Source:
    Protocol spec section 9, MEM-6 to MEM-11, and section 13. Decisions D15, D21.
"""

from __future__ import annotations

from klal.errors import UsageError
from klal.reports import Finished, Stewardship
from klal.rules.merge import ChangeRef
from klal.store.stewardship import Stewardship as Words
from klal.store.store import Store
from klal.survey import Survey


class Membership:
    """The part of a replica that members speak through."""

    _store: Store

    def leave(self) -> Finished:
        """Finish the running epoch as this member's last: its work stays, and later epochs do not wait for it.

        Raises:
            UsageError: It is the steward and has handed the stewardship to nobody.
            IncompleteError: As `finish`.
        """
        store = self._begin("leave")
        with store.reading():
            Survey(store).check_may_finish(alone=False)
        epoch = store.writer.epoch
        Words(store).leave(epoch)
        store.apply_ready()
        return self._finished(epoch)

    def come_back(self) -> None:
        """Say that this member, who left or was retired, is back: it counts from the next epoch on.

        Its own first write says the same, for a member who was retired.
        """
        Words(self._begin("come_back")).come_back()

    def retire(self, member: str | bytes, reason: str) -> int:
        """Go on without a member in the open epoch: it is not waited for, and the certificate names it.

        Its work is not lost: what it writes or has written enters a later epoch, named late.

        Args:
            member: Its name, or its id where several bear the name.
            reason: What the certificate will say.

        Returns:
            The epoch.

        Raises:
            UsageError: By anybody but the steward; of oneself, or of a member that has finished.
        """
        store = self._begin("retire")
        epoch = Words(store).retire(self._member_id(member), reason)
        self._settle()
        return epoch

    def expel(self, member: str | bytes, reason: str) -> int:
        """End a membership: what this replica has not seen of theirs waits until another member's change has seen it.

        Returns:
            The epoch it was said in, which goes on without the member if it has not finished.

        Raises:
            UsageError: By anybody but the steward, or of oneself.
        """
        store = self._begin("expel")
        epoch = Words(store).expel(self._member_id(member), reason)
        self._settle()
        return epoch

    def admit(self, member: str | bytes) -> None:
        """Let in somebody whose join came too late for its epoch.

        A steward also admits again whom it expelled, or retired while the epoch is open: it is waited for again.

        Raises:
            UsageError: They wait for nobody's word.
        """
        Words(self._begin("admit")).admit(self._member_id(member))

    def stewardship(self) -> Stewardship:
        """Return who is the steward of the open epoch, and who supports whom for its place."""
        with self._store.reading():
            return self._stewardship()

    def support(self, member: str | bytes) -> Stewardship:
        """Give this member's voice to somebody who shall be the steward of the open epoch instead.

        More than half of the epoch's members must say so. Until that is decided, this member puts its
        name to no certificate of the epoch. Supporting oneself is asking for it.

        Raises:
            UsageError: This member has no vote, or has voted.
        """
        store = self._begin("support")
        Words(store).support(self._member_id(member))
        self._settle()
        return self.stewardship()

    def hand_stewardship(self, member: str | bytes) -> int:
        """Hand the stewardship to a member from the next epoch on, and return the open epoch.

        Raises:
            UsageError: By anybody but the steward.
        """
        return Words(self._begin("hand_stewardship")).hand(self._member_id(member))

    def _finished(self, epoch: int) -> Finished:
        """Return what this member's Close of an epoch says: how long its logs are there."""
        store = self._store
        history = store.history
        logs = (
            (history.name_of(ChangeRef(log.log, log.length - 1)), log.length)
            for log in history.logs.values()
            if log.member_id == store.member_id and log.length > log.start
        )
        return Finished(epoch, tuple(sorted(logs)))

    def _begin(self, what: str) -> Store:
        if self._store.is_closed:
            raise UsageError(f"{what} wants a replica that is open")
        if self._store.in_transaction:
            raise UsageError(f"{what} cannot run inside a transaction")
        return self._store

    def _settle(self) -> None:
        """Apply what a word lets in, and say what follows from it."""
        self._store.apply_ready()
        Words(self._store).do_duties()

    def _stewardship(self) -> Stewardship:
        survey, votes = Survey(self._store), Words(self._store).votes()
        steward = self._store.epochs.steward(votes.epoch)
        supporters = {survey.name(each): tuple(map(survey.name, by)) for each, by in votes.supporters.items()}
        return Stewardship(
            votes.epoch,
            survey.name(steward) if steward else None,
            steward == self._store.member_id != b"",
            votes.round,
            supporters,
            votes.needed,
        )

    def _member_id(self, member: str | bytes) -> bytes:
        """Return the member that a name or id means.

        Raises:
            UsageError: Nobody, or more than one.
        """
        if not isinstance(member, str | bytes):
            raise UsageError(f"a member is named by its name or its id, not by a {type(member).__name__}")
        with self._store.reading():
            names = Survey(self._store).names
        if isinstance(member, bytes):
            found = [member_id for member_id in names if member_id == member]
        else:
            digits = member.lower()
            found = [member_id for member_id, name in names.items() if name == member]
            found = found or [each for each in names if len(digits) >= 8 and each.hex().startswith(digits)]
        if len(found) == 1:
            return found[0]
        shown = member.hex()[:16] if isinstance(member, bytes) else repr(member)[:60]
        if found:
            raise UsageError(f"{len(found)} members are called {shown}: want an id")
        raise UsageError(f"no member known here is called {shown}")
