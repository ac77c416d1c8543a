"""An epoch of ten thousand members closes: each with its own key, log and change, by the engine itself."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from klal.errors import IncompleteError
from klal.model.certificate import check_certificate
from klal.model.ticket import decode_ticket
from klal.replica import Replica
from klal.rules.merge import ChangeRef
from klal.survey import Survey
from tests.helpers.fleet import Fleet
from tests.helpers.many import TABLE, Many, batches, receipts, take_in, take_receipts

MEMBER_COUNT = 10_000  # Beside the founder.


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet") as made:
        yield made


def crowd(fleet: Fleet, count: int) -> tuple[Replica, Many]:
    """Let everybody's log into the founder's file; only the last has not finished."""
    ana = fleet.found("ana", TABLE)
    many = Many(ana._store, decode_ticket(ana.invite(use_count_max=count)))
    for numbers in batches(count - 1, 1000):
        take_in(ana._store, map(many.newcomer, numbers))
    take_in(ana._store, [many.newcomer(count - 1, is_finished=False)])
    ana._store.apply_ready()
    return ana, many


def waits(replica: Replica) -> set[tuple[str, str]]:
    with pytest.raises(IncompleteError) as caught:
        replica.close_epoch(0)
    return {(each.member_name, each.reason) for each in caught.value.waiting_for}


@pytest.mark.timeout(900)
def test_an_epoch_of_ten_thousand_members_closes(fleet: Fleet, tmp_path: Path) -> None:
    """W25 W22, and with them W10 and W20: one of so many keeps it open and is named, and completes it."""
    ana, many = crowd(fleet, MEMBER_COUNT)
    last = MEMBER_COUNT - 1
    assert ana.query("SELECT count(*) FROM bird") == [(MEMBER_COUNT,)]

    ana.finish()
    assert waits(ana) == {(many.name(last), "not finished")}

    take_in(ana._store, [many.newcomer(last)])
    ana._store.apply_ready()
    complete = ana.close_epoch(0)
    data = complete.certificate.encode()
    certificate = check_certificate(data)
    assert (complete.state, complete.grade) == ("complete", "complete")
    assert certificate == complete.certificate
    assert certificate.body.member_count == MEMBER_COUNT + 1
    assert certificate.body.row_count == MEMBER_COUNT
    assert {witness.member.name for witness in certificate.witness} == {"ana", *map(many.name, range(MEMBER_COUNT))}

    take_receipts(ana._store, receipts(ana._store, many, range(last), certificate.hash))
    assert [each.member_name for each in Survey(ana._store).unnamed(0)] == [many.name(last)]
    assert ana.close_epoch(0).state == "complete"
    take_receipts(ana._store, receipts(ana._store, many, [last], certificate.hash))
    assert ana.close_epoch(0).state == "closed"
    assert fleet.reopen("ana").close_epoch(0).certificate.encode() == data


def test_what_joins_many_heads_is_ordered_by_its_own_past(fleet: Fleet) -> None:
    """ORD-1 W1: a header that joins some of many heads has not seen the others, so their stamps are none of its own."""
    ana, _ = crowd(fleet, 40)
    ana.execute("INSERT INTO bird VALUES('after', 1, NULL)")

    ana.verify()
    ben = fleet.join("ben")
    fleet.meet("ana", "ben")
    stamps = [{log.log_id: log.order_stamp for log in replica._store.history.logs.values()} for replica in (ana, ben)]
    log_id = ana._store.writer.own.log.log_id
    assert stamps[0][log_id] == stamps[1][log_id]


def test_a_statement_is_not_prepared_again_for_another_value(fleet: Fleet) -> None:
    """W25: with a log for each member nearly every value that is bound to a statement is a new one."""
    ana, _ = crowd(fleet, 3)
    history, connection, asked = ana._store.history, ana._store.connection, []
    connection.authorizer = lambda *question: asked.append(question) or apsw.SQLITE_OK
    for log in list(history.logs)[:2]:
        asked.clear()
        history.read(ChangeRef(log, 0))
        list(history.headers(history.logs[log], 0, 1))

    assert asked == []
