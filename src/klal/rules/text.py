"""Texts that several people write at once, merged by the loro library and by nothing of our own.

An UPDATE carries edits, each (position, characters deleted, text inserted), against the
text as its writer had it, and no bytes of the library's. Whoever applies it makes the
same operations from them, at the same version, under the same ids. So what a foreign
writer says is small, readable, and cannot be malformed for the library: an edit that
reaches beyond the end is cut there, and nobody can speak under another's id, or of
operations that it had not seen.

What is kept is kept only for texts that were edited: the text of an INSERT alone is its
own document, whose operations follow from the text itself. So two who insert the same
text apart have inserted one, and of two that differ both stand, one after the other.

Law: the document is a function of the set of puts, whatever the order (S30, S35).

Source:
    Protocol spec section 10, rule TYP-4. Decision 0025.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from klal.errors import DamagedError, MalformedError
from klal.model.codec import pack, tagged_hash, unpack
from klal.model.schema import Value

if TYPE_CHECKING:
    import loro

EDITS_SIZE_MAX = 1 << 26  # Bytes of one put's edits; more than anybody types, less than a segment.
_DIFF_LENGTH_MAX = 20_000  # Characters; beyond this a minimal diff costs seconds, and the stretch is replaced.
_NAME = "t"
_SLOT_COUNT = 256
_ANYBODY = -1
_HINT = "bring this replica back from any whole one"


class Edit(NamedTuple):
    """One edit, in characters (code points); each is against the text that the one before it left."""

    position: int
    deleted: int
    inserted: str


class Put(NamedTuple):
    """Which change made a put: its log, as the file counts them, and the number in it."""

    log: int
    seq: int


class Document(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A text that was edited, with all of its life's history.

    Shape:
        snapshot: the library's document.
        peers: identity of an edit or of an inserted text -> the number it goes by in the document.
        bases: the texts that the life's INSERTs began it with: (log, seq, identity of the text);
            log is -1 where there is only one, whoever made it.
        ends: log -> (seq, identity of the put's edits, how many operations they are), ascending.
    """

    snapshot: bytes
    peers: dict[bytes, int]
    bases: list[tuple[int, int, bytes]]
    ends: dict[int, list[tuple[int, bytes, int]]]

    def encode(self) -> bytes:
        """Return the bytes that are kept in the file."""
        return pack(self)


def decode_document(data: bytes) -> Document:
    """Return the document that was kept as these bytes.

    Raises:
        DamagedError: They are not what klal keeps.
    """
    try:
        return msgspec.msgpack.decode(data, type=Document)
    except msgspec.DecodeError as error:
        raise DamagedError("the document of a text cannot be read", hint=_HINT) from error


# -- edits ---------------------------------------------------------------------------------


def encode_edits(edits: Iterable[Edit]) -> bytes:
    """Return the value that an UPDATE of a text carries."""
    return pack(list(edits))


def decode_edits(value: Value) -> list[Edit]:
    """Return the edits that an UPDATE of a text carries.

    Raises:
        MalformedError: TYP-4. By itself alone: whether they fit is not asked, they are made to.
    """
    if not isinstance(value, bytes):
        raise MalformedError(f"edits of a text are {type(value).__name__}, want bytes", rule="TYP-4")
    edits = unpack(value, list[Edit], "edits of a text", EDITS_SIZE_MAX)
    if any(edit.position < 0 or edit.deleted < 0 or not (edit.deleted or edit.inserted) for edit in edits):
        raise MalformedError("an edit of a text goes nowhere", rule="TYP-4")
    return edits


def edits_between(old: str, new: str) -> list[Edit]:
    """Return edits that make `new` of `old`, few and small, as the library's own diff finds them."""
    start = 0
    shorter = min(len(old), len(new))
    while start < shorter and old[start] == new[start]:
        start += 1
    end = 0
    while end < shorter - start and old[-1 - end] == new[-1 - end]:
        end += 1
    was, now = old[start : len(old) - end], new[start : len(new) - end]
    if not was and not now:
        return []
    if not was or not now or len(was) + len(now) > _DIFF_LENGTH_MAX:
        return [Edit(start, len(was), now)]
    return [Edit(start + edit.position, edit.deleted, edit.inserted) for edit in _diff(was, now)]


