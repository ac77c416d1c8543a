"""What a bundle says of itself: what it contains, and what whoever takes it must hold already.

The choice a reader would question: it stands at the beginning, so a writer has to know
everything before it writes anything. In return a bundle that was cut off still says what
was in it, and nobody reads ten gigabytes to learn that they do not fit.

Nothing in it is believed. What a bundle brings is judged by its own signatures; what it
says decides only what people are told.

Source:
    docs/spec/bundle.md, rules BDL-1 to BDL-3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from klal.errors import MalformedError
from klal.items import CONTENTS, END, ITEM_SIZE_MAX, RECEIPTS, ItemHead, ReceiptIndex, encode_item
from klal.model.codec import HASH_SIZE, NAME_LENGTH_MAX, SEQ_MAX, pack, unpack
from klal.model.keys import INCARNATION_SIZE, MEMBER_ID_SIZE
from klal.model.receipt import Receipt

MAGIC = b"klal bundle 1\n"
NO_LOG = bytes(HASH_SIZE)
LINE_COUNT_MAX = 1 << 20  # About 250 MB of lines; a bundle that goes on has another aim.
PART_COUNT_MAX = 1 << 16
_SPAN_COUNT_MAX = 1024  # Of one line; a strand with more gaps has several lines.
_PAGE_SIZE = 1 << 20
_RECEIPT_COUNT_MAX = 1024
# A line without its spans, and a span, at their largest.
LINE_SIZE_MAX = 6 * 34 + 4 * NAME_LENGTH_MAX + 32
SPAN_SIZE_MAX = 20


class Needs(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A prefix of one log that must be held already: (log id, its member's name as a label, length, head hash)."""

    log_id: bytes
    name: str
    length: int
    head_hash: bytes


