"""Commands about who belongs and who decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from klal.cli.options import File, Json, Other, Reason, home, open_replica
from klal.cli.output import Exit, Output

members = typer.Typer(rich_markup_mode=None)


@members.command()
def retire(file: File, member: Other, reason: Reason, as_json: Json = False) -> int:
    """Go on without a member in the open epoch: the certificate will say without whom, and why.

    Only the steward can. The member's work is not lost: it enters a later epoch, named late.
    """
    from klal.cli.text import shown

    with open_replica(file) as replica:
        epoch = replica.retire(member, reason)
    report = {"epoch": epoch, "member": member, "reason": reason}
    line = Text.assemble(f"epoch {epoch} goes on without ", (shown(member), "bold"))
    Output(as_json=as_json).answer(report, lambda out: out.say(line))
    return Exit.DONE


@members.command()
def expel(file: File, member: Other, reason: Reason, as_json: Json = False) -> int:
    """End a membership: what I have not seen of theirs waits for another member's word.

    Only the steward can, and only a steward admits the member again.
    """
    from klal.cli.text import shown

    with open_replica(file) as replica:
        epoch = replica.expel(member, reason)
    report = {"epoch": epoch, "member": member, "reason": reason}
    line = Text.assemble((shown(member), "bold"), f" is expelled, in epoch {epoch}")
    Output(as_json=as_json).answer(report, lambda out: out.say(line))
    return Exit.DONE


@members.command()
def admit(file: File, member: Other, as_json: Json = False) -> int:
    """Let in a member who joined too late for its epoch, or who was expelled."""
    from klal.cli.text import shown

    with open_replica(file) as replica:
        replica.admit(member)
    line = Text.assemble((shown(member), "bold"), " is admitted")
    Output(as_json=as_json).answer({"member": member}, lambda out: out.say(line))
    return Exit.DONE


@members.command()
def leave(file: File, as_json: Json = False) -> int:
    """Finish this epoch as my last: my work stays, and nobody waits for me afterwards."""
    with open_replica(file) as replica:
        report = replica.leave().to_json()
    Output(as_json=as_json).answer(report, lambda out: out.say(f"epoch {report['epoch']} finished here as my last"))
    return Exit.DONE


@members.command("return")
def come_back(file: File, as_json: Json = False) -> int:
    """Say that I am back, having left or been retired: I count from the next epoch on."""
    with open_replica(file) as replica:
        replica.come_back()
        name = replica.member_name
    Output(as_json=as_json).answer({"member": name}, lambda out: out.say("back: a member again from the next cut on"))
    return Exit.DONE


@members.command()
def refound(
    file: File,
    new: Annotated[Path, typer.Argument(metavar="NEW", dir_okay=False, help="Where the new database will be.")],
    space: Annotated[str, typer.Option("--space", help="The name of the new space.")],
    as_json: Json = False,
) -> int:
    """Found a space that goes on from this one, with its tables and rows.

    For when fewer than half of the members are left. This file is not touched.
    """
    import klal as library
    from klal.cli.text import counted, shown

    with library.refound(file, new, space=space, home=home()) as replica:
        rows = sum(sum(entry.tables.values()) for entry in replica.log())
        report = {
            "space_id": replica.space_id.hex(),
            "member_id": replica.member_id.hex(),
            "log_id": replica.log_id.hex(),
            "rows": rows,
        }
    line = Text.assemble((shown(space), "bold"), f" goes on from it with {counted(rows, 'row')}")
    Output(as_json=as_json).answer(report, lambda out: out.say(line))
    return Exit.DONE


@members.command()
def steward(
    file: File,
    support: Annotated[
        str | None, typer.Option("--support", metavar="MEMBER", help="Give my voice to who shall be it; or to me.")
    ] = None,
    hand: Annotated[
        str | None, typer.Option("--hand", metavar="MEMBER", help="Hand my place on, from the next epoch.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show who is the steward of the open epoch, support somebody for its place, or hand mine on.

    A lost steward's place passes to who more than half of the epoch's members support.
    """
    with open_replica(file) as replica:
        if hand is not None:
            replica.hand_stewardship(hand)
        report = (replica.stewardship() if support is None else replica.support(support)).to_json()
    Output(as_json=as_json).answer(report, lambda out: _draw_steward(out, report, hand))
    is_decided = any(len(voters) >= report["needed"] for voters in report["supporters"].values())
    return Exit.INCOMPLETE if support is not None and not is_decided else Exit.DONE


def _draw_steward(out: Output, report: dict[str, Any], hand: str | None) -> None:
    from klal.cli.text import counted, listed, shown

    name = report["steward"]
    held = "nobody: the place is vacant" if name is None else shown(name) + (" (me)" if report["mine"] else "")
    out.say(Text.assemble((f"epoch {report['epoch']}", "bold"), " has for steward ", held))
    if hand is not None:
        out.say(Text.assemble(f"from epoch {report['epoch'] + 1} on it is ", (shown(hand), "bold")))
    for candidate, supporters in report["supporters"].items():
        line = f" is supported by {listed(supporters)}, of {counted(report['needed'], 'voice')} needed"
        out.say(Text.assemble((shown(candidate), "bold"), line))
