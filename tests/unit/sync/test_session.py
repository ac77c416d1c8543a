"""Sessions and the drive, over stations in memory."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError, RefusedError, TransportError
from klal.model.codec import SLICE_SIZE
from klal.sync import messages, session
from klal.sync.drive import drive
from klal.sync.messages import End, HeaderPiece, Hello, Leaves, Logs, SliceLine, Slices, Turn, decode, encode
from klal.sync.session import Ended, Session
from klal.sync.station import PartLeaves, PartSlice, Run
from tests.helpers.memory_station import (
    OTHER_TABLE,
    SPACE,
    TABLE,
    Author,
    MemoryStation,
    row_bytes,
    stated,
    station_with,
)


def small_fleet() -> tuple[Author, Author]:
    ana, ben = Author("ana"), Author("ben")
    ana.write_many(5)
    ana.write(row_bytes("large", 2 * SLICE_SIZE + 9), b"small")
    ana.write()
    ana.seal()
    ana.receipt()
    ben.write_many(3)
    ben.receipt()
    return ana, ben


def frames_between(mine: MemoryStation, theirs: MemoryStation) -> list[tuple[bool, bytes]]:
    """Return every frame of a whole session, with whether `mine` sent it."""
    sides = {True: (mine, Session(mine)), False: (theirs, Session(theirs))}
    frames: list[tuple[bool, bytes]] = []
    is_mine = True
    while not sides[True][1].is_over:
        for frame in sides[is_mine][1].turn():
            frames.append((is_mine, frame))
            station, listener = sides[not is_mine]
            for event in listener.receive(frame):
                if not isinstance(event, Ended):
                    station.take(event)
        is_mine = not is_mine
    return frames


def test_two_stations_end_equal():
    ana, ben = small_fleet()

    outcome = drive(ana.own, ben.own)

    assert outcome.equal
    assert outcome.is_finished
    assert ana.own.roots() == ben.own.roots() == outcome.roots
    assert (outcome.sent.change_count, outcome.sent.payload_count) == (7, 6)
    assert (outcome.received.change_count, outcome.received.payload_count) == (3, 3)
    assert outcome.refused == ()


def test_equal_roots_end_at_once():
    """SYN-7: HELLO TURN, HELLO END, END."""
    ana, ben = small_fleet()
    drive(ana.own, ben.own)

    frames = frames_between(ana.own, ben.own)

    assert [type(decode(frame)).__name__ for _, frame in frames] == ["Hello", "Turn", "Hello", "End", "End"]
    assert drive(ana.own, ben.own).equal


def test_nothing_is_sent_to_a_side_that_does_not_take():
    ana, ben = small_fleet()
    source = station_with(ana)
    source.takes = False

    outcome = drive(ben.own, source)

    assert outcome.is_finished
    assert not outcome.equal
    assert outcome.received.change_count == 7
    assert outcome.sent.change_count == 0
    sent = [type(decode(frame)) for is_mine, frame in frames_between(MemoryStation(), source) if is_mine]
    assert Logs not in sent
    assert messages.ReceiptPage not in sent


def test_a_source_may_open_the_session():
    ana, _ = small_fleet()
    source = station_with(ana)
    source.takes = False
    newcomer = MemoryStation()

    assert drive(source, newcomer).equal
    assert newcomer.roots() == source.roots()


def test_two_sources_have_nothing_to_say():
    ana, ben = small_fleet()
    ana.own.takes = ben.own.takes = False

    outcome = drive(ana.own, ben.own)

    assert outcome.is_finished
    assert not outcome.equal


def test_logs_arrive_in_the_senders_order():
    """An inviter's log comes before those it invited, or admission would have to wait."""
    authors = [Author(name) for name in "fbeadc"]
    for author in authors:
        author.write_many(2)
    newcomer = MemoryStation()

    drive(newcomer, station_with(*authors))

    assert list(newcomer.held) == [author.log_id for author in authors]


def test_receipts_of_this_session_travel_in_it():
    """A receipt made by settling what arrived goes out in the same session."""
    ana, ben = small_fleet()
    settle = ben.own.settle

    def settle_and_sign() -> None:
        settle()
        ben.receipt()

    ben.own.settle = settle_and_sign

    drive(ana.own, ben.own)

    heads = {head.log_id for head in ana.own.newest[ben.log_id].statement.heads}
    assert ana.log_id in heads