class Gives(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Headers of one log that are in a bundle, and payloads that are whole once it was taken.

    Shape:
        log_id, member_id, incarnation: of the log that its headers were signed for.
        name: of the member, as a label that proves nothing.
        start, length: headers [start, length); none where the two are equal.
        head_hash: of header length - 1.
        payloads: [start, stop) of numbers below `length`, ascending.
    """

    log_id: bytes
    member_id: bytes
    incarnation: bytes
    name: str
    start: int
    length: int
    head_hash: bytes
    payloads: tuple[tuple[int, int], ...]


class _Page(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One item of contents.

    Shape:
        space_name: a label.
        part, part_count: the number of this bundle among those written together, from 1 on.
        needs, gives: as far as they fit this page.
        is_last: no page follows.
    """

    space_name: str
    part: int
    part_count: int
    needs: tuple[Needs, ...]
    gives: tuple[Gives, ...]
    is_last: bool


class _ReceiptPage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    receipts: tuple[ReceiptIndex, ...]


class _End(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How many items stand before this one, and how many bytes."""

    item_count: int
    size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """All pages of what a bundle says of itself."""

    space_id: bytes
    space_name: str
    part: int
    part_count: int
    needs: tuple[Needs, ...]
    gives: tuple[Gives, ...]


def encode_contents(contents: Contents) -> Iterator[bytes]:
    """Yield the items that say it, at least one."""
    pages: list[tuple[list[Needs], list[Gives]]] = [([], [])]
    size = 0
    lines: list[Needs | Gives] = [*contents.needs, *_short_lines(contents.gives)]
    for line in lines:
        needs, gives = pages[-1]
        if isinstance(line, Needs):
            needs.append(line)
            size += LINE_SIZE_MAX
        else:
            gives.append(line)
            size += LINE_SIZE_MAX + SPAN_SIZE_MAX * len(line.payloads)
        if size >= _PAGE_SIZE:
            pages.append(([], []))
            size = 0
    for number, (needs, gives) in enumerate(pages):
        page = _Page(
            contents.space_name,
            contents.part,
            contents.part_count,
            tuple(needs),
            tuple(gives),
            number == len(pages) - 1,
        )
        yield encode_item(CONTENTS, contents.space_id, NO_LOG, pack(page))


def _short_lines(lines: Iterable[Gives]) -> Iterator[Gives]:
    for line in lines:
        start = line.start
        for at in range(0, len(line.payloads) or 1, _SPAN_COUNT_MAX):
            spans = line.payloads[at : at + _SPAN_COUNT_MAX]
            yield Gives(
                line.log_id, line.member_id, line.incarnation, line.name, start, line.length, line.head_hash, spans
            )
            start = line.length  # Its headers are given once.


def read_contents(pages: Iterable[ItemHead]) -> Contents | None:
    """Return what these items of contents say together, or None where the last one is not among them.

    Raises:
        MalformedError: BDL-2.
    """
    needs: list[Needs] = []
    gives: list[Gives] = []
    first: tuple[bytes, str, int, int] | None = None
    for head in pages:
        page = unpack(head.index, _Page, "contents of a bundle", ITEM_SIZE_MAX)
        said = head.space_id, page.space_name, page.part, page.part_count
        first = first or said
        is_right = (
            said == first
            and len(page.space_name) <= NAME_LENGTH_MAX
            and 1 <= page.part <= page.part_count <= PART_COUNT_MAX
            and all(map(_is_need, page.needs))
            and all(map(_is_gift, page.gives))
        )
        if not is_right:
            raise MalformedError("contents of a bundle have a field out of bounds", rule="BDL-2")
        needs += page.needs
        gives += page.gives
        if len(needs) + len(gives) > LINE_COUNT_MAX:
            raise MalformedError(f"contents of a bundle go beyond {LINE_COUNT_MAX} lines", rule="BDL-2")
        if page.is_last:
            return Contents(*first, tuple(needs), tuple(gives))
    return None


def _is_need(line: Needs) -> bool:
    is_sized = len(line.log_id) == len(line.head_hash) == HASH_SIZE and len(line.name) <= NAME_LENGTH_MAX
    return is_sized and 1 <= line.length <= SEQ_MAX


def _is_gift(line: Gives) -> bool:
    before = 0
    for start, stop in line.payloads:
        if not before <= start < stop <= line.length:
            return False
        before = stop
    return (
        len(line.log_id) == len(line.head_hash) == HASH_SIZE
        and len(line.member_id) == MEMBER_ID_SIZE
        and len(line.incarnation) == INCARNATION_SIZE
        and len(line.name) <= NAME_LENGTH_MAX
        and 0 <= line.start <= line.length <= SEQ_MAX
        and line.length >= 1
    )


def encode_receipts(space_id: bytes, receipts: Iterable[Receipt]) -> Iterator[bytes]:
    """Yield the items that carry these receipts."""
    page: list[ReceiptIndex] = []
    size = 0
    for receipt in receipts:
        if page and (size + len(receipt.body) > _PAGE_SIZE or len(page) == _RECEIPT_COUNT_MAX):
            yield encode_item(RECEIPTS, space_id, NO_LOG, pack(_ReceiptPage(tuple(page))))
            page, size = [], 0
        page.append(ReceiptIndex(receipt.body, receipt.signature))
        size += len(receipt.body)
    if page:
        yield encode_item(RECEIPTS, space_id, NO_LOG, pack(_ReceiptPage(tuple(page))))


def decode_receipts(head: ItemHead) -> list[Receipt]:
    """Return the receipts of an item; their signatures are not checked here.

    Raises:
        MalformedError: BDL-5 or RCP-1.
    """
    page = unpack(head.index, _ReceiptPage, "item of receipts", ITEM_SIZE_MAX)
    if len(page.receipts) > _RECEIPT_COUNT_MAX:
        raise MalformedError(f"item has {len(page.receipts)} receipts, want at most {_RECEIPT_COUNT_MAX}", rule="BDL-5")
    return [Receipt.decode(line.body, line.signature) for line in page.receipts]


def encode_end(space_id: bytes, item_count: int, size: int) -> bytes:
    """Return the item that ends a bundle."""
    return encode_item(END, space_id, NO_LOG, pack(_End(item_count, size)))


def decode_end(head: ItemHead) -> tuple[int, int]:
    """Return how many items and how many bytes must stand before it.

    Raises:
        MalformedError: BDL-6.
    """
    end = unpack(head.index, _End, "end of a bundle", ITEM_SIZE_MAX)
    return end.item_count, end.size
