"""What a replica answers: plain values, each with the JSON that the command line prints.

Shapes are public: keys may be added, none is ever renamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from klal.coverage import Coverage, MemberStatus, Waiting
from klal.errors import StoreError, UsageError
from klal.model.certificate import Certificate
from klal.model.codec import HASH_SIZE
from klal.model.schema import Key, Value
from klal.notebook import escaped, status_page


class ChangeId(NamedTuple):
    """A change by its log and number, the same on every replica."""

    log_id: bytes
    seq: int

    def __str__(self) -> str:
        return f"{self.log_id.hex()}:{self.seq}"

    @staticmethod
    def parse(text: str) -> ChangeId:
        """Return the id that `text` spells as LOGHEX:SEQ.

        Raises:
            UsageError: It spells none.
        """
        log, colon, seq = text.strip().partition(":")
        try:
            log_id = bytes.fromhex(log)
        except ValueError:
            log_id = b""
        if not colon or len(log_id) != HASH_SIZE or not (seq.isascii() and seq.isdigit()):
            raise UsageError(f"{text!r:.100} is not a change: want 64 hex digits, a colon and a number")
        return ChangeId(log_id, int(seq))


class Rows(list[tuple[Value, ...]]):
    """The rows of a query, in order, with the names of their columns."""

    def __init__(self, columns: Sequence[str], rows: Sequence[tuple[Value, ...]]) -> None:
        super().__init__(rows)
        self.columns = tuple(columns)

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per row; bytes are given as hex in the form x'..'."""
        return [dict(zip(self.columns, map(json_value, row), strict=True)) for row in self]

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        head = "".join(f"<th>{escaped(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escaped(json_value(value))}</td>' for value in row)}</tr>" for row in self)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def json_value(value: Value) -> Any:
    """Return a value as JSON can carry it."""
    return f"x'{value.hex()}'" if isinstance(value, bytes) else value


class Result(NamedTuple):
    """What a statement did.

    Shape:
        row_count: rows it changed.
        change: the committed change; None for a query, or inside a transaction.
        types: declared types of the columns; None for a column that no table has.
    """

    row_count: int
    change: ChangeId | None
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[Value, ...]] = ()
    types: tuple[str | None, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"row_count": self.row_count, "change": None if self.change is None else str(self.change)}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way in a session. `bytes` counts the frames."""

    changes: int
    payloads: int
    bytes: int

    def to_json(self) -> dict[str, int]:
        return {"changes": self.changes, "payloads": self.payloads, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long piece of work is."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did.

    Shape:
        equal: both roots are the same now, with the last remote that was named.
        refused: sentences about what was not taken, and why.
        only_gave: remotes that took nothing, because the key of their member is not at hand.
        is_finished: False when it was cut, by `byte_count_max`.
    """

    sent: Traffic
    received: Traffic
    equal: bool
    root: bytes
    refused: tuple[str, ...] = ()
    only_gave: tuple[str, ...] = ()
    is_finished: bool = True

    @property
    def sent_count(self) -> int:
        """Changes sent."""
        return self.sent.changes

    @property
    def received_count(self) -> int:
        """Changes received."""
        return self.received.changes

    def __str__(self) -> str:
        end = "both hold the same now" if self.equal else "the two do not hold the same"
        cut = "" if self.is_finished else "; it was cut off"
        refused = f"; {len(self.refused)} refused, the first because {self.refused[0]}" if self.refused else ""
        return f"sent {self.sent_count:,} changes, received {self.received_count:,}; {end}{cut}{refused}"

    def to_json(self) -> dict[str, Any]:
        return {
            "sent": self.sent.to_json(),
            "received": self.received.to_json(),
            "equal": self.equal,
            "root": self.root.hex(),
            "refused": list(self.refused),
            "only_gave": list(self.only_gave),
            "finished": self.is_finished,
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with one hub to which a replica stays connected.

    Shape:
        state: "connecting"; "catching up", in a session; "in step", what either side gains is sent at once;
            "waiting", to dial again in `again_in_s` seconds; "ended", it makes no sense to dial again.
        why: one sentence on what ended the connection, or "".
        received_count: changes that came by this connection.
    """

    url: str
    state: Literal["connecting", "catching up", "in step", "waiting", "ended"]
    why: str = ""
    again_in_s: float = 0.0
    received_count: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "state": self.state,
            "why": self.why,
            "again_in_s": self.again_in_s,
            "received": self.received_count,
        }


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has one change, by signed receipts; oneself by what is stored here.

    Shape:
        holders, lacking: members known to hold it, or known to have signed without it.
        unknown: members of whom no receipt is here.
        holder_count, member_count: how many of the members that count hold it, each once (W28).
    """

    change: ChangeId
    holders: tuple[str, ...]
    lacking: tuple[str, ...]
    unknown: tuple[str, ...]
    is_stable: bool
    holder_count: int
    member_count: int

    def to_json(self) -> dict[str, Any]:
        return {
            "change": str(self.change),
            "holders": list(self.holders),
            "lacking": list(self.lacking),
            "unknown": list(self.unknown),
            "stable": self.is_stable,
        }


@dataclass(frozen=True, slots=True)
class EpochStatus:
    """The epoch that status shows: the first that is not closed and has work in it."""

    number: int
    state: str
    waiting_for: tuple[Waiting, ...]

    def __str__(self) -> str:
        waits = f", waits for {', '.join(map(str, self.waiting_for))}" if self.waiting_for else ""
        return f"epoch {self.number} {self.state}{waits}"

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "state": self.state,
            "waiting_for": [waiting.to_json() for waiting in self.waiting_for],
        }