@given(cuts=st.lists(st.integers(1, 900_000), max_size=6))
def test_a_session_cut_anywhere_is_resumed_by_beginning_again(cuts):
    """SYN-8, T10: whatever arrived whole is kept, and is not sent again for ever."""
    ana, ben = small_fleet()
    for cut in cuts:
        drive(ana.own, ben.own, byte_count_max=cut)

    outcome = drive(ben.own, ana.own)

    assert outcome.equal
    assert ana.own.roots() == ben.own.roots()


def test_a_session_cut_after_each_frame_always_moves_on():
    """Every cut session brings the two nearer: a part of several slices is resumed at its slice."""
    ana, ben = small_fleet()
    frames = frames_between(station_with(ana), station_with(ben))
    for count in range(1, len(frames) + 1):
        mine, theirs = station_with(ana), station_with(ben)
        drive(mine, theirs, byte_count_max=sum(len(frame) for _, frame in frames[:count]))
        before = len(theirs.taken)
        outcome = drive(mine, theirs)

        assert outcome.equal
        slices = [(a.log_id, a.seq, a.table_id, a.index) for a in theirs.taken if isinstance(a, PartSlice)]
        assert len(slices) == len(set(slices))
        assert len(theirs.taken) >= before


def test_small_changes_share_frames():
    """20,000 single-row changes must not cost a frame each."""
    ana = Author("ana")
    ana.write_many(20_000, size=60)
    newcomer = MemoryStation()

    outcome = drive(newcomer, ana.own)

    own_size = sum(len(data) for data in ana.own.held[ana.log_id].data) + 20_000 * 60
    assert outcome.equal
    assert outcome.received.byte_count < 1.08 * own_size


def test_more_gaps_than_one_want_holds_take_more_turns(monkeypatch):
    """SYN-9: a limit is never an end."""
    monkeypatch.setattr(session, "WANT_COUNT_MAX", 3)
    monkeypatch.setattr(session, "LOG_PAGE_COUNT_MAX", 2)
    authors = [Author(f"member {number}") for number in range(8)]
    for author in authors:
        author.write_many(6)
        author.receipt()
    full = station_with(*authors)
    newcomer = MemoryStation()
    drive(newcomer, full)
    for log in newcomer.held.values():
        for seq in (0, 2, 4):
            del log.parts[seq, TABLE]

    assert drive(newcomer, full).equal
    assert newcomer.roots() == full.roots()


def test_what_lies_behind_the_same_gap_on_both_sides_is_exchanged():
    """Equal held roots say nothing about what lies beyond a gap."""
    ana = Author("ana")
    ana.write_many(6)
    mine, theirs = station_with(ana), station_with(ana)
    for station, lost in ((mine, (1, 3)), (theirs, (1, 4))):
        for seq in lost:
            del station.held[ana.log_id].parts[seq, TABLE]
    assert mine.roots() == theirs.roots()

    outcome = drive(mine, theirs)

    assert outcome.is_finished
    assert (
        mine.payload_gaps(stated(mine, ana.log_id)) == theirs.payload_gaps(stated(theirs, ana.log_id)) == [range(1, 2)]
    )


def test_a_want_without_an_answer_is_not_repeated():
    """SYN-9, T29: progress is required each round."""
    ana = Author("ana")
    ana.write_many(3)
    lacking = station_with(ana)
    lacking.held[ana.log_id].parts.clear()
    asked = [decode(frame) for is_mine, frame in frames_between(MemoryStation(), lacking) if is_mine]

    assert sum(isinstance(message, messages.WantPayloads) for message in asked) == 1


def test_what_waited_for_something_else_is_asked_for_again():
    """A log that could not be admitted yet is asked for once more when something has moved."""
    ana, ben = Author("ana"), Author("ben")
    ben.write_many(2)
    ana.write_many(2)
    full = station_with(ben, ana)
    newcomer = MemoryStation()
    take = newcomer.take

    def take_if_invited(arrival):
        is_invited = ana.log_id in newcomer.held and newcomer.held[ana.log_id].payload_length == 2
        if not isinstance(arrival, Run) or arrival.log_id == ana.log_id or is_invited:
            take(arrival)

    newcomer.take = take_if_invited

    assert drive(newcomer, full).equal
    assert newcomer.roots() == full.roots()


def test_one_refused_log_does_not_stop_the_others():
    """T1: one bad entry never stops a session."""
    ana, ben = small_fleet()
    full = station_with(ana, ben)
    log = full.held[ana.log_id]
    log.data[2] = log.data[2][:-1] + bytes([log.data[2][-1] ^ 1])
    newcomer = MemoryStation()

    outcome = drive(newcomer, full)

    assert outcome.is_finished
    assert not outcome.equal
    assert len(outcome.refused) == 1
    assert newcomer.held.keys() == {ben.log_id}
    assert newcomer.held[ben.log_id].payload_length == 3


