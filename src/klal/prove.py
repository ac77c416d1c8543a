"""What a replica can prove to somebody who has nothing but a certificate's hash."""

from __future__ import annotations

from klal.errors import UsageError
from klal.holding import compacted
from klal.model.proof import Proof
from klal.model.schema import Key, Value
from klal.reports import ChangeId
from klal.store.history import lacks_payload
from klal.store.proofs import certified, prove_change, prove_member, prove_named, prove_row
from klal.store.store import Store


class Prover:
    """Makes proofs from one replica's file: `replica.prove`.

    A proof is a small value; `encode()` gives the bytes of its file, and `klal.check_proof` checks them.
    Everywhere `epoch` is that of the certificate that whoever checks will know, by default the newest.

    Raises:
        IncompleteError: From any method, where that epoch is not complete here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def change(self, change: ChangeId | str, *, epoch: int | None = None, with_payload: bool = False) -> Proof:
        """Return the proof that a change is certified, by that epoch or one before it.

        Args:
            change: Which.
            epoch: Under which certificate.
            with_payload: Show its payload too, which may be large.

        Raises:
            UsageError: No such change here.
            IncompleteError: It is in no such cut, or its payload is not here; of a compacted one it says who has it.
        """
        wanted = ChangeId.parse(change) if isinstance(change, str) else change
        with self._store.reading():
            ref = self._store.history.named(wanted.log_id, wanted.seq)
            if ref is None:
                raise UsageError(f"change {wanted} is not here")
            stored = self._store.history.read(ref)
            is_compacted = ref.seq < self._store.history.floor.get(ref.log, 0) and lacks_payload(stored.state)
            if with_payload and is_compacted:
                raise compacted(self._store, f"the payload of change {wanted} lies", {wanted.log_id})
            return prove_change(self._store, ref, epoch, with_payload=with_payload)

    def row(self, table: str, key: Value | Key, *, epoch: int | None = None) -> Proof:
        """Return the proof of what a row was at the close of an epoch, or that there was none with this key.

        The second shows the rows on both sides of where it would stand, with their values.

        Args:
            table: Its name at that time.
            key: The row's key: a value, or a tuple where several columns are the key.
            epoch: Of which close.

        Raises:
            UsageError: No such table then. RefusedError: No key that the table could hold.
            IncompleteError: That close lies below what was compacted here; it says who can answer.
        """
        with self._store.reading():
            number, base = certified(self._store, epoch).epoch, self._store.history.base
            if base is not None and number < base.epoch:
                logs = {log.log_id for log in self._store.history.logs.values()}
                raise compacted(self._store, f"rows at the close of epoch {number} lie", logs)
            return prove_row(self._store, table, key if isinstance(key, tuple) else (key,), epoch)

    def member(self, member: str | bytes, *, epoch: int | None = None) -> Proof:
        """Return the proof that a member was counted.

        Args:
            member: Its name, where one member alone has it, or its id.
            epoch: In which epoch.

        Raises:
            UsageError: No such member, or not counted.
        """
        with self._store.reading():
            return prove_member(self._store, self._member_id(member), epoch)

    def named(self, *, epoch: int | None = None, since: int | None = None) -> Proof:
        """Return the proof of who has signed that they computed a certificate.

        Args:
            epoch: Of the certificate.
            since: Of one before it: the proof then takes a `Spark` from there to `epoch`.

        Raises:
            UsageError: `since` is not before `epoch`.
        """
        with self._store.reading():
            return prove_named(self._store, epoch, since)

    def _member_id(self, member: str | bytes) -> bytes:
        names: dict[bytes, str] = dict(
            self._store.connection.execute("SELECT member_id, name FROM klal_member").fetchall()
        )
        found = [each for each, name in names.items() if member in (name, each, each.hex())]
        if len(found) != 1:
            raise UsageError(f"{len(found)} members here are called {member!r:.80}, want one")
        return found[0]
