"""What several commands take, how they open their file, and the way changes are spelled short."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klal.errors import UsageError

if TYPE_CHECKING:
    from klal.replica import Replica

File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A klal database.")]
NewFile = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="Where the new database will be.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing for people.")]
Member = Annotated[str, typer.Option("--member", help="My name in the space.")]
Change = Annotated[str, typer.Argument(metavar="CHANGE", help="As log and sql print it, short or in full.")]
Other = Annotated[str, typer.Argument(metavar="MEMBER", help="A member's name, or the first digits of its id.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; the certificate will say it.")]


def home() -> Path | None:
    """Return the folder that keeps keys, or None for the library's own choice."""
    named = os.environ.get("KLAL_HOME")
    return Path(named) if named else None


def open_replica(file: Path) -> Replica:
    """Return the replica in a file, with the keys of whoever calls."""
    import klal as library

    return library.open(file, home=home())


def now() -> int:
    """Return this machine's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def full_change(replica: Replica, text: str) -> str:
    """Return the full name of the change that `text` abbreviates, or `text` itself where it is not short."""
    log, colon, seq = text.lower().partition(":")
    if not colon or len(log) >= 64:
        return text
    found = [
        name for entry in replica.log() if (name := str(entry.change)).startswith(log) and name.endswith(f":{seq}")
    ]
    if len(found) > 1:
        raise UsageError(f"{text} is short for {len(found)} changes", hint="write more digits of the log")
    if not found:
        raise UsageError(f"no change here is called {text}", hint="klal log lists them")
    return found[0]