def test_one_refused_payload_does_not_stop_its_log():
    """T22: every payload is judged against its own header."""
    ana = Author("ana")
    ana.write_many(5)
    full = station_with(ana)
    full.held[ana.log_id].parts[2, TABLE].slices[0] = bytes(40)
    newcomer = MemoryStation()

    outcome = drive(newcomer, full)

    assert len(outcome.refused) == 1
    assert not outcome.equal
    assert newcomer.payload_gaps(stated(newcomer, ana.log_id)) == [range(2, 3)]
    assert outcome.received.payload_count == 4


def test_one_bad_receipt_does_not_take_the_others_with_it():
    """T19."""
    ana, ben = small_fleet()
    full = station_with(ana, ben)
    receipt = full.newest[ana.log_id]
    full.newest[ana.log_id] = type(receipt)(receipt.body, bytes(64), receipt.statement)
    newcomer = MemoryStation()

    outcome = drive(newcomer, full)

    assert len(outcome.refused) == 1
    assert newcomer.newest.keys() == {ben.log_id}


def forked(*lengths: int, shared: int = 0, after: int = 0) -> list[Author]:
    """Return one member on several machines, whose logs part after `shared` changes; then `after` more each."""
    authors = [Author("ana") for _ in lengths]
    for number, (author, length) in enumerate(zip(authors, lengths, strict=True)):
        if shared:
            author.write_many(shared, size=8)
        for seq in range(length):
            author.write(row_bytes("branch", number, seq, 30 + number))
        author.seal()
        if after:
            author.write_many(after, size=50 + number)
    return authors


@pytest.mark.parametrize("shared", [0, 1, 3, 1500])
@pytest.mark.parametrize("lengths", [(3, 3), (2, 5), (5, 2), (1030, 2), (2, 2100)])
def test_two_branches_of_one_log_are_exchanged_and_both_sides_are_equal(shared, lengths):
    """LOG-4 LOG-7 SYN-10 T15 S41: equal counters over different content are never equal, and both contents are kept."""
    mine, theirs = forked(*lengths, shared=shared)

    outcome = drive(mine.own, theirs.own)

    assert outcome.is_finished
    assert outcome.equal
    assert not outcome.refused
    assert mine.own.roots() == theirs.own.roots()
    assert {len(log.headers) for log in mine.own.held.values()} == {shared + length for length in lengths}
    assert all(log.payload_length == len(log.headers) for log in mine.own.held.values())
    again = drive(mine.own, theirs.own)
    assert (again.sent.change_count, again.received.change_count) == (0, 0)


def test_a_newcomer_gets_every_branch_and_what_they_share_once():
    one, two = forked(4, 6, shared=40)
    three = forked(4, 6, 2, shared=40)[2]
    for other in (two, three):
        drive(one.own, other.own)
    newcomer = MemoryStation(SPACE)

    outcome = drive(newcomer, one.own)

    assert outcome.equal
    assert newcomer.roots() == one.own.roots()
    pieces = [arrival for arrival in newcomer.taken if isinstance(arrival, PartSlice)]
    assert len(pieces) == 40 + 4 + 6 + 2


def test_a_branch_that_is_cut_goes_on():
    """SYN-8."""
    for size in range(200, 4000, 300):
        mine, theirs = forked(4, 6, shared=5)
        drive(mine.own, theirs.own, byte_count_max=size)
        outcome = drive(mine.own, theirs.own)

        assert outcome.equal
        assert mine.own.roots() == theirs.own.roots()


def test_another_space_is_refused():
    """SYN-5, T12."""
    ana = Author("ana")
    ana.write_many(1)

    with pytest.raises(RefusedError) as caught:
        drive(ana.own, MemoryStation(bytes(32)))
    assert caught.value.rule == "SYN-5"


def test_a_wire_that_fails_leaves_what_arrived():
    ana = Author("ana")
    ana.write_many(2000)
    newcomer = MemoryStation()
    payloads = ana.own.payloads

    def payloads_until_unplugged(*span: object) -> Iterator[PartLeaves | PartSlice]:
        for piece in payloads(*span):
            if piece.seq == 1900:
                raise TransportError("stick was pulled out")
            yield piece

    ana.own.payloads = payloads_until_unplugged
    with pytest.raises(TransportError):
        drive(newcomer, ana.own)
    ana.own.payloads = payloads

    assert len(newcomer.held[ana.log_id].headers) == 2000
    assert newcomer.settle_count
    assert drive(newcomer, ana.own).equal


