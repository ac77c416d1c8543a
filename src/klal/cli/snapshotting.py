"""The command about snapshots: making one for newcomers, and reading one that came."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from klal.cli.options import File, Json, open_replica
from klal.cli.output import Exit, Output
from klal.errors import UsageError

snapshotting = typer.Typer(rich_markup_mode=None)


@snapshotting.command()
def snapshot(
    file: File,
    statement: Annotated[str | None, typer.Argument(metavar="[SQL]", help="A SELECT over the one that came.")] = None,
    *,
    make: Annotated[bool, typer.Option("--make", help="Make one of the newest complete epoch, for newcomers.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Drop the one that is here.")] = False,
    as_json: Json = False,
) -> int:
    """Give newcomers the rows of the newest close to read before history is there, or read them as one.

    Without anything it says which snapshot is here; the exit code is 3 where there is none.
    """
    from klal.cli import render
    from klal.cli.text import counted, rows_as_objects, shown, sized

    if sum((statement is not None, make, forget)) > 1:
        raise UsageError("one of SQL, --make and --forget is done at a time")
    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        if statement is not None:
            rows = replica.snapshot.query(statement)
            out.answer(rows_as_objects(rows.columns, rows), lambda out: render.rows(out, rows.columns, rows))
            return Exit.DONE
        if forget:
            replica.snapshot.forget()
        found = replica.snapshot.make() if make else replica.snapshot.get()
    report = None if found is None else found.to_json()

    def draw(out: Output) -> None:
        if found is None:
            out.say(Text("no snapshot is here"))
            return
        what = f"snapshot of epoch {found.epoch}: {counted(found.row_count, 'row')}, {sized(found.size)}, {found.state}"
        out.say(Text(what + (f", given by {shown(found.giver)}" if found.giver else "")))

    out.answer(report, draw)
    return Exit.DONE if found is not None or forget else Exit.INCOMPLETE