@dataclass(frozen=True, slots=True)
class Parked:
    """Changes of one log that are held and not applied, with what the first of them waits for."""

    member_name: str
    log_id: bytes
    count: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"member": self.member_name, "log": self.log_id.hex(), "count": self.count, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class News:
    """What came into this file since about a day ago.

    Shape:
        since_unix_ms: arrivals are counted from the newest contact that is a day old or older;
            None where there was none, and then all of them are counted.
        written: changes of this file's own log, of the last 24 hours by its clock.
        arrived: member name -> changes that arrived from elsewhere, most first.
    """

    since_unix_ms: int | None
    written: int
    arrived: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"since_unix_ms": self.since_unix_ms, "written": self.written, "arrived": dict(self.arrived)}


@dataclass(frozen=True, slots=True)
class Stewardship:
    """Who has the last word on the open epoch, and who is supported for that place.

    Shape:
        steward: a name, or None while the place is vacant; is_mine: it is this replica's member.
        round: of votes, 0 while nobody asked.
        supporters: candidate's name -> names of those who support it in that round.
        needed: how many of them it takes.
    """

    epoch: int
    steward: str | None
    is_mine: bool
    round: int
    supporters: dict[str, tuple[str, ...]]
    needed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steward": self.steward,
            "mine": self.is_mine,
            "round": self.round,
            "supporters": {name: list(by) for name, by in self.supporters.items()},
            "needed": self.needed,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """Everything about where this replica stands.

    Shape:
        parked_why: what is held and not applied, log by log.
        now_unix_ms: this machine's clock when it was asked; what ages are counted from.
    """

    space: str
    member: str
    state: str
    standing: str
    coverage: Coverage
    root: bytes
    members: tuple[MemberStatus, ...]
    epoch: EpochStatus
    stable_count: int
    only_here: int
    conflicts: int
    violations: int
    parked: int
    warnings: tuple[str, ...]
    parked_why: tuple[Parked, ...]
    news: News
    now_unix_ms: int

    def _repr_html_(self) -> str:
        """Return a page for notebooks: self-contained, and without scripts."""
        return status_page(self.to_json())

    def __str__(self) -> str:
        known = self.coverage.known
        counts = (("conflicts", self.conflicts), ("violations", self.violations), ("parked", self.parked))
        return "\n".join(
            [
                f"{self.space}, seen by {self.member or 'nobody in it'}: {self.state} ({self.standing})",
                str(self.coverage),
                f"{self.stable_count:,} of {known:,} changes stable, {self.only_here:,} not known to be elsewhere",
                str(self.epoch),
                *(f"{count:,} {what}" for what, count in counts if count),
                *self.warnings,
            ]
        )

    def to_json(self) -> dict[str, Any]:
        coverage = self.coverage
        return {
            "space": self.space,
            "member": self.member,
            "state": self.state,
            "standing": self.standing,
            "headers": {"held": coverage.held, "known": coverage.known},
            "payloads": {"held": coverage.payloads_held, "known": coverage.payloads_known},
            "compacted": None
            if coverage.compacted_epoch is None
            else {"epoch": coverage.compacted_epoch, "payloads": sum(each.change_count for each in coverage.dropped)},
            "root": self.root.hex(),
            "as_of_unix_ms": coverage.as_of_unix_ms,
            "members": [member.to_json() for member in self.members],
            "epoch": self.epoch.to_json(),
            "stable": {"changes": self.stable_count, "of": coverage.known},
            "only_here": self.only_here,
            "conflicts": self.conflicts,
            "violations": self.violations,
            "parked": self.parked,
            "warnings": list(self.warnings),
            "certainty": coverage.certainty,
            "applied": coverage.applied,
            "parked_why": [parked.to_json() for parked in self.parked_why],
            "news": self.news.to_json(),
            "now_unix_ms": self.now_unix_ms,
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """A member's word on an epoch: its logs end at these lengths."""

    epoch: int
    logs: tuple[tuple[bytes, int], ...]

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "logs": [{"log": log_id.hex(), "length": length} for log_id, length in self.logs]}