def test_progress_reaches_its_total():
    ana, ben = small_fleet()
    told: list[tuple[str, int, int]] = []

    drive(ana.own, ben.own, on_progress=lambda *now: told.append(now))

    last = {phase: (done, total) for phase, done, total in told}
    assert last["headers"] == (10, 10)
    # One change writes nothing and has no payload to wait for.
    assert last["payloads"][0] == last["payloads"][1] == 9
    assert all(done <= total for _, done, total in told)


def meet(station: MemoryStation, other: MemoryStation) -> tuple[Session, list[bytes]]:
    """Return a session that has asked for payloads, and the frames that would answer it."""
    mine, theirs = Session(station), Session(other)
    while True:
        for frame in mine.turn():
            theirs.receive(frame)
            asked = isinstance(decode(frame), messages.WantPayloads)
            if asked:
                break
        else:
            for frame in theirs.turn():
                for event in mine.receive(frame):
                    station.take(event)
            continue
        # The want is heard; let both finish the turn.
        theirs.receive(encode(Turn()))
        return mine, list(theirs.turn())


def asked_for_payloads() -> tuple[Author, Session, list[bytes]]:
    ana = Author("ana")
    ana.write_many(4)
    station = MemoryStation()
    mine, frames = meet(station, ana.own)
    return ana, mine, frames


def test_a_payload_nobody_asked_for_is_refused():
    """SYN-6."""
    ana, mine, _ = asked_for_payloads()
    other = Author("ben")

    for message in (
        Slices(other.log_id, (TABLE,), (SliceLine(0, 0, 0, b"x"),)),
        Slices(ana.log_id, (TABLE,), (SliceLine(4, 0, 0, b"x"),)),
        Slices(ana.log_id, (TABLE,), (SliceLine(1, 0, 0, b"x"), SliceLine(1, 0, 0, b"x"))),
        Slices(ana.log_id, (TABLE,), (SliceLine(2, 0, 0, b"x"), SliceLine(1, 0, 0, b"x"))),
        Leaves(ana.log_id, 9, TABLE, (bytes(32), bytes(32))),
        HeaderPiece(ana.log_id, 4, (b"header",), b""),
    ):
        with pytest.raises(RefusedError) as caught:
            mine.receive(encode(message))
        assert caught.value.rule == "SYN-6"


def test_a_repeated_frame_is_refused_and_changes_nothing():
    """SYN-6, T10: an answer comes once."""
    ana, mine, frames = asked_for_payloads()
    arrivals = mine.receive(frames[0])

    with pytest.raises(RefusedError):
        mine.receive(frames[0])
    assert [arrival.seq for arrival in arrivals] == [0, 1, 2, 3]
    assert mine.receive(frames[1]) == []
    assert mine.is_my_turn
    assert ana.length == 4


def test_a_refused_log_is_passed_over_in_silence():
    ana, mine, frames = asked_for_payloads()
    mine.refuse(ana.log_id, 1)

    assert [arrival.seq for arrival in mine.receive(frames[0])] == [0, 2, 3]

    ana, mine, frames = asked_for_payloads()
    mine.refuse(ana.log_id)

    assert mine.receive(frames[0]) == []


def test_a_message_out_of_order_is_malformed():
    """SYN-4."""
    ana, ben = small_fleet()
    mine = Session(ana.own)
    for message in (Turn(), End(*[bytes(32)] * 3), Logs((), (), is_last=True)):
        with pytest.raises(MalformedError) as caught:
            mine.receive(encode(message))
        assert caught.value.rule == "SYN-4"
    frames = list(mine.turn())
    theirs = Session(ben.own)
    for frame in frames:
        theirs.receive(frame)

    for message in (Turn(), Logs((), (), is_last=True), decode(frames[0])):
        with pytest.raises(MalformedError) as caught:
            theirs.receive(encode(message))
        assert caught.value.rule == "SYN-4"


def test_a_newer_protocol_is_refused_by_name():
    """SYN-4, T11."""
    ana, _ = small_fleet()
    space = ana.own.space_id

    with pytest.raises(MalformedError, match="protocol version is 2, want 1"):
        Session(ana.own).receive(encode(Hello(2, space, *[bytes(32)] * 3, takes=True)))


