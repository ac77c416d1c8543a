"""Lines over stations in memory: sessions, and offers between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klal.errors import MalformedError, RefusedError
from klal.model.codec import SLICE_SIZE
from klal.sync import line as lines
from klal.sync.line import Journal, Line
from klal.sync.messages import End, Hello, Logs, ReceiptPage, Slices, Turn, decode, encode
from tests.helpers.memory_station import Author, MemoryStation, row_bytes


class Pair:
    """Two ends of one connection; the first dials."""

    def __init__(self, mine: MemoryStation, theirs: MemoryStation) -> None:
        self.stations = (mine, theirs)
        self.journals = (Journal(mine), Journal(theirs))
        self.ends = (Line(mine, self.journals[0], dials=True), Line(theirs, self.journals[1], dials=False))
        self.said: list[tuple[int, str]] = []

    def note(self) -> None:
        for journal in self.journals:
            journal.note()
            journal.note_receipts()

    def talk(self, size: int = 1 << 20) -> list[tuple[int, str]]:
        """Carry frames until neither has anything to say; return who said what."""
        self.said = []
        while any([self._carry(0, size), self._carry(1, size)]):
            pass
        return self.said

    def _carry(self, speaker: int, size: int) -> bool:
        frames = self.ends[speaker].pull(size)
        for frame in frames:
            self.said.append((speaker, type(decode(frame)).__name__))
            self.ends[1 - speaker].hear(frame)
        if frames:
            self.stations[1 - speaker].settle()
            self.ends[1 - speaker].settled()
            self.journals[1 - speaker].note()
        return bool(frames)


def met() -> tuple[Author, Author, Pair]:
    ana, ben = Author("ana"), Author("ben")
    ana.write_many(3)
    ana.seal()
    ben.write_many(2)
    ben.seal()
    pair = Pair(ana.own, ben.own)
    pair.talk()
    return ana, ben, pair


def test_a_line_begins_with_a_session_of_the_side_that_dialed():
    """LIN-1."""
    ana, ben, pair = met()

    assert pair.said[0] == (0, "Hello")
    assert ana.own.roots() == ben.own.roots()
    assert all(end.session_count == 1 and end.is_equal and not end.is_in_session for end in pair.ends)
    assert pair.talk() == []


@pytest.mark.parametrize("writer", [0, 1])
def test_what_either_side_gains_is_offered_in_one_go(writer):
    """LIN-3 W12: the log, the headers, the payloads; and nothing is asked."""
    authors = met()
    pair = authors[2]
    authors[writer].write(b"new", b"small")
    authors[writer].seal()
    pair.note()

    said = pair.talk()

    assert said == [(writer, name) for name in ("Logs", "HeaderPiece", "Slices", "Logs")]
    assert authors[0].own.roots() == authors[1].own.roots()
    assert pair.ends[writer].is_owed
    assert pair.ends[1 - writer].change_count >= 1


def test_an_offer_is_answered_by_a_receipt():
    """LIN-3 LIN-5."""
    ana, ben, pair = met()
    ana.write(b"row")
    ana.seal()
    pair.note()
    pair.talk()
    ben.receipt()
    pair.note()

    assert pair.talk() == [(1, "ReceiptPage")]
    assert not pair.ends[0].is_owed


def test_an_offer_of_large_parts_goes_in_slices_and_one_too_large_by_a_session(monkeypatch):
    """LIN-4."""
    ana, ben, pair = met()
    ana.write(row_bytes("large", 2 * SLICE_SIZE + 9))
    ana.seal()
    pair.note()
    assert {name for _, name in pair.talk()} == {"Logs", "HeaderPiece", "Leaves", "Slices"}
    monkeypatch.setattr(lines, "OFFER_SIZE_MAX", 1000)
    for writer in (0, 1):
        (ana, ben)[writer].write(row_bytes("larger", 2000))
        (ana, ben)[writer].seal()
        pair.note()

        said = pair.talk()

        assert said[:2] == ([(0, "Hello"), (0, "Turn")] if writer == 0 else [(1, "Turn"), (0, "Hello")])
        assert ana.own.roots() == ben.own.roots()


def test_a_line_that_fell_behind_the_journal_has_a_session(monkeypatch):
    """LIN-4: a listener that was too slow costs a position and no more."""
    monkeypatch.setattr(lines, "JOURNAL_SIZE_MAX", 2000)
    ana, ben, pair = met()
    for _ in range(20):
        ben.write(b"row")
        ben.seal()
        pair.note()

    said = pair.talk()

    assert said[0] == (1, "Turn")
    assert ana.own.roots() == ben.own.roots()


def test_what_is_missing_below_an_offer_is_asked_for():
    """LIN-4: the side that was dialed asks for a session where something does not fit."""
    ana, ben, pair = met()
    cleo = Author("cleo")
    cleo.write_many(2)
    cleo.seal()
    pair.journals[0]._lengths[cleo.log_id] = 1  # As if the first change had been offered, and lost.
    for arrival in _arrivals(cleo):
        ana.own.take(arrival)
    pair.note()

    said = pair.talk()

    assert said[0] == (0, "Logs")
    assert (1, "Turn") in said
    assert ana.own.roots() == ben.own.roots()


def _arrivals(author: Author):
    for log in author.own.logs():
        yield from author.own.runs(log.log_id, 0, log.length)
        yield from author.own.payloads(log.log_id, 0, log.length)


def test_news_from_a_third_is_passed_on_and_not_sent_back():
    """W12: a hub in the middle."""
    ana, ben = Author("ana"), Author("ben")
    hub = MemoryStation()
    journal = Journal(hub)
    ends = []
    for author in (ana, ben):
        author.write(b"row")
        author.seal()
        pair = Pair(author.own, hub)
        pair.journals = (pair.journals[0], journal)
        pair.ends = (pair.ends[0], Line(hub, journal, dials=False))
        pair.talk()
        ends.append(pair)
    ends[0].talk()
    ana.write(b"row")
    ana.seal()
    ends[0].note()

    said = ends[0].talk()
    passed_on = ends[1].talk()

    assert all(speaker == 0 for speaker, _ in said)
    assert [name for _, name in passed_on] == ["Logs", "HeaderPiece", "Slices", "Logs"]
    assert ana.own.roots() == ben.own.roots() == hub.roots()


def test_offers_under_way_while_a_session_is_opened_are_taken():
    """LIN-3: the two cross."""
    ana, ben, pair = met()
    ben.write(b"row")
    ben.seal()
    pair.note()
    offer = pair.ends[1].pull(1 << 20)
    pair.ends[0].request_session()
    opening = pair.ends[0].pull(1 << 20)

    for frame in offer:
        pair.ends[0].hear(frame)
    for frame in opening:
        pair.ends[1].hear(frame)
    pair.ends[0].settled()
    pair.talk()

    assert ana.own.roots() == ben.own.roots()
    assert pair.ends[0].session_count == 2


def test_nothing_is_offered_to_a_side_that_does_not_take():
    """LIN-3."""
    ana, ben = Author("ana"), Author("ben")
    ana.write(b"row")
    ana.seal()
    ben.own.takes = False
    pair = Pair(ana.own, ben.own)
    pair.talk()
    ana.write(b"row")
    ana.seal()
    pair.note()

    assert pair.talk() == []


def frame_of(message) -> bytes:
    return encode(message)


H = bytes(32)


@pytest.mark.parametrize(
    ("end", "message", "rule"),
    [
        (0, Hello(1, H, H, H, H, takes=True), "LIN-2"),
        (1, Turn(), "LIN-3"),
        (1, End(H, H, H), "LIN-3"),
        (0, End(H, H, H), "LIN-3"),
    ],
)
def test_what_has_no_place_between_sessions_is_malformed(end, message, rule):
    """LIN-2 LIN-3."""
    pair = met()[2]

    with pytest.raises(MalformedError) as caught:
        pair.ends[end].hear(frame_of(message))
    assert caught.value.rule == rule


@pytest.mark.parametrize("message", [ReceiptPage((), is_last=True), Turn(), Logs((), (), is_last=True)])
def test_nothing_is_heard_before_a_session(message):
    """LIN-1."""
    fresh = Line(MemoryStation(), Journal(MemoryStation()), dials=False)

    with pytest.raises(RefusedError):
        fresh.hear(frame_of(message))


def test_slices_of_a_log_that_was_not_stated_are_malformed():
    """LIN-3."""
    ana, _, pair = met()
    ana.write(b"row")
    ana.seal()
    pair.note()
    frames = pair.ends[0].pull(1 << 20)
    slices = [frame for frame in frames if isinstance(decode(frame), Slices)]

    with pytest.raises(MalformedError) as caught:
        pair.ends[1].hear(slices[0])
    assert caught.value.rule == "LIN-3"


def test_a_frame_in_the_middle_of_a_turn_is_out_of_turn():
    """SYN-4: of a side that is still speaking."""
    ana, ben = Author("ana"), Author("ben")
    for author in (ana, ben):
        author.write_many(5)
        author.seal()
    pair = Pair(ana.own, ben.own)
    for frame in pair.ends[0].pull(1 << 20):
        pair.ends[1].hear(frame)
    pair.ends[1].pull(1)

    with pytest.raises(MalformedError) as caught:
        pair.ends[1].hear(frame_of(Turn()))
    assert caught.value.rule == "SYN-4"


def test_pulled_a_frame_at_a_time_a_line_says_the_same():
    """LIN-1: how much is pulled at once changes nothing."""
    ana, ben = Author("ana"), Author("ben")
    ana.write_many(5)
    ana.write(row_bytes("large", 2 * SLICE_SIZE + 9), b"small")
    ana.seal()
    ana.receipt()
    ben.write_many(3)
    ben.receipt()
    pair = Pair(ana.own, ben.own)

    pair.talk(size=1)

    assert ana.own.roots() == ben.own.roots()
    assert all(end.session_count == 1 for end in pair.ends)


@given(st.data())
def test_any_frames_are_refused_or_taken(data):
    """LIN-3 T1 T29: between sessions, in any order, mangled anywhere."""
    ana, _, pair = met()
    cleo = Author("cleo")
    cleo.write(b"one")
    cleo.seal()
    cleo.receipt()
    ana.write(b"two")
    ana.seal()
    ana.receipt()
    frames = list(_offer(cleo)) + list(_offer(ana)) + [frame_of(Turn()), frame_of(End(H, H, H))]
    for _ in range(data.draw(st.integers(1, 8))):
        frame = bytearray(data.draw(st.sampled_from(frames)))
        if data.draw(st.booleans()):
            frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        try:
            pair.ends[1].hear(bytes(frame))
        except RefusedError:
            return
    pair.ends[1].settled()


def _offer(author: Author):
    empty = Journal(MemoryStation())
    empty._station = author.own
    empty.note()
    empty.note_receipts()
    for gain in empty.since(0):
        yield from gain.frames
