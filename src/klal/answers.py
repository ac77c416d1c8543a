"""What a replica answers about completeness: how much is here, who has what, and waiting for it.

All of it is computed from what lies in the file, in one read transaction, and none of it
touches a network. What a member is said to hold is that member's own signed word: a claim,
and no proof of possession.

Source:
    Protocol spec section 14. Decision D13.
"""

from __future__ import annotations

import re
from dataclasses import replace

from klal.compaction import warnings
from klal.coverage import Coverage, MemberStatus, Missing
from klal.errors import IncompleteError, UsageError
from klal.holding import Extent
from klal.model.certificate import Certificate
from klal.model.codec import HASH_SIZE
from klal.model.frontier import Frontier
from klal.moment import Asked, Moment, Moments
from klal.polling import look_until, look_until_async
from klal.reports import ChangeId, Closed, Holders, LogEntry, Status
from klal.rules.coverage import wanted_count
from klal.snapshots import with_snapshot
from klal.store.store import Store
from klal.survey import Survey

_EPOCH = re.compile(r"epoch:[0-9]{1,10}")
_CHANGE = re.compile(rf"[0-9a-fA-F]{{{2 * HASH_SIZE}}}:[0-9]+")


class Answers:
    """The part of a replica that says how complete it is."""

    _store: Store

    def _survey(self) -> Survey:
        return Survey(self._store)

    def status(self) -> Status:
        """Return where this replica stands, computed from what is stored in the file."""
        with self._store.reading():
            status = self._survey().status()
            status = replace(status, warnings=(*status.warnings, *warnings(self._store)))
            return with_snapshot(self._store, status)

    def coverage(self, moment: Asked | Certificate | None = None, *, epoch: int | None = None) -> Coverage:
        """Return how much of a cut is here: of everything known, an epoch, or a moment.

        Args:
            moment: A frontier, a certificate or what `close_epoch` returned, or whatever else `at`
                takes. None of it need be here.
            epoch: The number of an epoch. Of one that is not complete here, what is certain to lie
                in it is counted, and `certainty` says that its end is not known.

        Raises:
            UsageError: A moment and an epoch; or nothing here is called so.
        """
        with self._store.reading():
            survey = self._survey()
            if epoch is not None and moment is not None:
                raise UsageError("coverage takes a moment or an epoch, not both")
            if isinstance(moment, str) and _EPOCH.fullmatch(moment):
                epoch = int(moment[len("epoch:") :])
            if epoch is not None:
                if not 0 <= epoch < 1 << 31:
                    raise UsageError(f"epoch is {epoch}, want 0 or more")
                return survey.coverage_of_epoch(epoch)
            return survey.coverage(None if moment is None else self._extent(survey, moment))

    def _extent(self, survey: Survey, moment: Asked | Certificate) -> Extent:
        match moment:
            case Frontier():
                return Extent.of(f"frontier {moment.root().hex()[:16]}", moment)
            case Certificate():
                return Extent.of(f"epoch {moment.epoch}", moment.frontier())
            case Closed():
                return Extent.of(f"epoch {moment.epoch}", moment.certificate.frontier())
            case Moment():
                return Extent.of(moment.name, moment.frontier)
            case ChangeId():
                return survey.change_extent(moment)
        if isinstance(moment, str) and _CHANGE.fullmatch(moment):
            return survey.change_extent(ChangeId.parse(moment))
        return survey.extent_of(f"moment {moment}", Moments(self._store).lengths(moment))

    def missing(self) -> list[Missing]:
        """Return what is known of and not here, who owes it and who holds it."""
        return list(self.coverage().missing)

    def members(self) -> list[MemberStatus]:
        """Return the members of the space, by name, with what each is known to hold and owes."""
        with self._store.reading():
            return list(self._survey().status().members)

    def who_has(self, change: ChangeId | str) -> Holders:
        """Return who is known, by signed receipts, to hold a change.

        Raises:
            UsageError: Not a change that is known of here.
        """
        with self._store.reading():
            return self._survey().who_has(ChangeId.parse(change) if isinstance(change, str) else change)

    def stable(self) -> Frontier:
        """Return the frontier that every member is known, by signed receipts, to hold.

        Nothing is in it while nobody else is known, or as long as one member was never heard of.
        """
        with self._store.reading():
            return self._survey().stable_frontier()

    def only_here(self) -> list[LogEntry]:
        """Return the changes of this member's own that no other member is known to hold, oldest first in each log.

        Lose this file, and as far as anybody can know here they are lost.
        """
        with self._store.reading():
            return self._survey().only_here_entries()

    def wait(self, change: ChangeId | str, *, held_by: int | str = "all", timeout: float | None = None) -> Holders:
        """Wait until a change is known to be held by others, and return who holds it.

        Nothing is sent: somebody must sync this file meanwhile, in this process or another. Another
        process is noticed within `klal.polling.POLL_S` seconds.

        Args:
            change: Which change.
            held_by: How many members, this one among them; or "quorum", more than half of them;
                "all"; or "stable", all of them and at least two.
            timeout: Give up after this many seconds; 0 looks once.

        Raises:
            IncompleteError: The time is up; `.missing` names the members not known to hold it.
            UsageError: Not a change that is known of here; inside a transaction.
        """
        self._check_wait(change, held_by)
        last: list[Holders] = []
        found = look_until(self._store, lambda: self._look(change, held_by, last), timeout)
        return self._found(found, last, held_by)

    async def wait_async(
        self,
        change: ChangeId | str,
        *,
        held_by: int | str = "all",
        timeout: float | None = None,  # noqa: ASYNC109 - as `wait` has it
    ) -> Holders:
        """Wait as `wait` does, without holding up the event loop; what this process commits wakes it at once."""
        self._check_wait(change, held_by)
        last: list[Holders] = []
        found = await look_until_async(self._store, lambda: self._look(change, held_by, last), timeout)
        return self._found(found, last, held_by)

    def _check_wait(self, change: ChangeId | str, held_by: int | str) -> None:
        if self._store.in_transaction:
            raise UsageError("wait cannot run inside a transaction, before the change is known to be committed")
        try:
            wanted_count(held_by, 1)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.who_has(change)

    def _look(self, change: ChangeId | str, held_by: int | str, last: list[Holders]) -> Holders | None:
        found = self.who_has(change)
        last[:] = [found]
        return found if found.holder_count >= wanted_count(held_by, found.member_count) else None

    def _found(self, found: Holders | None, last: list[Holders], held_by: int | str) -> Holders:
        if found is not None:
            return found
        holders = last[0] if last else None
        if holders is None:
            raise UsageError("the replica was closed while it waited")
        wanted = wanted_count(held_by, holders.member_count)
        lacking = sorted({*holders.lacking, *holders.unknown})
        raise IncompleteError(
            f"change {holders.change.log_id.hex()[:8]}:{holders.change.seq} is known to be held by"
            f" {holders.holder_count}, want {wanted}; not known of {', '.join(lacking) or 'anybody else'}",
            missing=lacking,
        )