def _diff(old: str, new: str) -> list[Edit]:
    import loro  # noqa: PLC0415 - a file without such columns does not pay for the library

    document = _new()
    text = document.get_text(_NAME)
    text.insert(0, old)
    document.commit()
    before = document.oplog_frontiers
    text.update(new)
    document.commit()
    edits: list[Edit] = []
    position = 0
    for _, diff in document.diff(before, document.oplog_frontiers).get_diff():
        assert isinstance(diff, loro.Diff.Text), "the document holds one text"
        for step in diff.diff:
            match step:
                case loro.TextDelta.Retain():
                    position += step.retain
                case loro.TextDelta.Delete():
                    edits.append(Edit(position, step.delete, ""))
                case loro.TextDelta.Insert():
                    edits.append(Edit(position, 0, step.insert))
                    position += len(step.insert)
    return edits


def edits_text(value: Value) -> str:
    """Return edits as a person reads them: `+"put in" -3`."""
    spelled = []
    for edit in decode_edits(value):
        spelled.extend([f"-{edit.deleted}"] if edit.deleted else [])
        spelled.extend([f'+"{edit.inserted}"'] if edit.inserted else [])
    return " ".join(spelled)


# -- documents -----------------------------------------------------------------------------


def begun(text: str) -> Document:
    """Return the document of a text that one INSERT, or several alike, began a life with."""
    identity = _identity(text)
    document = Document(b"", {}, [(_ANYBODY, 0, identity)], {})
    whole = _new()
    document.snapshot = _write_base(document, whole, text, identity)
    return document


def with_bases(document: Document, text: str, bases: Mapping[Put, str]) -> Document:
    """Return the document once one more INSERT of its life has come, from those that knew nothing of each other.

    Args:
        text: What the new one states.
        bases: What every INSERT that begins the life states, the new one among them.
    """
    changed = _copy(document)
    identity = _identity(text)
    is_known = any(base[2] == identity for base in document.bases)
    changed.bases = sorted((put.log, put.seq, _identity(base)) for put, base in bases.items())
    if not is_known:
        changed.snapshot = _write_base(changed, _load(document.snapshot), text, identity)
    return changed


def edited(document: Document, edits: list[Edit], put: Put, log_id: bytes, unseen: Collection[Put]) -> Document:
    """Return the document after a put's edits, made against what its writer had seen.

    They go by what they are, where, and upon what: of a log that forked, two puts bear one
    number, and replicas that met them in another order must still tell them apart alike.

    Args:
        log_id: The log that the put's change was signed for.
        unseen: Puts of this life that the writer had not seen.
    """
    import loro  # noqa: PLC0415 - as above

    changed = _copy(document)
    whole = _load(document.snapshot)
    identity = _edits_identity(document, edits, put, log_id, unseen)
    if identity not in changed.peers:
        seen = _version(document, unseen)
        place = whole.fork_at(whole.vv_to_frontiers(seen)) if unseen else whole
        changed.peers[identity] = place.peer_id = _peer(identity, changed.peers)
        _make(place.get_text(_NAME), edits)
        place.commit()
        if place is not whole:
            whole.import_(place.export(loro.ExportMode.Updates(seen)))
        changed.snapshot = whole.export(loro.ExportMode.Snapshot())
    end = whole.oplog_vv.get_last(changed.peers[identity])
    changed.ends[put.log] = [*document.ends.get(put.log, ()), (put.seq, identity, 0 if end is None else end + 1)]
    return changed


def text_of(document: Document) -> str:
    """Return what the column shows."""
    return _load(document.snapshot).get_text(_NAME).to_string()


def told_by(document: Document) -> tuple[object, ...]:
    """Return what two replicas with the same puts have alike; the library's own bytes may differ."""
    return text_of(document), document.bases, sorted(document.ends.items())


