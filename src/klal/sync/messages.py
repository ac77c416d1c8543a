"""What two sessions say to each other: frames of `u32 length | u8 type | body`.

The length counts the type and the body, and is looked at before anything else. A body is
one msgpack array with exactly one accepted spelling. Every list has a named limit, and
what does not fit goes into a further frame or a further turn: a limit is never an end.

Law: `decode(encode(m)) == m`, and `encode(decode(f)) == f` for every accepted frame.

Source:
    Protocol spec section 12 (table of messages), rules SYN-1 to SYN-3.
"""

from __future__ import annotations

import struct
from typing import cast

import msgspec

from klal.errors import MalformedError
from klal.model.codec import (
    FRAME_SIZE_MAX,
    HASH_SIZE,
    HEADER_SIZE_MAX,
    PART_COUNT_MAX,
    PART_SIZE_MAX,
    SEQ_MAX,
    SIGNATURE_SIZE,
    SLICE_SIZE,
    TABLE_ID_SIZE,
    pack,
    unpack,
)
from klal.model.keys import INCARNATION_SIZE, MEMBER_ID_SIZE
from klal.model.receipt import RECEIPT_SIZE_MAX
from klal.model.seal import SEAL_EVERY_COUNT

# Limits on one frame or one turn. A page of any of these lists fits FRAME_SIZE_MAX.
LOG_PAGE_COUNT_MAX = 4096
WANT_COUNT_MAX = 4096
SLICE_BATCH_COUNT_MAX = 1 << 15
RECEIPT_PAGE_COUNT_MAX = 4096
LEAF_COUNT_MAX = PART_SIZE_MAX // SLICE_SIZE
# A receipt travels in one frame, so one that is larger than this stays where it is.
RECEIPT_SENT_SIZE_MAX = min(RECEIPT_SIZE_MAX, FRAME_SIZE_MAX - 1024)

_PREFIX = struct.Struct(">IB")
_LENGTH_SIZE = 4


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Common form of all bodies."""


class Hello(_Body, frozen=True):
    """Opens a side: which space, what it holds, and whether it may be sent anything."""

    version: int
    space_id: bytes
    known: bytes
    held: bytes
    receipts: bytes
    takes: bool


class LogLine(_Body, frozen=True):
    """One `LogState`."""

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    length: int
    head_hash: bytes
    payload_length: int


class ReceiptLine(_Body, frozen=True):
    """The number of the newest receipt known of one log."""

    log_id: bytes
    number: int


class Logs(_Body, frozen=True):
    """A page of every log held, an inviter's before those it invited, and of receipt numbers."""

    logs: tuple[LogLine, ...]
    receipts: tuple[ReceiptLine, ...]
    is_last: bool


class HeaderPiece(_Body, frozen=True):
    """Consecutive headers; the seal's signature comes with the last piece of a run, else it is empty.

    The seal's length and head hash are not sent: the headers before it say them.
    """

    log_id: bytes
    start: int
    headers: tuple[bytes, ...]
    signature: bytes


class Leaves(_Body, frozen=True):
    """The leaf hashes of one part, before its first slice."""

    log_id: bytes
    seq: int
    table_id: bytes
    leaves: tuple[bytes, ...]


class SliceLine(_Body, frozen=True):
    """One slice; `table` counts into the tables of its batch."""

    seq: int
    table: int
    index: int
    data: bytes


class Slices(_Body, frozen=True):
    """A batch of slices of one log.

    Tables are named once a batch, in order of first use: a change of one row then costs
    about ten bytes beside its data.
    """

    log_id: bytes
    tables: tuple[bytes, ...]
    slices: tuple[SliceLine, ...]


class Span(_Body, frozen=True):
    """The changes [start, stop) of one log."""

    log_id: bytes
    start: int
    stop: int


class Begun(_Body, frozen=True):
    """Leading slices of one part that are held already."""

    log_id: bytes
    seq: int
    table_id: bytes
    slice_count: int


class WantHeaders(_Body, frozen=True):
    """Ask for headers; every `stop` is the length the other side stated."""

    spans: tuple[Span, ...]


class WantPayloads(_Body, frozen=True):
    """Ask for payloads, without the slices that are here."""

    spans: tuple[Span, ...]
    begun: tuple[Begun, ...]


class SignedLine(_Body, frozen=True):
    """One receipt as bytes."""

    body: bytes
    signature: bytes


class ReceiptPage(_Body, frozen=True):
    """Receipts the other side does not have."""

    receipts: tuple[SignedLine, ...]
    is_last: bool


class Turn(_Body, frozen=True):
    """Ends a turn: now the other side speaks."""


class End(_Body, frozen=True):
    """Ends a side: it wants nothing more, and these are its roots now."""

    known: bytes
    held: bytes
    receipts: bytes


Message = Hello | Logs | HeaderPiece | Leaves | Slices | WantHeaders | WantPayloads | ReceiptPage | Turn | End

_TYPES: dict[int, type[_Body]] = {
    1: Hello,
    2: Logs,
    3: HeaderPiece,
    4: Leaves,
    5: Slices,
    6: WantHeaders,
    7: WantPayloads,
    8: ReceiptPage,
    9: Turn,
    10: End,
}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}


def encode(message: Message) -> bytes:
    """Return `message` as one frame."""
    body = pack(message)
    frame = _PREFIX.pack(1 + len(body), _NUMBERS[type(message)]) + body
    assert len(frame) <= FRAME_SIZE_MAX, "pages are cut so that every frame fits"
    return frame