@dataclass(frozen=True, slots=True)
class Closed:
    """A complete epoch with its certificate; closed once every counted member names it."""

    epoch: int
    certificate: Certificate
    state: str

    def __str__(self) -> str:
        return f"epoch {self.epoch} {self.state}, certificate {self.certificate.hash.hex()[:16]} of grade {self.grade}"

    @property
    def grade(self) -> str:
        """Return "complete", or "without" if members were gone on without."""
        return self.certificate.grade

    @property
    def without(self) -> tuple[bytes, ...]:
        """Ids of the members gone on without."""
        return tuple(each.member_id for each in self.certificate.body.absent)

    def write(self, path: str | Path) -> None:
        """Write the certificate as a file of its own.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            Path(path).write_bytes(self.certificate.encode())
        except OSError as error:
            raise StoreError(f"{path} could not be written: {error.strerror or error}") from error

    def to_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "certificate": None,
            "hash": self.certificate.hash.hex(),
            "grade": self.grade,
            "without": [member_id.hex() for member_id in self.without],
            "state": self.state,
        }


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did.

    Shape:
        epoch: below whose cut payloads were put down.
        change_count: of how many changes, now; 0 where it had been done before.
        size_before, size: bytes of the file.
        keepers: the members whose full copies this file relies on.
        image_size, gone_size: where nothing was done since the file would not have become smaller:
            bytes of the image of the rows, and of what it would have taken the place of; else 0.
    """

    epoch: int
    change_count: int
    size_before: int
    size: int
    keepers: tuple[str, ...]
    image_size: int = 0
    gone_size: int = 0

    def to_json(self) -> dict[str, Any]:
        weighed = {"image_bytes": self.image_size, "gone_bytes": self.gone_size} if self.image_size else {}
        return {
            "epoch": self.epoch,
            "changes": self.change_count,
            "bytes_before": self.size_before,
            "bytes": self.size,
            "keepers": list(self.keepers),
            **weighed,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """One side of a conflict: a value, or a deletion, and who wrote it where.

    Shape:
        value: of a counter's, set's or text's UPDATE that does not show, what it added, as people read it.
        unix_ms: what the writer's clock said; None where no one change stands.
    """

    value: Value
    member_name: str
    change: ChangeId | None
    unix_ms: int | None

    def __str__(self) -> str:
        return f"{self.value!r} by {self.member_name}"

    def to_json(self) -> dict[str, Any]:
        return {
            "value": json_value(self.value),
            "member": self.member_name,
            "change": None if self.change is None else str(self.change),
            "unix_ms": self.unix_ms,
        }


@dataclass(frozen=True, slots=True)
class Conflict:
    """A value that lost against one its writer had not seen. column is None for a deletion.

    Shape:
        id: names it on every replica: 16 digits in base 16.
    """

    id: str
    table: str
    key: Key
    column: str | None
    winner: Claim
    loser: Claim

    def __str__(self) -> str:
        place = f"{self.table} {', '.join(map(repr, self.key))}{'' if self.column is None else f' {self.column}'}"
        return f"{place}: {self.winner} stands against {self.loser}"

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "table": self.table,
            "key": [json_value(value) for value in self.key],
            "column": self.column,
            "winner": self.winner.to_json(),
            "loser": self.loser.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that a merge let stand though a constraint speaks against it, or that could not be shown.

    Shape:
        id: of a row that UNIQUE hides what `resolve` knows it by, else "".
        kind: "unique", "check", "foreign key", "dropped", "view" or "index".
        key: the row's key as people read it, or None where it is no row.
        row: of a row that UNIQUE keeps out of sight its values by column, else None.
    """

    id: str
    kind: str
    table: str
    key: str | None
    detail: str
    row: dict[str, Value] | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.table}{'' if self.key is None else f' {self.key}'}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        row = None if self.row is None else {name: json_value(value) for name, value in self.row.items()}
        return {
            "id": self.id,
            "kind": self.kind,
            "table": self.table,
            "key": self.key,
            "detail": self.detail,
            "row": row,
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Rows of a watched query that came and went.

    Shape:
        added, removed: rows of the query; a row that changed is in both.
        change: the newest change that is shown.
        heads: changes that have seen everything that is shown, usually one: pass them as `since`.
    """

    added: Rows
    removed: Rows
    change: ChangeId
    heads: tuple[ChangeId, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "change": str(self.change),
            "heads": [str(head) for head in self.heads],
            "removed": self.removed.to_json(),
            "added": self.added.to_json(),
        }


@dataclass(frozen=True, slots=True)
class ForeignWrite:
    """A row, or an object of the schema, that another program wrote behind klal's back.

    Shape:
        kind: "inserted", "updated", "deleted" or "schema".
        table: its table; for "schema" the object that was made, dropped or altered.
        before, after: column name -> value, as history says and as it lies here: of an updated row
            the columns that differ, else the whole row; None where there is none.
        obstacle: why it cannot be adopted, as a sentence; "" where it can.
    """

    kind: str
    table: str
    key: Key
    before: dict[str, Value] | None
    after: dict[str, Value] | None
    obstacle: str

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "table": self.table,
            "key": [json_value(value) for value in self.key],
            "before": _cells_json(self.before),
            "after": _cells_json(self.after),
            "obstacle": self.obstacle,
        }


