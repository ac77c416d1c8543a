"""The commands that say how complete a file is: what is here, who has what, and waiting for it."""

from __future__ import annotations

from typing import Annotated

import typer

from klal.cli.options import Change, File, Json, full_change, now, open_replica
from klal.cli.output import Exit, Output
from klal.errors import IncompleteError

held = typer.Typer(rich_markup_mode=None)


@held.command()
def status(file: File, as_json: Json = False) -> int:
    """Show how much of the whole is here, and what is waited for."""
    from klal.cli import standing

    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        report = replica.status().to_json()
    ascii_only = out.console.options.ascii_only
    out.answer(report, lambda out: out.draw(standing.status(report, now_unix_ms=now(), ascii_only=ascii_only)))
    return Exit.DONE


@held.command()
def coverage(
    file: File,
    moment: Annotated[
        str | None, typer.Argument(metavar="[MOMENT]", help="epoch:N, or as for at. [default: all that is known]")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show how much of an epoch or a moment is here, who holds it and who owes.

    Unless it is whole, the exit code is 3.
    """
    from klal.cli import standing

    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        found = replica.coverage(moment)
    report = found.to_json()
    ascii_only = out.console.options.ascii_only
    out.answer(report, lambda out: out.draw(standing.coverage(report, now_unix_ms=now(), ascii_only=ascii_only)))
    return Exit.DONE if found.is_whole else Exit.INCOMPLETE


@held.command()
def missing(file: File, as_json: Json = False) -> int:
    """List what is known and not here, and who has it."""
    from klal.cli import render

    with open_replica(file) as replica:
        report = [item.to_json() for item in replica.missing()]
    Output(as_json=as_json).answer(report, lambda out: out.draw(render.missing(report)))
    return Exit.DONE


@held.command("only-here")
def only_here(file: File, as_json: Json = False) -> int:
    """List my changes that nobody else is known to hold.

    Where there are any, the exit code is 3: this file is not to be lost yet.
    """
    from klal.cli import render, standing

    with open_replica(file) as replica:
        report = [entry.to_json() for entry in replica.only_here()]

    def draw(out: Output) -> None:
        out.draw(render.log(report, now_unix_ms=now()) if report else standing.nothing_only_here())

    Output(as_json=as_json).answer(report, draw)
    return Exit.INCOMPLETE if report else Exit.DONE


@held.command("who-has")
def who_has(file: File, change: Change, as_json: Json = False) -> int:
    """Say who is known to hold one change."""
    from klal.cli import standing

    with open_replica(file) as replica:
        report = replica.who_has(full_change(replica, change)).to_json()
    Output(as_json=as_json).answer(report, lambda out: out.draw(standing.holders(report)))
    return Exit.DONE


@held.command()
def wait(
    file: File,
    change: Change,
    held_by: Annotated[
        str, typer.Option("--held-by", metavar="WHO", help="A number of members, quorum, all, or stable.")
    ] = "all",
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after S seconds; 0 looks once.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Wait until a change is known to be held by others.

    Nothing is sent: another program must sync this file. Where time runs out first, the exit code is 3.
    """
    from klal.cli import standing

    wanted = int(held_by) if held_by.isascii() and held_by.isdigit() else held_by
    with open_replica(file) as replica:
        name = full_change(replica, change)
        try:
            found, code = replica.wait(name, held_by=wanted, timeout=timeout), Exit.DONE
        except IncompleteError:
            found, code = replica.who_has(name), Exit.INCOMPLETE
    report = found.to_json()
    Output(as_json=as_json).answer(report, lambda out: out.draw(standing.holders(report)))
    return code
