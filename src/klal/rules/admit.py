"""What may enter a log, and what may enter a payload: links, seals, and hashes of slices.

Every place that stores foreign headers decides here: the replica's file, a folder, a
bundle. The order of the checks is the point. First a run must be one signed chain in
itself, and only then is it compared with what is held, so that nobody can make a member
look like a forger by sending unsigned bytes.

A fork is no reason to refuse anything. Both branches are signed, both may be honest work, and
a replica that kept the one it met first would differ for ever from one that met the other.

Law: a verdict depends on the run and on what is held below and beside it, never on how
or in which pieces it came; the same runs in any order end as the same headers.

Source:
    Protocol spec sections 4, 7 and 11, rules LOG-1 to LOG-4, SEA-1 and PAY-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

from klal.errors import LinkError, MalformedError, SignatureError
from klal.model.codec import HASH_SIZE, SLICE_SIZE, tree_leaf, tree_root
from klal.model.frontier import Head
from klal.model.header import Header, Part, header_hash
from klal.model.keys import INCARNATION_SIZE, MEMBER_ID_SIZE, log_id_of
from klal.model.seal import SEAL_EVERY_COUNT, Seal

Place = TypeVar("Place")


class Admission(Enum):
    """What to do with a link that breaks no rule."""

    DUPLICATE = "duplicate"
    APPEND = "append"
    WAIT = "wait"


class SealedRun(Protocol):
    """Consecutive headers of one log with the seal that ends them; `sync.station.Run` is one."""

    @property
    def log_id(self) -> bytes: ...
    @property
    def member_id(self) -> bytes: ...
    @property
    def incarnation(self) -> bytes: ...
    @property
    def start(self) -> int: ...
    @property
    def headers(self) -> tuple[bytes, ...]: ...
    @property
    def seal(self) -> Seal: ...


class Link(NamedTuple):
    """One header inside its chain, with the bytes that were hashed."""

    header: Header
    hash: bytes
    data: bytes


def check_chain(space_id: bytes, run: SealedRun) -> list[Link]:
    """Return the links of a run that is one signed chain in itself.

    What lies below its first header is not looked at: that is `admit_run`'s question.

    Raises:
        MalformedError: LOG-1 or LOG-2, a log id or a number that does not fit; HDR-n, a header.
        LinkError: LOG-3, a backlink inside the run; SEA-1, the seal names another head.
        SignatureError: SEA-1, the log's member did not sign this head.
    """
    _check_name(space_id, run)
    if not 0 < len(run.headers) <= SEAL_EVERY_COUNT or run.start < 0:
        raise MalformedError(
            f"run has {len(run.headers)} headers from {run.start}, want 1 to {SEAL_EVERY_COUNT}", rule="LOG-2"
        )
    links: list[Link] = []
    for seq, data in enumerate(run.headers, run.start):
        header = Header.decode(data)
        if header.seq != seq:
            raise MalformedError(f"header says number {header.seq}, want {seq}", rule="LOG-2")
        # Number 0 is the one header whose predecessor is known without holding anything.
        before = links[-1].hash if links else run.log_id if seq == 0 else header.backlink
        _check_backlink(header, before)
        if links and links[-1].header.is_sealed:
            # The seal at a Close is evidence that others need: nobody may join runs across it.
            raise LinkError(
                f"run goes on beyond {seq - 1}, which is sealed there", rule="SEA-3", evidence=links[-1].hash
            )
        links.append(Link(header, header_hash(space_id, data), data))
    _check_seal(space_id, run, links[-1])
    return links


def check_run(space_id: bytes, head: Head | None, run: SealedRun) -> list[Header]:
    """Return the headers of a run that goes on exactly where `head` ends.

    Args:
        space_id: The space that the hashes are bound to.
        head: The prefix below the run, so of length `run.start`; None where there is none.
        run: Foreign headers and their seal.

    Raises:
        MalformedError: LOG-1, LOG-2 or HDR-n.
        LinkError: LOG-3.
        SignatureError: SEA-1.
    """
    links = check_chain(space_id, run)
    length = 0 if head is None else head.length
    if run.start != length:
        raise LinkError(f"run starts at {run.start}, want {length}", rule="LOG-3", evidence=links[0].hash)
    _check_backlink(links[0].header, run.log_id if head is None else head.head_hash)
    return [link.header for link in links]


class Shelf(Protocol[Place]):
    """What a station holds of one log, as `admit_run` asks for it; Place says where a header lies there."""

    def find(self, seq: int, hashed: bytes) -> Place | None:
        """Return where the header with this number and hash lies, or None."""

    def after(self, place: Place | None) -> Sequence[tuple[bytes, Place]]:
        """Return hash and place of the headers linked to the one at `place`; of those numbered 0 for None."""

    def seals_below(self, place: Place | None) -> int:
        """Return the greatest sealed length of the chain that ends at `place`."""


class Fit(NamedTuple, Generic[Place]):
    """Where a run belongs.

    Shape:
        place: the last header held of its chain, None where that begins with the run.
        fresh: the links beyond it, if the verdict is APPEND.
        is_fork: another header than the first of `fresh` is linked to `place` already (LOG-4).
    """

    verdict: Admission
    place: Place | None
    fresh: list[Link]
    is_fork: bool


def admit_run(shelf: Shelf[Place], links: Sequence[Link]) -> Fit[Place]:
    """Decide on a whole checked run.

    It is looked up by what it is linked to, and not by its numbers: so a header that another
    bears the number of is found to be another, whichever came first (LOG-4).

    Args:
        shelf: What is held of the log.
        links: What `check_chain` returned.

    Raises:
        MalformedError: LOG-2, a branch would stand under no seal for too long.
    """
    place: Place | None = None
    first = links[0]
    if first.header.seq:
        place = shelf.find(first.header.seq - 1, first.header.backlink)
        if place is None:
            return Fit(Admission.WAIT, None, [], is_fork=False)
    for number, link in enumerate(links):
        others = shelf.after(place)
        here = [at for hashed, at in others if hashed == link.hash]
        if here:
            place = here[0]
            continue
        if others:
            # Whoever holds no branch yet is sent it from the seal before: that run must have the size of one.
            count = links[-1].header.seq + 1 - shelf.seals_below(place)
            if count > SEAL_EVERY_COUNT:
                raise MalformedError(f"branch begins with {count} headers under one seal", rule="LOG-2")
        return Fit(Admission.APPEND, place, list(links[number:]), is_fork=bool(others))
    return Fit(Admission.DUPLICATE, place, [], is_fork=False)


def slice_count_of(part: Part) -> int:
    """Return how many slices this part is hashed, stored and sent in."""
    return -(-part.size // SLICE_SIZE)


def slice_size_of(part: Part, index: int) -> int:
    """Return the exact size of one slice: SLICE_SIZE, or the rest for the last."""
    return min(SLICE_SIZE, part.size - index * SLICE_SIZE)


def check_leaves(part: Part, leaves: Sequence[bytes]) -> None:
    """Return if these are the leaf hashes that the header commits to for this part.

    Raises:
        MalformedError: PAY-6, a count or size the header's numbers rule out.
        LinkError: PAY-6, they hash to another root.
    """
    count = slice_count_of(part)
    if len(leaves) != count or any(len(leaf) != HASH_SIZE for leaf in leaves):
        raise MalformedError(f"part comes with {len(leaves)} leaves, want {count} of {HASH_SIZE} bytes", rule="PAY-6")
    root = tree_root(list(leaves))
    if root != part.root:
        raise LinkError(f"leaves hash to {root.hex()[:8]}, want {part.root.hex()[:8]}", rule="PAY-6", evidence=root)


def check_slice(part: Part, leaves: Sequence[bytes] | None, index: int, data: bytes) -> None:
    """Return if `data` is slice `index` of this part.

    Args:
        part: What the header commits to.
        leaves: Checked leaf hashes; None for a part of one slice, whose root is its leaf.
        index: Position of the slice, from 0.
        data: Foreign bytes.

    Raises:
        MalformedError: PAY-6, a position or size the header's numbers rule out.
        LinkError: PAY-6, the bytes hash to something else.
    """
    count = slice_count_of(part)
    if not 0 <= index < count:
        raise MalformedError(f"slice is number {index}, want below {count}", rule="PAY-6")
    if len(data) != slice_size_of(part, index):
        raise MalformedError(f"slice has {len(data)} bytes, want {slice_size_of(part, index)}", rule="PAY-6")
    if leaves is None and count > 1:
        raise MalformedError(f"slice {index} of {count} came before its leaves", rule="PAY-6")
    want = part.root if leaves is None or count == 1 else leaves[index]
    found = tree_leaf(data)
    if found != want:
        raise LinkError(f"slice hashes to {found.hex()[:8]}, want {want.hex()[:8]}", rule="PAY-6", evidence=found)


def _check_name(space_id: bytes, run: SealedRun) -> None:
    if len(run.member_id) != MEMBER_ID_SIZE or len(run.incarnation) != INCARNATION_SIZE:
        raise MalformedError("run names a member or incarnation of a wrong size", rule="LOG-1")
    log_id = log_id_of(space_id, run.member_id, run.incarnation)
    if log_id != run.log_id:
        raise MalformedError(f"run is of log {run.log_id.hex()[:8]}, its member's is {log_id.hex()[:8]}", rule="LOG-1")


def _check_backlink(header: Header, before: bytes) -> None:
    if header.backlink != before:
        raise LinkError(
            f"backlink of {header.seq} is {header.backlink.hex()[:8]}, want {before.hex()[:8]}",
            rule="LOG-3",
            evidence=header.backlink,
        )


def _check_seal(space_id: bytes, run: SealedRun, last: Link) -> None:
    seal = run.seal
    length = last.header.seq + 1
    if seal.log_id != run.log_id or seal.length != length or seal.head_hash != last.hash:
        raise LinkError(
            f"seal is of {seal.log_id.hex()[:8]} at {seal.length}, want {run.log_id.hex()[:8]} at {length}",
            rule="SEA-1",
            evidence=seal.head_hash,
        )
    try:
        seal.check(space_id, run.member_id)
    except SignatureError as error:
        raise SignatureError(error.message, rule="SEA-1", evidence=seal.signature) from error