def _make(text: loro.LoroText, edits: list[Edit]) -> None:
    for edit in edits:
        length = text.len_unicode
        position = min(edit.position, length)
        deleted = min(edit.deleted, length - position)
        if deleted:
            text.delete(position, deleted)
        if edit.inserted:
            text.insert(position, edit.inserted)


def _version(document: Document, unseen: Collection[Put]) -> loro.VersionVector:
    """Return the version that holds all puts of the document but these."""
    import loro  # noqa: PLC0415 - as above

    seen = loro.VersionVector()  # type: ignore[no-untyped-call] # the stub of its __new__ is bare
    whole = _load(document.snapshot).oplog_vv
    for log, seq, identity in document.bases:
        end = whole.get_last(document.peers[identity]) if identity in document.peers else None
        if end is not None and Put(log, seq) not in unseen:
            seen.set_last(loro.ID(document.peers[identity], end))
    for log, ends in document.ends.items():
        for seq, identity, end in ends:
            if end and Put(log, seq) not in unseen:
                seen.set_end(loro.ID(document.peers[identity], end))
    return seen


def _edits_identity(document: Document, edits: list[Edit], put: Put, log_id: bytes, unseen: Collection[Put]) -> bytes:
    """Return what a put's edits go by (TYP-4)."""
    seen = {identity for log, seq, identity in document.bases if Put(log, seq) not in unseen}
    seen.update(
        identity for log, ends in document.ends.items() for seq, identity, _ in ends if Put(log, seq) not in unseen
    )
    upon = tagged_hash("klal/texts/1", *sorted(seen))
    return tagged_hash("klal/edits/1", log_id, put.seq.to_bytes(8, "big"), upon, encode_edits(edits))


def _write_base(document: Document, whole: loro.LoroDoc, text: str, identity: bytes) -> bytes:
    """Write an inserted text into the document, as one that has seen nothing, and return the snapshot."""
    import loro  # noqa: PLC0415 - as above

    base = _new()
    base.peer_id = peer = _peer(identity, document.peers)
    document.peers[identity] = peer
    base.get_text(_NAME).insert(0, text)
    base.commit()
    whole.import_(base.export(loro.ExportMode.Snapshot()))
    return whole.export(loro.ExportMode.Snapshot())


def _identity(text: str) -> bytes:
    return tagged_hash("klal/text/1", text.encode())


def _peer(identity: bytes, peers: Mapping[bytes, int]) -> int:
    """Return the 64-bit number that 32 bytes go by in a document.

    The library knows peers by 64 bits, so few that whoever wants to finds two alike in an
    hour. All that shows of a peer's number is whether it is smaller or greater than
    another's. So it begins with the first 7 bytes, and the last makes room between those
    that begin alike: they stand in the order of their identities wherever they met.
    """
    if identity in peers:
        return peers[identity]
    low = int.from_bytes(identity[:7], "big") * _SLOT_COUNT
    high = low + _SLOT_COUNT
    for other, peer in peers.items():
        if peer // _SLOT_COUNT == int.from_bytes(identity[:7], "big"):
            low, high = (max(low, peer), high) if other < identity else (low, min(high, peer))
    if high - low < 2:
        raise MalformedError("too many edits of one text begin alike", rule="TYP-4")
    return (low + high) // 2


def _new() -> loro.LoroDoc:
    import loro  # noqa: PLC0415 - as above

    return loro.LoroDoc()  # type: ignore[no-untyped-call] # the stub of its __new__ is bare


def _load(snapshot: bytes) -> loro.LoroDoc:
    document = _new()
    try:
        if snapshot:
            document.import_(snapshot)
    except BaseException as error:
        # A panic inside the library is no Exception. Only this file's own bytes ever come here.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DamagedError("the document of a text cannot be read", hint=_HINT) from error
        raise
    return document


def _copy(document: Document) -> Document:
    return Document(document.snapshot, dict(document.peers), list(document.bases), dict(document.ends))