def test_a_want_beyond_what_was_stated_is_refused():
    """SYN-6, T29."""
    ana, ben = small_fleet()
    mine, theirs = Session(ana.own), Session(ben.own)
    for frame in mine.turn():
        theirs.receive(frame)
    list(theirs.turn())
    span = messages.Span

    for message in (
        messages.WantHeaders((span(ben.log_id, 0, 2),)),
        messages.WantHeaders((span(ben.log_id, 0, 4),)),
        messages.WantHeaders((span(ana.log_id, 0, 7),)),
        messages.WantPayloads((span(ben.log_id, 0, 4),), ()),
    ):
        with pytest.raises(RefusedError) as caught:
            theirs.receive(encode(message))
        assert caught.value.rule == "SYN-6"
    for message in (
        messages.WantHeaders((span(ben.log_id, 0, 3), span(ben.log_id, 1, 3))),
        messages.WantPayloads((span(ben.log_id, 0, 2), span(ben.log_id, 1, 3)), ()),
    ):
        with pytest.raises(MalformedError):
            theirs.receive(encode(message))


def replay(frames: list[bytes], station: MemoryStation, own_turns: int) -> None:
    """Feed frames of one side to a fresh session that opened; nothing but RefusedError may come out."""
    mine = Session(station)
    list(mine.turn())
    for frame in frames:
        try:
            events = mine.receive(frame)
        except RefusedError:
            continue
        for event in events:
            if not isinstance(event, Ended):
                try:
                    station.take(event)
                except RefusedError:
                    continue
        if mine.is_my_turn and not mine.is_over and own_turns:
            own_turns -= 1
            list(mine.turn())


@pytest.fixture(scope="module")
def answers() -> tuple[Author, list[bytes]]:
    ana = Author("ana")
    ana.write_many(2, size=10)
    ana.write(b"one", b"two", tables=(TABLE, OTHER_TABLE))
    ana.seal()
    ana.receipt()
    return ana, [frame for is_mine, frame in frames_between(MemoryStation(), ana.own) if not is_mine]


def test_frames_mangled_at_every_byte_are_refused(answers):
    """T1, T4, SYN-1 to SYN-6: anything but RefusedError out of a door is our bug."""
    _, frames = answers
    for which, frame in enumerate(frames):
        for at in range(len(frame)):
            mangled = frame[:at] + bytes([frame[at] ^ (1 << at % 8)]) + frame[at + 1 :]
            replay([*frames[:which], mangled, *frames[which + 1 :]], MemoryStation(), 9)


def test_frames_cut_at_every_byte_are_refused(answers):
    """T1."""
    _, frames = answers
    for which, frame in enumerate(frames):
        for size in range(len(frame)):
            replay([*frames[:which], frame[:size], *frames[which + 1 :]], MemoryStation(), 9)


@given(order=st.lists(st.integers(0, 20), max_size=30))
def test_frames_in_any_order_any_number_of_times_are_refused_or_harmless(order, answers):
    """T10."""
    ana, frames = answers
    station = MemoryStation()
    replay([frames[number % len(frames)] for number in order], station, 9)

    for log_id, log in station.held.items():
        assert log.data == ana.own.held[log_id].data[: len(log.data)]


@given(data=st.binary(max_size=300), kind=st.integers(0, 12))
def test_any_frame_is_refused_or_harmless(data, kind):
    """T1, T2."""
    ana, _ = small_fleet()
    frame = struct.pack(">IB", 1 + len(data), kind) + data
    replay([frame], ana.own, 1)


def test_a_side_that_never_stops_talking_is_refused(monkeypatch):
    """SYN-4, T29."""
    monkeypatch.setattr(session, "TURN_COUNT_MAX", 1)
    ana, ben = small_fleet()

    outcome = drive(ana.own, ben.own)

    assert not outcome.is_finished
    assert not outcome.equal


def test_a_station_that_answers_with_something_else_is_refused():
    """SYN-6: a run of another log than the one asked for."""
    ana, ben = Author("ana"), Author("ben")
    ana.write_many(2)
    ben.write_many(2)
    liar = station_with(ana, ben)
    runs = liar.runs
    liar.runs = lambda log_id, start, stop: runs(ana.log_id, start, stop)
    newcomer = MemoryStation()

    outcome = drive(newcomer, liar)

    assert newcomer.held.keys() == {ana.log_id}
    assert not outcome.equal
    assert len(outcome.refused) >= 1
