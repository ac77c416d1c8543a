"""Every exception klal raises, sorted by who must act.

    KlalError
      UsageError         you called it wrongly                 fix your code
        ConstraintError  UnsupportedError
      IncompleteError    asked for more than is held here      .missing, .waiting_for; sync and ask again
      CopiesError        too few full copies would be left     .waiting_for; nothing was dropped
      RefusedError       foreign bytes broke a rule            .rule, .evidence; nothing was stored
        MalformedError  SignatureError  LinkError  ForkError  MembershipError
      StoreError         the disk or the file                  .hint
        BusyError  DamagedError  ForeignWritesError  NotKlalError  NewerFormatError  ReadOnlyError
      TransportError     the wire                              try again

"Not yet", "already have it" and "nothing to do" are values, never exceptions.

The one choice a reader would question: a message says what was found and what was wanted, and no more.
Advice goes into `hint`, because a library's caller logs the message and only a person at a terminal can use advice.

Law: whatever the bytes, the doors for foreign bytes raise `RefusedError` or nothing. Anything else is our bug.
"""

from collections.abc import Iterable
from typing import Any, ClassVar


class KlalError(Exception):
    """What every exception of klal is.

    `str(error)` is one sentence: lower case, what was found and then what was wanted, short ids, no advice.

    Args:
        message: That sentence.
        hint: What a person could do about it. The command line prints it; the library never does.
        rule: The id of the rule that decided, as the protocol spec numbers it ("LOG-3"); "" where none did.
    """

    retryable: ClassVar[bool] = False
    """True when the same call, unchanged, may succeed later."""

    message: str
    hint: str
    rule: str

    def __init__(self, message: str, *, hint: str = "", rule: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.rule = rule


class UsageError(KlalError):
    """The call was wrong, and would be wrong on every replica: fix the code, or ask for something else.

    A statement that klal does not capture, an unknown table, a key outside its range. Nothing was changed.
    """


class ConstraintError(UsageError):
    """A row breaks a constraint of its table; the statement was undone."""


class UnsupportedError(UsageError):
    """SQL that SQLite could run and klal cannot replicate, or does not let pass; the sentence says which."""


class IncompleteError(KlalError):
    """The answer is "not yet": it would need something that is not held here.

    Args:
        message: What was asked for, and that it must wait.
        missing: The changes or payloads not held, most useful first.
        waiting_for: The members it waits for, each with the reason.
        epoch: The epoch that was asked for, if one was.
        hint: As in `KlalError`.
        rule: As in `KlalError`.
    """

    missing: tuple[Any, ...]
    waiting_for: tuple[Any, ...]
    epoch: int | None

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[Any] = (),
        waiting_for: Iterable[Any] = (),
        epoch: int | None = None,
        hint: str = "",
        rule: str = "",
    ) -> None:
        super().__init__(message, hint=hint, rule=rule)
        self.missing = tuple(missing)
        self.waiting_for = tuple(waiting_for)
        self.epoch = epoch


class CopiesError(KlalError):
    """Fewer full copies would be left than are wanted, or others rely on the one here. Nothing was dropped.

    Args:
        message: What was wanted, and what is known.
        waiting_for: The members whose word could change that, each with the reason.
        hint: As in `KlalError`.
    """

    waiting_for: tuple[Any, ...]

    def __init__(self, message: str, *, waiting_for: Iterable[Any] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint, rule="CMP-7")
        self.waiting_for = tuple(waiting_for)


class RefusedError(KlalError):
    """Foreign bytes broke a rule. Nothing of them was stored, and the session may go on.

    Args:
        message: What was found, and what was wanted.
        rule: The rule that refused them, as the protocol spec numbers it.
        evidence: What proves it to somebody else: a hash, a pair of headers, the bytes; None where there is nothing.
        hint: As in `KlalError`.
    """

    evidence: Any

    def __init__(self, message: str, *, rule: str = "", evidence: Any = None, hint: str = "") -> None:
        super().__init__(message, hint=hint, rule=rule)
        self.evidence = evidence


class MalformedError(RefusedError):
    """The bytes are not the one encoding that means what they try to say, or go beyond a limit."""


class SignatureError(RefusedError):
    """The bytes are well formed, and the member they name did not sign them."""


class LinkError(RefusedError):
    """A hash names a different predecessor, past or payload than the one that is held."""


class ForkError(RefusedError):
    """Members signed for two things of which only one can be; `evidence` holds both."""


class MembershipError(RefusedError):
    """A valid signature by a key that had no right to this act at that point of the history."""


class StoreError(KlalError):
    """The disk or the file failed. What was reported as durable before still is."""


class BusyError(StoreError):
    """Another process is writing to this file and did not finish in time."""

    retryable = True


class DamagedError(StoreError):
    """The file's bytes contradict themselves: a page, a hash or a link in it is not what was written."""


class ForeignWritesError(StoreError):
    """Another program wrote to the tables, and what it wrote is neither adopted nor undone yet. Nothing was done."""


class NotKlalError(StoreError):
    """The path holds something, and it is not a replica."""


class NewerFormatError(StoreError):
    """The file was written by a newer klal, in a format this one cannot promise to keep whole."""


class ReadOnlyError(StoreError):
    """This replica cannot write here: its key is absent, or the file or folder does not allow it."""


class TransportError(KlalError):
    """The wire failed: a peer went away, a folder vanished. Whatever had arrived is kept; sync again."""

    retryable = True
