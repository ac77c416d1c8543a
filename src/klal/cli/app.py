"""The commands: each reads its arguments, calls the library once, and shows the answer.

No rule lives here. What `--json` prints is the report's own `to_json()`, so a program that reads it and one that
imports klal see the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from klal.cli.carried import bundle
from klal.cli.held import held
from klal.cli.members import members
from klal.cli.options import File, Json, Member, NewFile, full_change, home, now, open_replica
from klal.cli.output import Exit, Output
from klal.cli.serving import serving, stay, token_in
from klal.cli.snapshotting import snapshotting
from klal.errors import BusyError, IncompleteError, KlalError, RefusedError, StoreError, UsageError
from klal.model.codec import EPOCH_MAX

if TYPE_CHECKING:
    from klal.replica import Replica

# typer carries its own click in some releases and imports it in others; the ancestor of BadParameter is right in both.
_CommandLineError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="klal",
    help="An embedded replicated SQLite database that can prove when nothing is missing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(members)
app.add_typer(held)
app.add_typer(serving)
app.add_typer(snapshotting)
app.add_typer(bundle, name="bundle")


def run(arguments: list[str]) -> int:
    """Run one command line.

    Returns:
        The exit code. An exception that is not klal's own is a bug and passes through, with its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped; it must not become a traceback.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    out = Output(as_json="--json" in options)
    if not arguments:
        app(args=["--help"], prog_name="klal", standalone_mode=False)
        return Exit.USAGE
    try:
        return int(app(args=arguments, prog_name="klal", standalone_mode=False) or 0)
    except KlalError as error:
        return out.error(error)
    except _CommandLineError as error:
        return out.error(UsageError(_sentence(error), hint=_help_for(error)))
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return Exit.FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, `head` for one, has what it wanted. What is still buffered must not be complained about at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


def _sentence(error: Any) -> str:
    message = str(error.format_message()).strip().rstrip(".")
    return message[:1].lower() + message[1:]


def _help_for(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help lists what it takes" if context is not None else ""


# --- a space, and who is in it ---------------------------------------------------------------------------------------


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"klal {version('klal')}")
        raise typer.Exit