def frame_size(start: bytes) -> int:
    """Return the size of the whole frame that begins with these bytes.

    Raises:
        MalformedError: SYN-1, too short to say, or beyond the limit.
    """
    if len(start) < _PREFIX.size:
        raise MalformedError(f"frame has {len(start)} bytes, want at least {_PREFIX.size}", rule="SYN-1")
    size = _LENGTH_SIZE + int.from_bytes(start[:_LENGTH_SIZE], "big")
    if not _PREFIX.size <= size <= FRAME_SIZE_MAX:
        raise MalformedError(f"frame states {size} bytes, want {_PREFIX.size} to {FRAME_SIZE_MAX}", rule="SYN-1")
    return size


def decode(frame: bytes) -> Message:
    """Return the message that one whole frame spells.

    Raises:
        MalformedError: SYN-1, its length; SYN-2, its type; SYN-3 or ENC-3, its body.
    """
    size = frame_size(frame)
    if size != len(frame):
        raise MalformedError(f"frame has {len(frame)} bytes and states {size}", rule="SYN-1")
    kind = _TYPES.get(frame[_LENGTH_SIZE])
    if kind is None:
        raise MalformedError(f"frame has type {frame[_LENGTH_SIZE]}, want 1 to {len(_TYPES)}", rule="SYN-2")
    body = unpack(frame[_PREFIX.size :], kind, f"{kind.__name__} message", FRAME_SIZE_MAX)
    message = cast("Message", body)
    if not _is_within_bounds(message):
        raise MalformedError(f"{kind.__name__} message has a size or count out of bounds", rule="SYN-3")
    return message


def _is_within_bounds(message: Message) -> bool:
    match message:
        case Hello():
            return message.version >= 0 and _are_hashes(message.space_id, message.known, message.held, message.receipts)
        case End():
            return _are_hashes(message.known, message.held, message.receipts)
        case Logs():
            return (
                len(message.logs) <= LOG_PAGE_COUNT_MAX
                and len(message.receipts) <= LOG_PAGE_COUNT_MAX
                and all(map(_is_log_line, message.logs))
                and all(_are_hashes(line.log_id) and line.number >= 0 for line in message.receipts)
            )
        case HeaderPiece():
            return (
                _are_hashes(message.log_id)
                and 0 < len(message.headers) <= SEAL_EVERY_COUNT
                and _is_span(message.start, message.start + len(message.headers))
                and all(0 < len(header) <= HEADER_SIZE_MAX for header in message.headers)
                and len(message.signature) in (0, SIGNATURE_SIZE)
            )
        case Leaves():
            return (
                _are_hashes(message.log_id, *message.leaves)
                and 1 < len(message.leaves) <= LEAF_COUNT_MAX
                and _is_part(message.seq, message.table_id)
            )
        case Slices():
            return _is_batch(message)
        case WantHeaders():
            return _are_spans(message.spans)
        case WantPayloads():
            return (
                _are_spans(message.spans)
                and len(message.begun) <= WANT_COUNT_MAX
                and all(
                    _are_hashes(begun.log_id)
                    and _is_part(begun.seq, begun.table_id)
                    and 0 < begun.slice_count <= LEAF_COUNT_MAX
                    for begun in message.begun
                )
            )
        case ReceiptPage():
            return len(message.receipts) <= RECEIPT_PAGE_COUNT_MAX and all(
                len(line.signature) == SIGNATURE_SIZE for line in message.receipts
            )
        case Turn():
            return True


def _are_hashes(*values: bytes) -> bool:
    return all(len(value) == HASH_SIZE for value in values)


def _is_span(start: int, stop: int) -> bool:
    return 0 <= start < stop <= SEQ_MAX + 1


def _are_spans(spans: tuple[Span, ...]) -> bool:
    return 0 < len(spans) <= WANT_COUNT_MAX and all(
        _are_hashes(span.log_id) and _is_span(span.start, span.stop) for span in spans
    )


def _is_part(seq: int, table_id: bytes) -> bool:
    return 0 <= seq <= SEQ_MAX and len(table_id) == TABLE_ID_SIZE


def _is_log_line(line: LogLine) -> bool:
    return (
        _are_hashes(line.log_id, line.head_hash)
        and len(line.member_id) == MEMBER_ID_SIZE
        and len(line.incarnation) == INCARNATION_SIZE
        and _is_span(0, line.length)
        and 0 <= line.payload_length <= line.length
    )


def _is_batch(batch: Slices) -> bool:
    if not (_are_hashes(batch.log_id) and 0 < len(batch.slices) <= SLICE_BATCH_COUNT_MAX):
        return False
    used = 0
    for line in batch.slices:
        # In order of first use, so that one batch has one spelling.
        if not 0 <= line.table <= used:
            return False
        used += line.table == used
        if not (0 <= line.seq <= SEQ_MAX and 0 <= line.index < LEAF_COUNT_MAX and 0 < len(line.data) <= SLICE_SIZE):
            return False
    return (
        used == len(batch.tables)
        and len(set(batch.tables)) == used
        and all(len(table_id) == TABLE_ID_SIZE for table_id in batch.tables)
    )


assert LEAF_COUNT_MAX * (HASH_SIZE + 2) < FRAME_SIZE_MAX, "the leaves of the largest part fit one frame"
assert PART_COUNT_MAX < SLICE_BATCH_COUNT_MAX, "a change of many small parts fits one batch"
