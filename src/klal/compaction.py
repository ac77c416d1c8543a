"""Compaction of one file: whether old payloads may be put down here, and putting them down.

Nothing is decided on a receipt alone. The first call asks the others to show that they hold
what would go; the question and the answers travel in receipts, over any carrier. A later call
finds the answers, picks as many keepers as are wanted, and drops.

Law: nothing is dropped here that `keep` other members have not shown to hold and promised to keep.

Source:
    Protocol spec sections 8 and 15, rules CMP-1 to CMP-10 (W14, T19, S58). Decision D17.
"""

from __future__ import annotations

from collections.abc import Callable

from klal.coverage import Waiting
from klal.errors import CopiesError, IncompleteError, ReadOnlyError, UsageError
from klal.model.header import NO_CERTIFICATE
from klal.model.receipt import KEEPER_COUNT_MAX, NONCE_SIZE
from klal.reports import Compacted, Progress
from klal.rules.compaction import Word, bound_to, chosen
from klal.store.apply import Closed
from klal.store.compact import compact_below, give_back, image_of, weigh
from klal.store.store import Store
from klal.survey import Survey


def compact(
    store: Store,
    epoch: int | None,
    keep: int,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    anyway: bool = False,
) -> Compacted:
    """Put down the payloads below a closed epoch, or say why not yet; `Replica.compact` says more."""
    if store.in_transaction:
        raise UsageError("compact cannot run inside a transaction")
    if store.identity is None:
        raise ReadOnlyError(f"{store.path} is read-only here: the key of its member is not at hand")
    if not 1 <= keep <= KEEPER_COUNT_MAX:
        raise UsageError(f"{keep} copies were to be kept, want 1 to {KEEPER_COUNT_MAX}")
    store.seal()
    store.apply_ready()
    size_before = _size(store)
    told = _told(on_progress)
    with store.writing(durable=True):
        store.behind.require_clean()
        closed = _closed(store, epoch)
        base, count, weight = store.history.base, 0, None
        if base is None or base.epoch < closed.cut.epoch:
            told("compact", 0)
            keepers = _keepers(store, closed, keep)
            # Weighed before anybody is asked to read all its payloads, and again when they have.
            image = None if keepers is None and _is_asked(store, closed) else image_of(store, closed)
            weight = None if image is None or anyway else weigh(store, closed, image)
            if weight is not None and not weight.is_gain:
                store.copies.withdraw()
            elif keepers is not None:
                assert image is not None, "made wherever there are keepers"
                weight = None
                count = compact_below(store, closed, keepers, image)
                store.copies.withdraw()
            elif image is not None:
                weight = None
                store.copies.ask(closed.certificate_hash, store.token(NONCE_SIZE))
        base = store.history.base
    store.sign_receipt()
    if weight is not None and not weight.is_gain:
        names = () if base is None else tuple(_names(store, base.keepers))
        return Compacted(closed.cut.epoch, 0, size_before, size_before, names, weight.image_size, weight.gone_size)
    if base is None or base.epoch < closed.cut.epoch:
        raise _not_proven(store, closed, keep)
    give_back(store, lambda: told("free", 0))
    return Compacted(base.epoch, count, size_before, _size(store), tuple(_names(store, base.keepers)))


def _told(on_progress: Callable[[Progress], None] | None) -> Callable[[str, int], None]:
    return lambda phase, done: None if on_progress is None else on_progress(Progress(phase, done, 0))


def _size(store: Store) -> int:
    connection = store.connection
    return int(connection.pragma("page_size")) * int(connection.pragma("page_count"))


def _names(store: Store, member_ids: tuple[bytes, ...]) -> list[str]:
    survey = Survey(store)
    return sorted(survey.name(member_id) for member_id in member_ids)


def _waiting(store: Store, member_ids: set[bytes], reason: str) -> tuple[Waiting, ...]:
    survey = Survey(store)
    found = [Waiting(survey.name(member_id), member_id, reason, 0, ()) for member_id in member_ids]
    return tuple(sorted(found, key=lambda each: (each.member_name, each.member_id)))