@app.callback()
def klal(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """An embedded replicated SQLite database that can prove when nothing is missing."""


@app.command()
def init(
    file: NewFile,
    space: Annotated[str, typer.Option("--space", help="The name of the new space.")],
    member: Member,
    as_json: Json = False,
) -> int:
    """Begin a new space, with me as its first member."""
    import klal as library

    with library.create(file, space=space, member=member, home=home()) as replica:
        _identity(Output(as_json=as_json), replica, f"is the first file of the space {replica.space_name}")
    return Exit.DONE


@app.command()
def invite(
    file: File,
    uses: Annotated[int, typer.Option("--uses", min=1, help="How many may join with it.")] = 100,
    as_json: Json = False,
) -> int:
    """Print a ticket, with which others may join.

    Whoever has it may join, offline, without asking again: it is a secret.
    """
    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        ticket = replica.invite(use_count_max=uses)
    if as_json:
        out.json({"ticket": ticket})
    else:
        print(ticket)  # bare, so that it can be piped into a file
    return Exit.DONE


@app.command()
def join(
    file: NewFile,
    ticket: Annotated[str, typer.Argument(metavar="TICKET", help="What invite printed; - reads it from stdin.")],
    member: Member,
    as_json: Json = False,
) -> int:
    """Make a new replica of the space of a ticket.

    It works offline; sync brings the whole. With the same home and the same name it is the same member again.
    """
    import klal as library

    text = sys.stdin.read() if ticket == "-" else ticket
    with library.join(file, text.strip(), member=member, home=home()) as replica:
        _identity(Output(as_json=as_json), replica, f"is a new replica of the space {replica.space_name}")
    return Exit.DONE


def _identity(out: Output, replica: Replica, what: str) -> None:
    report = {
        "space_id": replica.space_id.hex(),
        "member_id": replica.member_id.hex(),
        "log_id": replica.log_id.hex(),
    }

    def draw(out: Output) -> None:
        from klal.cli.text import shown

        out.say(Text.assemble((shown(str(replica.path)), "bold"), f" {shown(what)}"))
        out.say(f"space {report['space_id'][:8]}, member {shown(replica.member_name)} {report['member_id'][:8]}")

    out.answer(report, draw)


# --- rows ------------------------------------------------------------------------------------------------------------


@app.command()
def sql(
    file: File,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One statement; what it writes is one change.")],
    as_json: Json = False,
) -> int:
    """Run one SQL statement."""
    from klal.cli import render
    from klal.cli.text import counted, rows_as_objects, short_change

    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        result = replica.execute(statement)
    change = None if result.change is None else str(result.change)
    if result.columns and change is None:
        objects = rows_as_objects(result.columns, result.rows)
        out.answer(objects, lambda out: render.rows(out, result.columns, result.rows))
        return Exit.DONE
    report: dict[str, Any] = {"row_count": result.row_count, "change": change}
    if result.columns:  # RETURNING
        report["rows"] = rows_as_objects(result.columns, result.rows)

    def draw(out: Output) -> None:
        if result.columns:
            render.rows(out, result.columns, result.rows)
        what = f"change {short_change(change)}" if change else "no change"
        out.say(f"{counted(result.row_count, 'row')}, {what}")

    out.answer(report, draw)
    return Exit.DONE


@app.command("import")
def import_csv(
    file: File,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table that is there.")],
    csv: Annotated[Path, typer.Argument(metavar="CSV", exists=True, dir_okay=False, help="UTF-8, with a header row.")],
    null: Annotated[
        list[str] | None,
        typer.Option("--null", metavar="TEXT", help="A field spelled so is NULL; may be given again. [default: empty]"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Add the rows of a CSV file to a table, in one change.

    All of them are added, or none. A value becomes a number where its column is declared so and it spells one.
    """
    from klal.cli.csvfile import CsvReader, match_columns, require_csv
    from klal.cli.text import counted, short_change, shown

    out = Output(as_json=as_json)
    require_csv(csv)
    with open_replica(file) as replica, CsvReader(csv, nulls=[""] if null is None else null) as reader:
        tables = {name.lower(): name for name in replica.tables()}
        if table.lower() not in tables:
            raise RefusedError(
                f"there is no table {table!r} in {file.name}",
                hint=f'klal sql {file} "{reader.guess_table(table)}"'.replace('""', '\\"'),
            )
        table = tables[table.lower()]
        converters = match_columns(reader, table, replica.table_columns(table))
        with out.progress(f"reading {csv.name}") as update:
            rows = _watched(reader, reader.rows(converters), csv.stat().st_size, update)
            try:
                result = replica.insert_many(table, rows, columns=reader.columns)
            except KlalError as error:
                if isinstance(error, RefusedError) and error.message.startswith(csv.name):
                    raise
                # Rows are written in batches, so the line is at most a batch behind what was read.
                raise RefusedError(
                    f"{csv.name}, near line {reader.line:,}: {error}; nothing was imported",
                    hint=error.hint,
                    rule=error.rule,
                ) from error
    change = None if result.change is None else str(result.change)
    out.answer(
        {"row_count": result.row_count, "change": change},
        lambda out: out.say(
            f"{counted(result.row_count, 'row')} into {shown(table)}, "
            + (f"change {short_change(change)}" if change else "no change")
        ),
    )
    return Exit.DONE


def _watched(reader: Any, rows: Iterator[Any], size: int, update: Any) -> Iterator[Any]:
    """Pass rows on, telling the bar how many bytes of the file are read."""
    from klal.reports import Progress

    for number, row in enumerate(rows):
        if number % 5_000 == 0:
            update(Progress(phase="", done=reader.size_read, total=size))
        yield row


@app.command("export")
def export_csv(
    file: File,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table.")],
    csv: Annotated[Path, typer.Argument(metavar="CSV", dir_okay=False, help="Where the rows go.")],
    *,
    null: Annotated[str, typer.Option("--null", metavar="TEXT", help="How NULL is spelled. [default: empty]")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: Json = False,
) -> int:
    """Write a table as CSV, ordered by its primary key.

    Equal tables give equal files.
    """
    from klal.cli.csvfile import require_csv, write_csv
    from klal.cli.text import counted, listed, shown

    out = Output(as_json=as_json)
    require_csv(csv)
    with open_replica(file) as replica:
        tables = {name.lower(): name for name in replica.tables()}
        if table.lower() not in tables:
            raise RefusedError(
                f"there is no table {table!r} in {file.name}", hint=f"its tables: {listed(list(tables.values()))}"
            )
        found = _ordered(replica, tables[table.lower()])
        with out.progress(f"writing {csv.name}"):
            count = write_csv(csv, found.columns, iter(found), null=null, replace=force)
    out.answer(
        {"row_count": count, "path": str(csv)},
        lambda out: out.say(f"{counted(count, 'row')} of {shown(table)} in {shown(str(csv))}"),
    )
    return Exit.DONE


def _ordered(replica: Replica, table: str) -> Any:
    """Return all rows of `table` in the order of its primary key."""
    from klal.cli.csvfile import quoted

    order = ", ".join(map(quoted, replica.table_key(table)))
    return replica.query(f"SELECT * FROM {quoted(table)} ORDER BY {order}")  # noqa: S608 - both names are quoted


# --- exchange --------------------------------------------------------------------------------------------------------


@app.command()
def sync(
    file: File,
    remotes: Annotated[
        list[str], typer.Argument(metavar="REMOTE...", help="Other klal files, folders, bundles, or URLs of hubs.")
    ],
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", metavar="N", min=1, help="Carry at most this much; go on next time.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay connected to hubs, and send what is new at once.")] = (
        False
    ),
    token_file: Annotated[
        Path | None, typer.Option("--token-file", exists=True, dir_okay=False, help="A token to show to hubs.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Exchange what is missing, with each remote in turn."""
    from klal.cli import render
    from klal.cli.text import counted, shown

    out = Output(as_json=as_json)
    token = "" if token_file is None else token_in(token_file)
    if watch:
        if max_bytes is not None or not all(remote.lower().startswith(("ws://", "wss://")) for remote in remotes):
            raise UsageError("--watch wants URLs of hubs, and no --max-bytes")
        return stay(file, remotes, token, out)
    with open_replica(file) as replica, out.progress("exchanging") as update:
        report = replica.sync(*remotes, progress=update, byte_count_max=max_bytes, token=token).to_json()
        coverage = replica.coverage()
    refused = report.get("refused", [])
    lacking = (coverage.known - coverage.held) + (coverage.payloads_known - coverage.payloads_held)

    def draw(out: Output) -> None:
        out.draw(render.traffic(report))
        if not report["finished"]:
            out.say(Text.assemble(("stopped", "bold yellow"), ": the limit was reached; what arrived whole is kept"))
        elif report["equal"]:
            out.say(Text.assemble(("equal", "bold green"), f": both sides hold the same, root {report['root'][:16]}"))
        else:
            owed = [
                counted(coverage.known - coverage.held, "header"),
                counted(coverage.payloads_known - coverage.payloads_held, "payload"),
            ]
            here = f"{' and '.join(owed)} known and not here" if lacking else "the other side holds less than this file"
            out.say(Text.assemble(("not equal yet", "bold yellow"), f": {here}"))
        for remote in report["only_gave"]:
            out.say(f"note: {shown(remote)} took nothing: the key of its member is not at hand, so it only gives")
        for sentence in refused:
            out.say(Text.assemble(("refused: ", "bold yellow"), shown(sentence)))

    out.answer(report, draw)
    return Exit.DONE


@app.command()
def conflicts(file: File, as_json: Json = False) -> int:
    """List values that did not win, with those that did.

    Two members wrote them without knowing of each other. klal resolve settles one.
    """
    from klal.cli import render

    with open_replica(file) as replica:
        report = [item.to_json() for item in replica.conflicts()]
    Output(as_json=as_json).answer(report, lambda out: out.draw(render.conflicts(report, now_unix_ms=now())))
    return Exit.DONE


@app.command()
def resolve(
    file: File,
    conflict: Annotated[str, typer.Argument(metavar="ID", help="As klal conflicts or violations prints it.")],
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", help="What the cell shall show.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="What stands shall stand.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="The row shall be deleted.")] = False,
    as_json: Json = False,
) -> int:
    """Settle a conflict with one write that has seen both sides."""
    from klal.cli.text import short_change

    with open_replica(file) as replica:
        if value is None:
            report = replica.resolve(conflict, keep=keep, delete=delete).to_json()
        else:
            report = replica.resolve(conflict, value, keep=keep, delete=delete).to_json()
    Output(as_json=as_json).answer(report, lambda out: out.say(f"settled in change {short_change(report['change'])}"))
    return Exit.DONE


@app.command()
def watch(
    file: File,
    query: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT.")],
    since: Annotated[
        list[str] | None,
        typer.Option("--since", metavar="CHANGE", help="Begin with what changed since; give all heads of an event."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Leave after the first event.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", min=0, help="Leave after S seconds without an event.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Print which rows of a query come and go, as changes arrive.

    Changes of any program that writes through klal are shown, until it is interrupted.
    """
    from klal.cli import render
    from klal.cli.text import rows_as_objects

    out = Output(as_json=as_json)
    is_empty = True
    with open_replica(file) as replica:
        heads = None if since is None else [full_change(replica, change) for change in since]
        for event in replica.watch(query, since=heads, timeout=timeout):
            is_empty = False
            if as_json:
                ways = {way: rows_as_objects(event.added.columns, getattr(event, way)) for way in ("removed", "added")}
                out.json_line({**event.to_json(), **ways})
            else:
                render.event(out, event)
            sys.stdout.flush()
            if once:
                break
    return Exit.INCOMPLETE if once and is_empty else Exit.DONE


@app.command()
def violations(file: File, as_json: Json = False) -> int:
    """List what a merge let stand though a constraint speaks against it.

    Rows that share a UNIQUE value are shown one at a time; what breaks a CHECK or a FOREIGN KEY stays.
    """
    from klal.cli import render

    with open_replica(file) as replica:
        report = [item.to_json() for item in replica.violations()]
    Output(as_json=as_json).answer(report, lambda out: out.draw(render.violations(report)))
    return Exit.DONE


# --- closing the books -----------------------------------------------------------------------------------------------


@app.command()
def finish(
    file: File,
    alone: Annotated[
        bool, typer.Option("--alone", help="Finish although invitations are out and nobody was heard of.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say that I have nothing more to add to this epoch."""
    from klal.cli.text import counted

    with open_replica(file) as replica:
        report = replica.finish(alone=alone).to_json()
        is_only_one = len(replica.members()) == 1
    length = sum(log["length"] for log in report["logs"])

    def draw(out: Output) -> None:
        out.say(f"epoch {report['epoch']} finished here with {counted(length, 'change')} of mine")
        if is_only_one:
            out.say("note: no other member is known here; who joined and was not met is counted in the next epoch")

    Output(as_json=as_json).answer(report, draw)
    return Exit.DONE


@app.command()
def close(
    file: File,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", min=0, max=EPOCH_MAX, help="Which epoch. [default: the newest I have finished]"),
    ] = None,
    path: Annotated[Path | None, typer.Option("--out", metavar="PATH", help="Where the certificate goes.")] = None,
    as_json: Json = False,
) -> int:
    """Close an epoch, and write its certificate.

    Where that must wait, it says for whom and for what, with exit code 3.
    """
    from klal.cli import render
    from klal.cli.text import shown

    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        try:
            closed = replica.close_epoch(epoch)
        except IncompleteError as error:
            number = getattr(error, "epoch", epoch)
            waiting = [item.to_json() for item in error.waiting_for]
            report: dict[str, Any] = {"epoch": number, "waiting_for": waiting}
            out.answer(report, lambda out: out.draw(render.waiting(number or 0, waiting)))
            return Exit.INCOMPLETE
    target = path or file.with_name(f"{file.stem}.epoch-{closed.epoch}.certificate")
    _replace(target, closed.certificate.encode())
    found = closed.to_json()
    report = {
        "epoch": closed.epoch,
        "certificate": str(target),
        "hash": closed.certificate.hash.hex(),
        "grade": closed.grade,
        "without": found["without"],
        "state": closed.state,
        "members": sorted(witness.member.name for witness in closed.certificate.witness),
    }

    def draw(out: Output) -> None:
        out.draw(render.closed(report))
        out.say(Text.assemble(("file   ", "bold"), shown(str(target))))

    out.answer(report, draw)
    return Exit.DONE


@app.command()
def compact(
    file: File,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", min=0, max=EPOCH_MAX, help="Below which epoch. [default: the newest that is closed]"),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", metavar="K", min=1, help="How many others must have shown a full copy.")
    ] = 2,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where the file does not become smaller.")] = False,
    as_json: Json = False,
) -> int:
    """Put down old payloads below a closed epoch, so that they no longer take space.

    The first time it asks the others to show their copies: sync, let them sync, sync again, and run it again.
    Where it must wait, it says for whom, with exit code 3; where too few full copies are known, with 1.
    """
    from klal.cli import render

    out = Output(as_json=as_json)
    with open_replica(file) as replica, out.progress("compacting") as update:
        try:
            report: dict[str, Any] = replica.compact(epoch, keep=keep, anyway=anyway, progress=update).to_json()
        except IncompleteError as error:
            waiting = [item.to_json() for item in error.waiting_for]
            report = {"compacted": False, "reason": str(error), "waiting_for": waiting}
            out.answer(report, lambda out: out.draw(render.not_compacted(report)))
            return Exit.INCOMPLETE
    out.answer(report, lambda out: out.draw(render.compacted(report)))
    return Exit.DONE


def _replace(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; only a certificate is ever replaced."""
    from klal.model.certificate import MAGIC

    if path.exists() and not _begins_with(path, MAGIC):
        raise StoreError(f"{path} is there already, and is not a certificate", hint="--out names another place")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


# --- looking back, and proof -----------------------------------------------------------------------------------------


@app.command()
def log(
    file: File,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The newest N only.")] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="TABLE", help="Only what wrote this table.")] = None,
    as_json: Json = False,
) -> int:
    """List changes, newest first."""
    from klal.cli import render

    with open_replica(file) as replica:
        report = [entry.to_json() for entry in replica.log(limit=limit, table=table)]
    Output(as_json=as_json).answer(report, lambda out: out.draw(render.log(report, now_unix_ms=now())))
    return Exit.DONE


AsOf = Annotated[
    str, typer.Argument(metavar="MOMENT", help="now, epoch:N, a time, a change, a root, or a name somebody gave.")
]


@app.command()
def at(
    file: File,
    moment: AsOf,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT.")],
    as_json: Json = False,
) -> int:
    """Run a SELECT as of a moment of the past, under the tables of then."""
    from klal.cli import render
    from klal.cli.text import rows_as_objects

    with open_replica(file) as replica, replica.at(_moment(replica, moment)) as then:
        rows = then.query(statement)
    objects = rows_as_objects(rows.columns, rows)
    Output(as_json=as_json).answer(objects, lambda out: render.rows(out, rows.columns, rows))
    return Exit.DONE


def _moment(replica: Replica, text: str) -> str:
    """Return what was asked for, a change spelled in full."""
    log, colon, seq = text.partition(":")
    is_short = colon and seq.isdigit() and 0 < len(log) < 64 and set(log.lower()) <= set("0123456789abcdef")
    return full_change(replica, text) if is_short else text


@app.command()
def moment(
    file: File,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The name; none lists those given.")] = None,
    as_json: Json = False,
) -> int:
    """Give the present state a name that every replica will know, or list the names given."""
    from klal.cli import render
    from klal.cli.text import counted, shown

    out = Output(as_json=as_json)
    with open_replica(file) as replica:
        if name is None:
            listed = [each.to_json() for each in replica.moments()]
            out.answer(listed, lambda out: out.draw(render.moments(listed, now_unix_ms=now())))
            return Exit.DONE
        report = replica.name_moment(name).to_json()

    def draw(out: Output) -> None:
        what = f" is the state of {counted(report['changes'], 'change')}, root {report['root'][:16]}"
        out.say(Text.assemble((shown(report["name"]), "bold"), what))

    out.answer(report, draw)
    return Exit.DONE


@app.command()
def history(
    file: File,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The row's key; of several columns, a JSON list.")],
    as_json: Json = False,
) -> int:
    """List every version of a row: who wrote what and when, and what of it lost."""
    from klal.cli import render
    from klal.cli.csvfile import spelled_key

    with open_replica(file) as replica:
        types = dict(replica.table_columns(table))
        declared = [types[name] for name in replica.table_key(table)]
        report = [version.to_json() for version in replica.history(table, spelled_key(key, declared))]
    Output(as_json=as_json).answer(report, lambda out: out.draw(render.history(report, now_unix_ms=now())))
    return Exit.DONE


@app.command()
def diff(
    file: File,
    before: Annotated[str, typer.Argument(metavar="A", help="A moment, as for at.")],
    after: Annotated[str, typer.Argument(metavar="[B]", help="A later one. [default: now]")] = "now",
    as_json: Json = False,
) -> int:
    """List the rows that are not the same in two moments."""
    from klal.cli import render

    with open_replica(file) as replica:
        found = replica.diff(_moment(replica, before), _moment(replica, after))
    report = [change.to_json() for change in found]
    Output(as_json=as_json).answer(report, lambda out: out.draw(render.diff(report)))
    return Exit.DONE


@app.command()
def prove(
    file: File,
    what: Annotated[str | None, typer.Argument(metavar="[CHANGE|TABLE]", help="A change, or with KEY a table.")] = None,
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="The row's key; of several columns, a JSON list.")
    ] = None,
    *,
    to: Annotated[Path, typer.Option("--to", metavar="PROOF", dir_okay=False, help="Where the proof goes.")],
    epoch: Annotated[
        int | None,
        typer.Option(
            "--epoch", min=0, max=EPOCH_MAX, help="Under the certificate of which epoch. [default: the newest]"
        ),
    ] = None,
    member: Annotated[str | None, typer.Option("--member", help="Prove that this member was counted.")] = None,
    since: Annotated[
        int | None, typer.Option("--since", min=0, help="Prove who named the certificate, to a spark of this epoch.")
    ] = None,
    payload: Annotated[bool, typer.Option("--payload", help="Show the change's payload too.")] = False,
    as_json: Json = False,
) -> int:
    """Prove one change, row, absent row or member by a small file.

    Whoever has the hash of a certificate can check it, with nothing else. With neither of them it proves which
    members signed for the certificate.
    """
    from klal.cli import proving

    out = Output(as_json=as_json)
    proving.require_one(what, member, since, payload=payload, key=key)
    with open_replica(file) as replica:
        if member is not None:
            proof = replica.prove.member(member, epoch=epoch)
        elif what is None:
            proof = replica.prove.named(epoch=epoch, since=since)
        elif key is None:
            proof = replica.prove.change(full_change(replica, what), epoch=epoch, with_payload=payload)
        else:
            proof = replica.prove.row(what, proving.spelled(replica, what, key), epoch=epoch)
    report = proving.written(to, proof)
    out.answer(report, lambda out: proving.draw_written(out, report))
    return Exit.DONE


@app.command()
def verify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|CERTIFICATE|PROOF...", exists=True, dir_okay=False, help="Told apart by content."),
    ],
    certificate: Annotated[
        str | None,
        typer.Option("--certificate", metavar="CERTIFICATE|HASH", help="Which certificate a proof must be under."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Check every hash, link and signature of what is given.

    A database: everything it holds. A certificate: everything it says about itself; several of them as a chain;
    with a database beside them, against its history. A proof: that what it claims follows from its certificate.
    """
    from klal.cli import proving, render

    out = Output(as_json=as_json)
    kinds = [proving.kind_of(path) for path in files]
    proving.require_kinds(kinds, is_compared=certificate is not None)
    try:
        if kinds == ["proof"]:
            report, draw = proving.verify_proof(files[0], certificate), proving.draw_proof
        elif "certificate" in kinds:
            named = [path for path, kind in zip(files, kinds, strict=True) if kind == "certificate"]
            chain, report = proving.verify_certificates(named)
            draw = proving.draw_certificates
            if "file" in kinds:
                with open_replica(files[kinds.index("file")]) as replica, out.progress("checking") as update:
                    report = proving.compared(replica, chain, report, update)
        else:
            with open_replica(files[0]) as replica, out.progress("checking") as update:
                report = replica.verify(progress=update).to_json()

            def draw(out: Output, report: dict[str, Any]) -> None:
                out.draw(render.verified(report))
    except BusyError:
        raise
    except (RefusedError, StoreError) as error:
        evidence = getattr(error, "evidence", None)
        where = str(files[0]) if evidence is None else evidence.hex() if isinstance(evidence, bytes) else str(evidence)
        if as_json:
            out.json({"ok": False, "rule": error.rule, "what": str(error), "where": where})
            return Exit.FAILED
        raise
    out.answer(report, lambda out: draw(out, report))
    return Exit.DONE


@app.command()
def spark(
    state: Annotated[Path, typer.Argument(metavar="SPARK", dir_okay=False, help="The light client's own file.")],
    items: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PROOF|CERTIFICATE]...", exists=True, dir_okay=False, help="What to show it."),
    ] = None,
    hashed: Annotated[
        str | None, typer.Option("--hash", metavar="HEX", help="Begin: the certificate's hash, from whom you trust.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Check single changes and rows by proof, holding nothing but the outline of one certificate."""
    from klal.cli import proving

    return proving.run_spark(state, items or (), hashed, Output(as_json=as_json))


@app.command()
def behind(
    file: File,
    adopt: Annotated[bool, typer.Option("--adopt", help="Make the rows one change of mine.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put the rows back as history says.")] = False,
    as_json: Json = False,
) -> int:
    """List what another program wrote to the tables, past klal.

    Until it is adopted or undone, nothing is synced, finished or closed here.
    """
    from klal.cli import render
    from klal.cli.text import counted, short_change, shown

    out = Output(as_json=as_json)
    if adopt and undo:
        raise UsageError("what was written can be adopted or undone, not both")
    with open_replica(file) as replica:
        if not (adopt or undo):
            report = [item.to_json() for item in replica.foreign_writes()]
            out.answer(report, lambda out: out.draw(render.foreign_writes(report)))
            return Exit.DONE
        result = replica.adopt() if adopt else replica.undo()
        left = [item.obstacle for item in replica.foreign_writes()]
    change = None if result.change is None else str(result.change)

    def draw(out: Output) -> None:
        done = f"adopted, change {short_change(change)}" if change else "adopted" if adopt else "put back"
        out.say(f"{counted(result.row_count, 'row')} {done}")
        for sentence in left:
            out.say(Text.assemble(("still there: ", "bold yellow"), shown(sentence)))

    out.answer({**result.to_json(), "left": left}, draw)
    return Exit.DONE


@app.command()
def heal(
    file: File,
    adopt: Annotated[bool, typer.Option("--adopt", help="Make rows that history does not give a change of mine.")] = (
        False
    ),
    undo: Annotated[bool, typer.Option("--undo", help="Leave such rows behind in the old file.")] = False,
    as_json: Json = False,
) -> int:
    """Make a whole file of a damaged one.

    Everything is computed again from what is good of its signed history; the old file is kept beside it.
    """
    import klal as library
    from klal.cli import render

    out = Output(as_json=as_json)
    if adopt and undo:
        raise UsageError("such rows can be adopted or left behind, not both")
    with out.progress("healing") as update:
        healed = library.heal(file, rows="adopt" if adopt else "undo" if undo else "ask", home=home(), progress=update)
    report = healed.to_json()
    out.answer(report, lambda out: out.draw(render.healed(report)))
    return Exit.DONE


@app.command()
def backup(
    file: File,
    to: Annotated[Path, typer.Argument(metavar="TO", dir_okay=False, help="A new path.")],
    as_json: Json = False,
) -> int:
    """Copy everything to a new file.

    The copy does not take along what lets me write under this log: it begins a log of its own.
    """
    from klal.cli.text import shown, sized

    out = Output(as_json=as_json)
    with open_replica(file) as replica, out.progress("copying") as update:
        replica.backup(to, progress=update)
    size = to.stat().st_size
    out.answer({"path": str(to), "bytes": size}, lambda out: out.say(f"{sized(size)} in {shown(str(to))}"))
    return Exit.DONE


# --- to see it work --------------------------------------------------------------------------------------------------


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", file_okay=False, help="Where its files go, in a new folder.")
    ] = Path("demo-files"),
    fast: Annotated[bool, typer.Option("--fast", help="A smaller fleet at the end.")] = False,
    as_json: Json = False,
) -> int:
    """Show three teams closing three seasons on real data."""
    from klal.cli.demo import demo

    return demo(directory, out=Output(as_json=as_json), fast=fast)


@app.command()
def simulate(
    scenario: Annotated[str, typer.Option("--scenario", help="Which scenario.")] = "source",
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", min=3, help="How many.")] = 600_000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="One seed, one run.")] = 1,
    as_json: Json = False,
) -> int:
    """Run a fleet of any size by the same rules, exactly."""
    from klal.cli.simulate import SCENARIOS, simulate

    out = Output(as_json=as_json)
    if scenario not in SCENARIOS:
        raise UsageError(f"scenario {scenario!r} is not known, want {' or '.join(SCENARIOS)}")
    return simulate(scenario=scenario, replicas=replicas, seed=seed, as_json=as_json, console=out.console)


# --- shared ----------------------------------------------------------------------------------------------------------


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error.strerror or error}") from error
