"""How complete a file is, as a person reads it at a glance: the panel of status and its neighbours.

Every function takes the very values that `--json` prints. A panel is made for 80 columns; where many members are
listed, those who are behind or owe something come first, since they are what it is opened for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from klal.cli.render import Json, grid, missing, reason, table
from klal.cli.text import aged, counted, listed, short_change, shown
from klal.notebook import owed

STATE_MEANINGS = {
    "alone": "no other member has been met: whether more exists is unknown",
    "behind": "not everything that is known is here",
    "whole": "everything that is known is here",
    "part": "nothing that is wanted is missing, and old payloads were put down here",
    "stable": "everything is here, and every member says that it holds it",
    "closed": "the epoch is closed: every member named its certificate",
}
STATE_STYLES = {
    "alone": "bold yellow",
    "behind": "bold yellow",
    "whole": "bold green",
    "part": "bold green",
    "stable": "bold green",
    "closed": "bold cyan",
}
CERTAINTY_MEANINGS = {
    "whole": "nothing of it is missing here",
    "incomplete": "some of it is known of and not here",
    "part": "nothing that is wanted is missing, and old payloads of it were put down here",
    "unknown": "nothing known is missing, and how far it goes is not known here",
}
_BAR_WIDTH = 30
_MEMBERS_SHOWN_MAX = 20
_PARKED_SHOWN_MAX = 5
_WORST_FIRST = {"unknown": 0, "behind": 1, "part": 2, "whole": 3}


def bar(held: int, known: int, *, width: int = _BAR_WIDTH, ascii_only: bool = False) -> Text:
    """Return a bar that is full only when everything is held, and empty only when nothing is."""
    filled = width if held >= known else min(width - 1, max(int(held > 0), held * width // max(known, 1)))
    full, empty = ("#", ".") if ascii_only else ("\u2588", "\u2591")
    style = "green" if held >= known else "yellow"
    return Text.assemble((full * filled, style), (empty * (width - filled), "dim"))


def status(report: Json, *, now_unix_ms: int, ascii_only: bool = False) -> RenderableType:
    """Return the panel of `klal status`."""
    state = report["state"]
    head = Text.assemble(
        (state, STATE_STYLES.get(state, "bold")), "  ", (STATE_MEANINGS.get(state, ""), ""), overflow="fold"
    )
    if report.get("compacted") is not None:
        put_down = counted(report["compacted"]["payloads"], "payload")
        head.append(f"\ncompacted below epoch {report['compacted']['epoch']}: {put_down} put down here", "yellow")
    parts: list[RenderableType] = [head, Text(), _bars(report, ascii_only), Text()]
    parts.extend(_members(report["members"], now_unix_ms, ascii_only))
    parts.append(Text())
    parts.append(_epoch_line(report["epoch"]))
    parts.append(_figures(report))
    parts.extend(_parked(report["parked_why"]))
    parts.append(_news(report["news"], now_unix_ms))
    parts.extend(
        Text.assemble(("warning: ", "bold yellow"), shown(warning), overflow="fold") for warning in report["warnings"]
    )
    return _panel(parts, report["space"], f"root {report['root'][:16]}, {_as_of(report['as_of_unix_ms'])}")


def coverage(report: Json, *, now_unix_ms: int, ascii_only: bool = False) -> RenderableType:
    """Return the panel of `klal coverage`."""
    word = report["certainty"]
    style = "bold green" if word == "whole" else "bold yellow"
    head = Text.assemble((word, style), "  ", CERTAINTY_MEANINGS.get(word, ""), overflow="fold")
    parts: list[RenderableType] = [head, Text(), _bars(report, ascii_only), Text()]
    parts.extend(_members(report["members"], now_unix_ms, ascii_only))
    if report["missing"]:
        parts.extend((Text(), missing(report["missing"])))
    if report["waiting_for"]:
        owes = [f"{shown(item['member'])} ({reason(item)})" for item in report["waiting_for"][:4]]
        parts.extend(
            (Text(), Text(f"its end waits for {_and_more(owes, len(report['waiting_for']))}", overflow="fold"))
        )
    root = f"root {report['root'][:16]}, " if report["root"] else ""
    return _panel(parts, report["cut"], f"{root}{_as_of(report['as_of_unix_ms'])}")


def _panel(parts: Sequence[RenderableType], title: str, subtitle: str) -> Panel:
    return Panel(
        Group(*parts),
        title=Text.assemble((f" {shown(title)} ", "bold")),
        title_align="left",
        subtitle=Text(f" {subtitle} ", style="dim"),
        subtitle_align="right",
        padding=(1, 2),
        border_style="dim",
    )


def _bars(report: Json, ascii_only: bool) -> Table:
    headers, payloads = report["headers"], report["payloads"]
    waiting = payloads["held"] - report["applied"]
    applied = Text.assemble(
        f"{report['applied']:,} applied", (f"  {waiting:,} waiting", "yellow") if waiting > 0 else ""
    )
    return grid(
        ("headers", bar(headers["held"], headers["known"], ascii_only=ascii_only), _held(headers)),
        ("payloads", bar(payloads["held"], payloads["known"], ascii_only=ascii_only), _held(payloads)),
        ("", "", applied),
    )


def _held(count: Json) -> Text:
    lacking = count["known"] - count["held"]
    more = (f"  {lacking:,} not here", "yellow") if lacking > 0 else ("", "")
    return Text.assemble(f"{count['held']:,} of {count['known']:,}", more)


def _members(members: Sequence[Json], now_unix_ms: int, ascii_only: bool) -> list[RenderableType]:
    """Return who is in the space: whoever is behind or owes first, then by name."""
    ordered = sorted(
        members,
        key=lambda m: (
            m["standing"] != "member",
            not any(m["owes"].values()),
            _WORST_FIRST.get(m["state"], 4),
            m["name"],
            m["member"],
        ),
    )
    made = table("member", "holds", "", "owes", "last word", "finished", right=(2,))
    for member in ordered[:_MEMBERS_SHOWN_MAX]:
        what = owed(member)
        held, known = member["held"], member["known"]
        is_unknown = member["state"] == "unknown"
        made.add_row(
            shown(member["name"]),
            Text("unknown", style="yellow") if is_unknown else bar(held, known, width=8, ascii_only=ascii_only),
            "" if is_unknown else _percent(held, known),
            Text(what, style="dim" if what == "nothing" else "yellow"),
            aged(member["last_seen_unix_ms"], now_unix_ms),
            _finished(member),
        )
    rest = len(ordered) - _MEMBERS_SHOWN_MAX
    return [made] if rest <= 0 else [made, Text(f"and {counted(rest, 'member')} more", style="dim")]


def _finished(member: Json) -> Text:
    """Return whether a member has finished the epoch, or why it need not."""
    if member["standing"] != "member":
        return Text(member["standing"], style="cyan")
    return Text("yes", style="green") if member["finished"] else Text("not yet", style="dim")


def _percent(held: int, known: int) -> str:
    """Return a share in percent, rounded down: 100 % is all of it, and never all but one."""
    return "100 %" if held >= known else f"{100 * held // known} %"


def _and_more(items: Sequence[str], total: int) -> str:
    return ", ".join(items) + (f" and {total - len(items):,} more" if total > len(items) else "")


def _epoch_line(epoch: Json) -> Text:
    line = Text.assemble("epoch ", (f"{epoch['number']} {epoch['state']}", "bold"), overflow="fold")
    waiting = epoch["waiting_for"]
    if waiting:
        owes = [
            f"{shown(item['member'])} ({reason(item)})" if isinstance(item, Mapping) else shown(item)
            for item in waiting[:4]
        ]
        line.append(f", waits for {_and_more(owes, len(waiting))}")
    return line


def _figures(report: Json) -> Text:
    stable = report["stable"]
    line = Text(f"{stable['changes']:,} of {counted(stable['of'], 'change')} stable", overflow="fold")
    for name, text in (("only_here", "not known to be elsewhere"), ("parked", "parked")):
        if report[name]:
            line.append(f", {report[name]:,} {text}")
    for name in ("conflict", "violation"):
        if report[f"{name}s"]:
            line.append(", ")
            line.append(counted(report[f"{name}s"], name), style="yellow")
    return line


def _parked(items: Sequence[Json]) -> list[RenderableType]:
    """Return what is held and not applied, and why."""
    lines: list[RenderableType] = [
        Text.assemble(
            ("parked: ", "bold"),
            f"{item['count']:,} of {shown(item['member'])}, {shown(item['reason'])}",
            overflow="fold",
        )
        for item in items[:_PARKED_SHOWN_MAX]
    ]
    rest = len(items) - _PARKED_SHOWN_MAX
    return lines if rest <= 0 else [*lines, Text(f"parked: and {counted(rest, 'log')} more", style="dim")]


def _news(news: Json, now_unix_ms: int) -> Text:
    """Return what came since about yesterday."""
    total = sum(news["arrived"].values())
    since = aged(news["since_unix_ms"], now_unix_ms) if news["since_unix_ms"] else None
    arrived = f"{total:,} arrived" + (f" since {since}" if total and since else "")
    whose = [f"{shown(name)} {count:,}" for name, count in list(news["arrived"].items())[:4]]
    named = f" ({_and_more(whose, len(news['arrived']))})" if whose else ""
    return Text.assemble(("last day: ", "bold"), f"{news['written']:,} written here, {arrived}{named}", overflow="fold")


def _as_of(unix_ms: int | None) -> str:
    """Return when word last came from elsewhere, in UTC, to the minute."""
    if unix_ms is None:
        return "no word from elsewhere yet"
    try:
        return f"as of {datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"as of {unix_ms} ms"


def holders(report: Json) -> RenderableType:
    """Return who is known to hold one change."""
    stable = "every member is known to hold it" if report["stable"] else "not yet stable"
    return Group(
        Text.assemble("change ", (short_change(report["change"]), "bold"), f", {stable}"),
        grid(
            (Text("held by", style="bold"), Text(listed(report["holders"]))),
            (Text("lacking", style="bold"), Text(listed(report["lacking"], "nobody known"))),
            (Text("unknown", style="bold"), Text(listed(report["unknown"], "nobody"))),
        ),
    )


def nothing_only_here() -> Text:
    """Return that nothing is only here."""
    return Text("everything of mine is known to be elsewhere too")
