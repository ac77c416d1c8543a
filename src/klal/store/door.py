"""Who may talk with this file over a network: its members, and whoever one of them invited.

Source:
    Protocol spec section 12, rule ADM-3; section 9, rules MEM-1, MEM-2 and MEM-9.
"""

from __future__ import annotations

from klal.errors import RefusedError
from klal.model.acts import Join
from klal.model.header import ACTS_TABLE
from klal.rules.merge import ChangeRef
from klal.store.store import Store, acts_of


def is_admitted(store: Store, member_id: bytes, join: Join | None) -> bool:
    """True for a member who is not expelled, and for one whose join a known member's invitation covers."""
    with store.reading():
        if store.intake.is_member(member_id):
            gone = store.epochs.gone(member_id)
            return gone is None or gone.kind != "expelled"
        if join is None or join.member != member_id:
            return False
        try:
            join.check(store.space_id)
            store.check_inviter(join)
        except RefusedError:
            return False
        return True


def own_join(store: Store) -> Join | None:
    """Return the join of this file's member, as it lies in its log; None for a founder, or where it is not here."""
    with store.reading():
        row = store.connection.execute(
            "SELECT log_id, seq FROM klal_member WHERE member_id = ?", (store.member_id,)
        ).fetchone()
        log = None if row is None else store.history.by_id.get(row[0])
        if log is None or not log.start <= row[1] < log.length:
            return None
        data = store.history.part(store.history.read(ChangeRef(log.log, row[1])), ACTS_TABLE)
    joins = [act for act in acts_of(data or b"") if isinstance(act, Join) and act.member == store.member_id]
    return joins[0] if joins else None