def _cells_json(cells: dict[str, Value] | None) -> dict[str, Any] | None:
    return None if cells is None else {name: json_value(value) for name, value in cells.items()}


@dataclass(frozen=True, slots=True)
class Version:
    """One write of a row: who wrote it when and in which change, what the row then was, and what of it lost.

    Shape:
        kind: "insert", "update" or "delete".
        written: column name -> value, of the columns that this change wrote.
        row: the whole row after it, in the one order of all changes; None where none was visible.
        lost: values of this change that did not stand against others written apart from it, settled or not.
    """

    change: ChangeId
    member_name: str
    unix_ms: int
    kind: str
    written: dict[str, Value]
    row: dict[str, Value] | None
    lost: tuple[Conflict, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "change": str(self.change),
            "member": self.member_name,
            "unix_ms": self.unix_ms,
            "kind": self.kind,
            "written": _cells_json(self.written),
            "row": _cells_json(self.row),
            "lost": [conflict.to_json() for conflict in self.lost],
        }


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row that is not the same in two moments; None stands for a moment that does not have it."""

    table: str
    key: Key
    before: dict[str, Value] | None
    after: dict[str, Value] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "key": [json_value(value) for value in self.key],
            "before": _cells_json(self.before),
            "after": _cells_json(self.after),
        }


@dataclass(frozen=True, slots=True)
class NamedMoment:
    """A state that a member gave a name.

    Shape:
        name: as it is told apart here and everywhere (MOM-2).
        root: the root of its frontier, by which it can be opened too.
        change_count: how many changes it holds.
        change: the one that gave the name.
    """

    name: str
    root: bytes
    change_count: int
    member_name: str
    unix_ms: int
    change: ChangeId

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "root": self.root.hex(),
            "changes": self.change_count,
            "member": self.member_name,
            "unix_ms": self.unix_ms,
            "change": str(self.change),
        }


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One change of the history.

    Shape:
        tables: table name -> row writes.
        acts: what else it did, as words.
        state: "local", "held" (by somebody else too) or "stable" (by every member).
        is_late: it belongs to a later epoch than it was written in.
    """

    change: ChangeId
    member_name: str
    unix_ms: int
    epoch: int
    tables: dict[str, int]
    acts: tuple[str, ...]
    state: str
    is_late: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "change": str(self.change),
            "member": self.member_name,
            "unix_ms": self.unix_ms,
            "epoch": self.epoch,
            "tables": dict(self.tables),
            "state": self.state,
            "acts": list(self.acts),
            "late": self.is_late,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """How much was proven.

    Shape:
        compacted_epoch: of a compacted file, the epoch whose certified rows were taken on trust: that its
            certificate names them was checked, and not that they follow from the history before it.
    """

    changes: int
    payloads: int
    receipts: int
    certificates: int
    compacted_epoch: int | None = None

    def to_json(self) -> dict[str, Any]:
        compacted = {} if self.compacted_epoch is None else {"compacted": {"epoch": self.compacted_epoch}}
        return {
            "ok": True,
            "changes": self.changes,
            "payloads": self.payloads,
            "receipts": self.receipts,
            "certificates": self.certificates,
            **compacted,
        }
