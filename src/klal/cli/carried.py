"""The commands for bundles: a file to be carried, made, looked into and taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from klal.cli.options import File, Json, full_change, open_replica
from klal.cli.output import Exit, Output
from klal.errors import UsageError

if TYPE_CHECKING:
    from klal.model.certificate import Certificate
    from klal.replica import Replica

bundle = typer.Typer(rich_markup_mode=None, help="Carry changes in a file: write one, look into it, take it.")

_SIZE = re.compile(r"([0-9]{1,15})([kmg]?)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}


@bundle.command()
def export(
    file: File,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", dir_okay=False, help="A new path.")],
    for_: Annotated[
        str | None, typer.Option("--for", metavar="MEMBER", help="Only what they lack, by their newest receipt here.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="MOMENT", help="Only what lies beyond a moment, as for at, or a certificate."),
    ] = None,
    size_max: Annotated[
        str | None, typer.Option("--size-max", metavar="SIZE", help="Several files of at most this: 700M, 4G.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Write what is held here to a file to be carried, with the newest receipts of all.

    It never writes over anything. With --size-max, a.bundle becomes a.1-of-3.bundle and so on, to be taken in order.
    """
    from klal.cli.text import counted, shown, sized

    out = Output(as_json=as_json)
    with open_replica(file) as replica, out.progress("writing") as update:
        moment = None if since is None else _moment(replica, since)
        limit = None if size_max is None else _size(size_max)
        report = replica.export_bundle(path, for_=for_, since=moment, size_max=limit, progress=update).to_json()

    def draw(out: Output) -> None:
        for each in report["bundles"]:
            what = (
                f"{counted(each['changes'], 'change')}, {counted(each['payloads'], 'payload')}, {sized(each['bytes'])}"
            )
            out.say(Text.assemble((shown(each["path"]), "bold"), f": {what}"))

    out.answer(report, draw)
    return Exit.DONE


@bundle.command()
def status(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="[FILE] BUNDLE", exists=True, dir_okay=False, help="Told apart by content."),
    ],
    as_json: Json = False,
) -> int:
    """Show what a bundle would bring to a file, and what it needs; without a file, what is in it.

    Nothing is taken. Where it needs what is not here, or is damaged, the exit code is 3.
    """
    from klal.bundle.reading import is_bundle
    from klal.bundles import read_bundle
    from klal.cli import render

    out = Output(as_json=as_json)
    path = files[-1]
    if len(files) > 2 or (len(files) == 2 and is_bundle(files[0])):
        raise UsageError("bundle status takes one bundle, and a klal file before it")
    if len(files) == 1:
        found = read_bundle(path)
        is_ready = found.is_whole
    else:
        with open_replica(files[0]) as replica:
            found = replica.bundle_status(path)
        is_ready = found.is_whole and not found.needs
    report = found.to_json()
    out.answer(report, lambda out: out.draw(render.bundle(report, is_compared=len(files) == 2)))
    return Exit.DONE if is_ready else Exit.INCOMPLETE


@bundle.command("import")
def import_(
    file: File,
    paths: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", exists=True, dir_okay=False, help="Taken in this order.")
    ],
    as_json: Json = False,
) -> int:
    """Take what bundles hold and is not here.

    What is whole of a damaged one is kept. Where something of them is not here afterwards, the exit code is 3.
    """
    from klal.cli.text import counted, shown, sized

    out = Output(as_json=as_json)
    with open_replica(file) as replica, out.progress("taking") as update:
        taken = [replica.import_bundle(path, progress=update) for path in paths]
    report = [{"path": str(path), **each.to_json()} for path, each in zip(paths, taken, strict=True)]

    def draw(out: Output) -> None:
        for path, each in zip(paths, taken, strict=True):
            what = f"{counted(each.changes, 'change')} and {counted(each.payloads, 'payload')} new here"
            out.say(Text.assemble((shown(str(path)), "bold"), f" ({sized(each.read)}): {what}"))
            for sentence in each.sentences:
                out.say(Text.assemble(("not here: ", "bold yellow"), shown(sentence)))

    out.answer(report, draw)
    return Exit.DONE if all(each.is_whole for each in taken) else Exit.INCOMPLETE


def _moment(replica: Replica, text: str) -> str | Certificate:
    """Return the certificate in the file that is called so, or the moment as it was spelled, a change in full."""
    import klal as library

    if Path(text).is_file():
        return library.check_certificate_file(text)
    return full_change(replica, text) if re.fullmatch(r"[0-9a-fA-F]{1,63}:[0-9]+", text) else text


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r:.40} is no size: want a number of bytes, or one with K, M or G behind it")
    return int(found[1]) * _FACTORS[found[2].lower()]
