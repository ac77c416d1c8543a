"""What members said about epochs, membership and stewardship, as it lies in the file.

Closes are many, one for each member and epoch; the other words are few and carry their
verdict, which was found once, when the change was applied, and never changes.

Source:
    Protocol spec section 9, rules MEM-6 to MEM-11; section 13, EPO-1, EPO-6. Decisions D14, D15, D21.
"""

from __future__ import annotations

from klal.model.acts import Admit, Return, Support, Word, decode_word, encode_act
from klal.rules.closing import Entry, Said, Spoken, Vector, is_seen
from klal.rules.merge import ChangeRef
from klal.store.history import History
from klal.store.sql import Connection
from klal.store.window import order_key

_OWN_RETURN = frozenset({"left", "retired"})
_STEWARDS_WORD = frozenset({"left", "retired", "expelled"})
_NO_EPOCH = -1


class Words:
    """The words of one file. Those without effect are kept too, and shown."""

    def __init__(self, connection: Connection, history: History) -> None:
        self._connection = connection
        self._history = history
        self.load()

    def load(self) -> None:
        """Forget what was read."""
        self._closes: dict[int, dict[bytes, list[ChangeRef]]] = {}
        self._repeated: set[int] = set()  # Epochs that some member closed twice, of those in `_closes`.
        self._words: dict[int, list[Spoken]] | None = None
        self._returns: list[Entry] | None = None

    # -- closes ------------------------------------------------------------------------

    def add_close(self, ref: ChangeRef, member_id: bytes, epoch: int) -> None:
        """Keep an applied Close."""
        self._connection.execute("INSERT OR IGNORE INTO klal_close VALUES(?,?,?,?)", (epoch, *ref, member_id))
        if epoch in self._closes:
            refs = self._closes[epoch].setdefault(member_id, [])
            if ref not in refs:
                refs.append(ref)
                self._sort(epoch, refs)

    def closes(self, epoch: int) -> dict[bytes, list[ChangeRef]]:
        """Return each member's Closes of an epoch that are sealed exactly there, smallest order key first."""
        found = self._closes.get(epoch)
        if found is None:
            found = self._closes[epoch] = {}
            for log, seq, member_id in self._connection.execute(
                "SELECT c.log, c.seq, c.member_id FROM klal_close c"
                " JOIN klal_seal s ON s.log = c.log AND s.length = c.seq + 1 WHERE c.epoch = ? ORDER BY c.log, c.seq",
                (epoch,),
            ).fetchall():
                found.setdefault(member_id, []).append(ChangeRef(log, seq))
            for refs in found.values():
                self._sort(epoch, refs)
        return found

    def _sort(self, epoch: int, refs: list[ChangeRef]) -> None:
        if len(refs) > 1:
            refs.sort(key=self.order)
            self._repeated.add(epoch)

    def is_repeated(self, epoch: int) -> bool:
        """True when some member closed an epoch twice."""
        self.closes(epoch)
        return epoch in self._repeated

    def finished(self, member_id: bytes) -> int:
        """Return the first epoch that this member has not finished, as far as applied here."""
        newest = self._connection.execute("SELECT max(epoch) FROM klal_close").get
        epochs = range(-1 if newest is None else newest, -1, -1)
        return next((epoch + 1 for epoch in epochs if member_id in self.closes(epoch)), 0)

    def order(self, ref: ChangeRef) -> tuple[object, ...]:
        """Return the order key of an applied change."""
        return tuple(order_key(self._history, self._history.logs[ref.log], self._history.read(ref)))

    # -- words -------------------------------------------------------------------------

    def add(self, ref: ChangeRef, number: int, member_id: bytes, word: Word, fault: str | None, *, rank: int) -> None:
        """Keep an applied word with its verdict.

        Args:
            ref, number: The change, and which of its acts.
            rank: 1 if its writer was the steward then.
        """
        self._connection.execute(
            "INSERT OR IGNORE INTO klal_word VALUES(?,?,?,?,?,?,?,?)",
            (*ref, number, epoch_of(word), member_id, encode_act(word), fault, rank),
        )
        self._words = self._returns = None

    def _loaded(self) -> dict[int, list[Spoken]]:
        if self._words is None:
            self._words = {}
            self._returns = []
            rows = self._connection.execute(
                "SELECT log, seq, epoch, member_id, body, rank FROM klal_word WHERE fault IS NULL"
                " ORDER BY log, seq, number"
            ).fetchall()
            for log, seq, epoch, member_id, body, rank in rows:
                ref, word = ChangeRef(log, seq), decode_word(body)
                self._words.setdefault(epoch, []).append(Spoken(ref, member_id, word, self.order(ref)))
                if isinstance(word, Return):
                    self._returns.append(Entry(member_id, ref, _OWN_RETURN))
                elif isinstance(word, Admit):
                    self._returns.append(Entry(word.member, ref, _STEWARDS_WORD if rank else _OWN_RETURN))
        return self._words

    def said(self, epoch: int, within: Vector | None = None) -> Said:
        """Return what was said of an epoch with a right to it, in all that is applied here or within a past."""
        loaded = self._loaded()
        spoken = (*loaded.get(epoch, ()), *loaded.get(_NO_EPOCH, ()))
        words = sorted((each for each in spoken if not isinstance(each.act, Support | Return)), key=_in_order)
        closes = self.closes(epoch)
        if within is None:
            return Said(closes, words)
        inside = {member_id: [ref for ref in refs if is_seen(within, ref)] for member_id, refs in closes.items()}
        return Said(
            {member_id: refs for member_id, refs in inside.items() if refs},
            [each for each in words if is_seen(within, each.change)],
        )

    def votes(self, epoch: int, within: Vector | None = None) -> list[Spoken]:
        """Return the votes of an epoch, in all that is applied here or within a past."""
        votes = [each for each in self._loaded().get(epoch, ()) if isinstance(each.act, Support)]
        return votes if within is None else [each for each in votes if is_seen(within, each.change)]

    def voted(self) -> list[int]:
        """Return the epochs in which anybody voted, ascending."""
        return sorted(
            epoch for epoch, spoken in self._loaded().items() if any(isinstance(each.act, Support) for each in spoken)
        )

    def admitted(self) -> set[bytes]:
        """Return those whom some member admitted."""
        return {each.act.member for each in self._loaded().get(_NO_EPOCH, ()) if isinstance(each.act, Admit)}

    def returns(self) -> list[Entry]:
        """Return where members came back, or were let in again."""
        self._loaded()
        assert self._returns is not None, "it is read together with the words"
        return self._returns

    def without_effect(self) -> list[tuple[bytes, Word, str]]:
        """Return the words that their writers had no right to say: (member id, word, why)."""
        rows = self._connection.execute(
            "SELECT member_id, body, fault FROM klal_word WHERE fault IS NOT NULL ORDER BY log, seq, number"
        ).fetchall()
        return [(member_id, decode_word(body), fault) for member_id, body, fault in rows]


def epoch_of(word: Word) -> int:
    """Return the epoch that a word is about, or -1."""
    return _NO_EPOCH if isinstance(word, Return | Admit) else word.epoch


def _in_order(spoken: Spoken) -> tuple[object, ...]:
    return spoken.order
