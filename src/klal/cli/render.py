"""Reports as a person reads them.

Every function takes the very values that `--json` prints, so that the two cannot drift apart, and returns something
rich can draw. Nothing here wraps a value across lines: a table too wide for the terminal is shown row by row instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from klal.cli.output import Output
from klal.cli.text import aged, counted, listed, short_change, shown, sized
from klal.reports import Event

Json = Mapping[str, Any]

# --- small pieces ----------------------------------------------------------------------------------------------------


def grid(*rows: Sequence[RenderableType | None], pad: int = 2) -> Table:
    """Return rows aligned in columns, without lines."""
    table = Table.grid(padding=(0, pad))
    for row in rows:
        table.add_row(*row)
    return table


def table(*columns: str, right: Sequence[int] = ()) -> Table:
    """Return an empty table with a head, one rule under it, and nothing else."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return made


def reason(waiting: Json) -> str:
    """Return what one member owes: "3 missing payloads, held by Ana"."""
    reason, count = waiting["reason"], waiting.get("count") or 0
    if reason == "not finished":
        return "has not finished"
    if not count:
        return str(reason)
    return f"{count:,} {reason if count != 1 else reason.removesuffix('s')}"


# --- any rows --------------------------------------------------------------------------------------------------------


def rows(out: Output, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
    """Print rows under their columns; where they are wider than the terminal, one field to a line.

    Written line by line rather than as one rich table, which takes a millisecond for every row.
    """
    names = [shown(column) for column in columns]
    cells = [[shown(value) for value in row] for row in values]
    widths = [max([cell_len(name), *(cell_len(row[i]) for row in cells)]) for i, name in enumerate(names)]
    if sum(widths) + 2 * (len(widths) - 1) > out.console.width and len(names) > 1:
        _records(out, names, values, cells)
    else:
        numbers = [_is_number_column(values, index) for index in range(len(names))]
        out.say(Text("  ".join(map(_aligned, names, widths, numbers)).rstrip(), style="bold"))
        for row, line in zip(values, cells, strict=True):
            text = Text()
            for index, cell in enumerate(line):
                last = index == len(line) - 1 and not numbers[index]
                padded = cell if last else _aligned(cell, widths[index], numbers[index])
                text.append(padded, style="dim" if row[index] is None else "")
                text.append("" if index == len(line) - 1 else "  ")
            out.say(text)
    out.say(counted(len(values), "row"), style="dim")


def _records(
    out: Output, names: Sequence[str], values: Sequence[Sequence[Any]], cells: Sequence[Sequence[str]]
) -> None:
    width = max(map(cell_len, names))
    for number, (row, line) in enumerate(zip(values, cells, strict=True), 1):
        out.say(Text(f"row {number:,}", style="bold"))
        for name, value, cell in zip(names, row, line, strict=True):
            label = (f"  {_aligned(name, width, False)}  ", "cyan")
            out.say(Text.assemble(label, (cell, "dim" if value is None else "")))


def _aligned(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _is_number_column(values: Sequence[Sequence[Any]], index: int) -> bool:
    found = {type(row[index]) for row in values} - {type(None)}
    return bool(found) and found <= {int, float}


# --- reports ---------------------------------------------------------------------------------------------------------


def missing(items: Sequence[Json]) -> RenderableType:
    """Return what is not here, whose it is, and who has it."""
    if not items:
        return Text("nothing that is known is missing here")
    made = table("member", "log", "changes", "missing", "held by", right=(2,))
    for item in items:
        first, stop = item["from"], item["to"]
        changes = f"{first:,}" if stop - first == 1 else f"{first:,} to {stop - 1:,}"
        holders = Text(listed(item["holders"]), style="" if item["holders"] else "yellow")
        made.add_row(shown(item["member"]), item["log"][:8], changes, item["what"], holders)
    return made


def conflicts(items: Sequence[Json], *, now_unix_ms: int) -> RenderableType:
    """Return each conflict with both values side by side, who wrote them and when; the winner is what shows."""
    if not items:
        return Text("no conflicts")
    made = table("id", "table", "key", "column", "shown", "not shown")
    for item in items:
        winner, loser = item["winner"], item["loser"]
        made.add_row(
            shown(item["id"]),
            shown(item["table"]),
            _key(item["key"]),
            shown(item["column"]) if item["column"] else Text("(deleted)", style="dim"),
            _claim(winner, "green", now_unix_ms),
            _claim(loser, "yellow", now_unix_ms),
        )
    return made


def violations(items: Sequence[Json]) -> RenderableType:
    """Return each violation; of a row that is out of sight, its values."""
    if not items:
        return Text("no violations")
    made = table("id", "kind", "table", "key", "what", "the row")
    for item in items:
        row = item["row"] or {}
        made.add_row(
            Text(item["id"], style="dim", no_wrap=True),
            shown(item["kind"]),
            shown(item["table"]),
            shown(item["key"] or ""),
            shown(item["detail"]),
            "\n".join(f"{shown(name)} {shown(value)}" for name, value in row.items()),
        )
    return made


def _key(key: Any) -> str:
    return ", ".join(shown(part) for part in key) if isinstance(key, list | tuple) else shown(key)


def _claim(claim: Json, style: str, now_unix_ms: int) -> Text:
    """Return a value, and under it who wrote it, when, and in which change."""
    value, change = claim["value"], claim["change"]
    when = "" if claim["unix_ms"] is None else f"{aged(claim['unix_ms'], now_unix_ms)} "
    return Text.assemble(
        (shown(value), "dim" if value is None else style),
        f"\n{shown(claim['member'])} {when}",
        (short_change(change) if change else "", "dim"),
    )


def event(out: Output, found: Event) -> None:
    """Print which rows went and which came, and by which change."""
    out.say(Text.assemble("change ", (short_change(str(found.change)), "bold")))
    rows(
        out,
        ["", *found.added.columns],
        [*(("-", *row) for row in found.removed), *(("+", *row) for row in found.added)],
    )


def foreign_writes(items: Sequence[Json]) -> RenderableType:
    """Return what another program wrote, row by row, and why some of it cannot be adopted."""
    if not items:
        return Text("the tables are what history says")
    made = table("table", "key", "column", "history says", "here")
    for item in items:
        key = ", ".join(shown(value) for value in item["key"])
        before, after = item["before"], item["after"]
        if item["kind"] == "updated":
            for name in after:
                made.add_row(shown(item["table"]), key, shown(name), shown(before[name]), shown(after[name]))
        elif item["kind"] != "schema":
            made.add_row(shown(item["table"]), key, Text(item["kind"], style="bold"), _row(before), _row(after))
    obstacles = [
        Text.assemble(("not adoptable: ", "bold yellow"), shown(i["obstacle"])) for i in items if i["obstacle"]
    ]
    return Group(*([made] if made.row_count else []), *obstacles)


def _row(cells: Json | None) -> Text:
    return Text("-", style="dim") if cells is None else Text(", ".join(map(shown, cells.values())))


def log(items: Sequence[Json], *, now_unix_ms: int) -> RenderableType:
    """Return changes, newest first."""
    if not items:
        return Text("no changes")
    made = table("change", "member", "when", "epoch", "what", "state", right=(3,))
    for item in items:
        written = [f"{shown(name)} {count:,}" for name, count in item["tables"].items()]
        acts = [shown(act) for act in item.get("acts", ())]
        late = " late" if item.get("is_late") or item.get("late") else ""
        made.add_row(
            short_change(item["change"]),
            shown(item["member"]),
            aged(item["unix_ms"], now_unix_ms),
            str(item["epoch"]),
            ", ".join(acts + written) or Text("nothing", style="dim"),
            item["state"] + late,
        )
    return made


def moments(items: Sequence[Json], *, now_unix_ms: int) -> RenderableType:
    """Return the names that were given to states, earliest first."""
    if not items:
        return Text("no moment has a name yet")
    made = table("name", "changes", "root", "named by", "when", right=(1,))
    for item in items:
        made.add_row(
            shown(item["name"]),
            f"{item['changes']:,}",
            item["root"][:16],
            shown(item["member"]),
            aged(item["unix_ms"], now_unix_ms),
        )
    return made


def history(items: Sequence[Json], *, now_unix_ms: int) -> RenderableType:
    """Return the versions of a row, oldest first, with what of each did not stand."""
    if not items:
        return Text("no such row was ever written")
    made = table("change", "member", "when", "what", "wrote", "lost")
    for item in items:
        wrote = "\n".join(f"{shown(name)} = {shown(value)}" for name, value in item["written"].items())
        lost = Text("\n").join(_lost(conflict) for conflict in item["lost"])
        made.add_row(
            short_change(item["change"]),
            shown(item["member"]),
            aged(item["unix_ms"], now_unix_ms),
            item["kind"],
            wrote,
            lost,
        )
    row = items[-1]["row"]
    cells = "gone" if row is None else ", ".join(f"{shown(name)} = {shown(value)}" for name, value in row.items())
    return Group(made, Text.assemble(("now: ", "bold"), cells, overflow="fold"))


def _lost(conflict: Json) -> Text:
    """Return what did not stand, and who wrote what stood instead."""
    what = shown(conflict["column"]) if conflict["column"] else "its deletion"
    winner = conflict["winner"]
    by = f" to {shown(winner['member'])} {short_change(winner['change'])}" if winner["change"] else ""
    return Text.assemble((what, "yellow"), (by, "dim"))


def diff(items: Sequence[Json]) -> RenderableType:
    """Return the cells that are not the same in two moments, row by row."""
    if not items:
        return Text("no row differs")
    made = table("table", "key", "column", "before", "after")
    for item in items:
        before, after = item["before"], item["after"]
        place = (shown(item["table"]), _key(item["key"]))
        if before is None or after is None:
            was, now = (Text("no row", style="dim") if row is None else Text("row") for row in (before, after))
            made.add_row(*place, "", was, now)
            place = ("", "")
        for name in dict.fromkeys([*(before or {}), *(after or {})]):
            old, new = ((row or {}).get(name) for row in (before, after))
            if old != new or type(old) is not type(new):
                made.add_row(*place, shown(name), Text(shown(old), style="yellow"), Text(shown(new), style="green"))
                place = ("", "")
    return Group(made, Text(counted(len(items), "row"), style="dim"))


def waiting(epoch: int, items: Sequence[Json]) -> RenderableType:
    """Return why an epoch cannot close yet: who owes what, and who has it."""
    made = table("waits for", "because of", "held by")
    for item in items:
        unfinished = item["reason"] == "not finished"
        held = "" if unfinished else listed(item["holders"])
        made.add_row(shown(item["member"]), "has not finished" if unfinished else reason(item), held)
    head = Text.assemble("not yet: ", (f"epoch {epoch}", "bold"), f" waits for {counted(len(items), 'member')}")
    return Group(head, Padding(made, (0, 0, 0, 2)))


def closed(report: Json) -> RenderableType:
    """Return the certificate of an epoch, and what it says."""
    without = report["without"]
    names = [item["member"] if isinstance(item, Mapping) else item for item in without]
    counted_names = listed(report["members"], "nobody")
    grade = f"without {listed(names)}" if without else f"complete: nothing of {counted_names} is missing"
    word = (
        "every counted member is known to name this certificate"
        if report["state"] == "closed"
        else "computed here; not every member is known to name it yet"
    )
    return grid(
        (Text("epoch", style="bold"), Text.assemble((str(report["epoch"]), "bold"), f" {report['state']}: {word}")),
        (Text("grade", style="bold"), Text(grade, style="yellow" if without else "green")),
        (Text("hash", style="bold"), Text(report["hash"])),
    )


def traffic(report: Json) -> RenderableType:
    """Return what one sync carried each way."""
    made = table("", "changes", "payloads", "bytes", right=(1, 2, 3))
    for name in ("sent", "received"):
        way = report[name]
        made.add_row(name, f"{way['changes']:,}", f"{way['payloads']:,}", sized(way["bytes"]))
    return made


def bundle(report: Json, *, is_compared: bool) -> RenderableType:
    """Return what a bundle would bring, or what is in it, by member, and what it needs."""
    part = f", part {report['part']} of {report['parts']}" if report["parts"] > 1 else ""
    title = Text.assemble(("space ", "bold"), f"{shown(report['space'])}, {sized(report['size'])}{part}")
    lines: list[RenderableType] = [title]
    if report["members"]:
        made = table("member", "new changes" if is_compared else "changes", "payloads", "bytes", right=(1, 2, 3))
        for each in report["members"]:
            name = shown(each["member"]) or each["member_id"][:8] or "somebody not known here"
            made.add_row(name, f"{each['changes']:,}", f"{each['payloads']:,}", sized(each["bytes"]))
        lines.append(made)
    else:
        lines.append(Text("nothing in it is new here" if is_compared else "there is no change in it"))
    for each in report["needs"]:
        name = shown(each["member"]) or "somebody not known here"
        what = f"{counted(each['count'], 'change')} of {name}, up to {each['seqs'][-1][1] - 1:,}"
        lines.append(Text.assemble(("needs ", "bold yellow"), what, f" (log {each['log'][:8]})"))
    lines.extend(Text.assemble(("damaged: ", "bold red"), shown(sentence)) for sentence in report["damaged"])
    return Group(*lines)


def compacted(report: Json) -> RenderableType:
    """Return what a compaction did."""
    if "image_bytes" in report:
        return Text.assemble(
            ("nothing to gain: ", "bold yellow"),
            f"an image of the rows takes {sized(report['image_bytes'])},"
            f" and what it would stand for {sized(report['gone_bytes'])}",
        )
    return Text.assemble(
        (f"compacted below epoch {report['epoch']}: ", "bold green"),
        f"{counted(report['changes'], 'payload')} put down,"
        f" {sized(report['bytes_before'])} before and {sized(report['bytes'])} now",
        f"\nkept whole by {listed([shown(name) for name in report['keepers']], 'nobody')}",
    )


def not_compacted(report: Json) -> RenderableType:
    """Return what a compaction waits for."""
    lines = [Text.assemble(("not yet: ", "bold yellow"), shown(report["reason"]), overflow="fold")]
    lines.extend(Text(f"{shown(item['member'])}: {item['reason']}") for item in report["waiting_for"])
    return Group(*lines)


def verified(report: Json) -> RenderableType:
    """Return what was checked and holds."""
    checked = [
        counted(report["changes"], "change"),
        counted(report["payloads"], "payload"),
        counted(report["receipts"], "receipt"),
        counted(report["certificates"], "certificate"),
    ]
    trusted = ""
    if "compacted" in report:
        epoch = report["compacted"]["epoch"]
        trusted = f"\ncompacted: the rows as of epoch {epoch} are those its certificate names, and were not made again"
    return Text.assemble(("everything holds: ", "bold green"), ", ".join(checked), trusted)


def healed(report: Json) -> RenderableType:
    """Return what was wrong, what is whole now, what is to be fetched, and what lies in the old file alone."""
    if not report["found"]:
        return Text("everything holds: there is nothing to heal")
    lines: list[RenderableType] = [
        Text.assemble(("healed: ", "bold green"), f"{counted(report['changes'], 'change')} taken over"),
        Text.assemble("it was: ", shown(report["found"])),
        Text.assemble("the old file is ", (shown(report["kept"]), "bold")),
    ]
    if report["rows"]:
        change = short_change(report["change"])
        lines.append(Text(f"{counted(report['rows'], 'row')} adopted, change {change}"))
    lines += [Text.assemble(("only in the old file: ", "bold yellow"), shown(sentence)) for sentence in report["left"]]
    if report["missing"]:
        lines += [Text("klal sync brings what was not good:"), missing(report["missing"])]
    return Group(*lines)