def _closed(store: Store, epoch: int | None) -> Closed:
    """Return the epoch asked for, by default the newest that is closed, if all below its cut may be settled (CMP-1).

    Raises:
        IncompleteError: It is not closed, or not stable, or what those who closed it have done since is not all here.
    """
    closed, survey = store.applier.closed, Survey(store)
    ready = [each for each in closed if survey.epoch_state(each.cut.epoch) == "closed"]
    number = epoch if epoch is not None else ready[-1].cut.epoch if ready else max(0, len(closed) - 1)
    found = next((each for each in ready if each.cut.epoch == number), None)
    if found is None:
        waiting = survey.waiting_for(number) or survey.unnamed(number)
        names = ", ".join(f"{each.member_name} ({each.reason})" for each in waiting) or "earlier epochs"
        raise IncompleteError(
            f"epoch {number} is not closed, as far as known here: it waits for {names}",
            waiting_for=waiting,
            epoch=number,
        )
    history, ids = store.history, {log.log: log.log_id for log in store.history.logs.values()}
    others = set(found.cut.counted) - {store.member_id}
    lacking = {
        member_id
        for member_id in others
        if any(survey.claims.get(member_id, {}).get(ids[log], 0) < length for log, length in found.cut.lengths.items())
    }
    if lacking:
        waiting = _waiting(store, lacking, "not known to hold it all")
        names = ", ".join(each.member_name for each in waiting)
        raise IncompleteError(f"epoch {number} is not stable: {names} may lack some of it", waiting_for=waiting)
    for member_id in sorted(others):
        for log_id, length in survey.claims.get(member_id, {}).items():
            log = history.by_id.get(log_id)
            if log is None or log.applied_length < length:
                waiting = _waiting(store, {member_id}, "missing changes")
                raise IncompleteError(
                    f"{waiting[0].member_name} has changes of after epoch {number} that are not applied here",
                    missing=survey.coverage().missing,
                    waiting_for=waiting,
                )
    if any(history.logs[log].payload_length < length for log, length in found.cut.lengths.items()):
        raise IncompleteError(f"payloads of epoch {number} are not here", missing=survey.coverage().missing)
    return found


def _me(store: Store) -> Word:
    own = store.writer.own
    assert own is not None, "a file that is written to has a log"
    return store.copies.own(own.log.log_id, store.member_id)


def _keepers(store: Store, closed: Closed, keep: int) -> tuple[bytes, ...] | None:
    """Return those who shall keep what goes, or None where too few have answered yet (CMP-7).

    Raises:
        CopiesError: Others rely on this copy; or so many copies are not known to exist.
    """
    me, words = _me(store), store.copies.words()
    bound = bound_to(words, me)
    if bound:
        names = ", ".join(_names(store, bound))
        raise CopiesError(
            f"this copy is kept for {names}, so it stays", waiting_for=_waiting(store, set(bound), "kept")
        )
    found = store.copies.answers(me.log_id, me.member_id)
    is_asked = _is_asked(store, closed)
    proven = found.proven if is_asked else ()
    earlier = () if store.history.base is None else store.history.base.keepers
    if len(proven) >= keep:
        return tuple(sorted({*earlier, *chosen(closed.certificate_hash, proven, words, keep)}))
    wrong = set(found.wrong) if is_asked else set()
    possible = set(proven) | (_whole(store, closed) - wrong)
    if len(possible) < keep:
        names = ", ".join(_names(store, tuple(possible))) or "nobody"
        lied = f"; {', '.join(_names(store, tuple(wrong)))} showed no right copy" if wrong else ""
        raise CopiesError(
            f"{keep} other full copies are wanted, and {names} may hold one{lied}",
            waiting_for=_waiting(store, possible - set(proven), "has not shown its copy"),
        )
    return None


def _is_asked(store: Store, closed: Closed) -> bool:
    """True while the question about this cut stands."""
    asked = store.copies.asked()
    return asked is not None and asked.question.certificate == closed.certificate_hash


def _whole(store: Store, closed: Closed) -> set[bytes]:
    """Return the other members who signed for all of the cut, and for having put down nothing."""
    survey = Survey(store)
    ids = {log: store.history.logs[log].log_id for log in closed.cut.lengths}
    compacting = {word.member_id for word in store.copies.words() if word.copy.compacted != NO_CERTIFICATE}
    return {
        member_id
        for member_id, lengths in survey.claims.items()
        if member_id not in compacting | {store.member_id}
        and all(lengths.get(ids[log], 0) >= length for log, length in closed.cut.lengths.items())
    }


def _not_proven(store: Store, closed: Closed, keep: int) -> IncompleteError:
    """Return what is said while answers are awaited."""
    with store.reading():
        me = _me(store)
        found = store.copies.answers(me.log_id, me.member_id)
        silent = _whole(store, closed) - {*found.proven, *found.wrong}
        waiting = _waiting(store, silent, "has not shown its copy") + _waiting(store, set(found.wrong), "wrong answer")
        names = ", ".join(each.member_name for each in waiting)
        return IncompleteError(
            f"{keep} others must show that they hold all up to epoch {closed.cut.epoch},"
            f" and {len(found.proven)} did: {names} did not",
            waiting_for=waiting,
            epoch=closed.cut.epoch,
            hint="sync, let them sync, sync again, and then compact",
        )


def warnings(store: Store) -> list[str]:
    """Return what `status` says of old payloads: what was put down, what waits for it, and who has lied."""
    survey, history = Survey(store), store.history
    found = []
    if history.wanted:
        count = sum(map(len, history.wanted.values()))
        found.append(f"late changes wait for {count} payloads that were compacted here and are wanted again")
    own = store.writer.own
    if own is not None and store.identity is not None:
        wrong = store.copies.answers(own.log.log_id, store.member_id).wrong
        found.extend(
            f"{survey.name(member_id)} signed that it holds all payloads, and could not show it" for member_id in wrong
        )
    return found
