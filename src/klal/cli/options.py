"""What several commands take, and how they open their file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from klal.replica import Replica

File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A klal database.")]
NewFile = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="Where the new database will be.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing for people.")]
Member = Annotated[str, typer.Option("--member", help="My name in the space.")]
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
