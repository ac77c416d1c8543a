"""Reports as notebooks show them: one piece of HTML with its style in it, and no scripts.

It is made from the very values that `--json` prints. Whatever comes from a member, names above
all, is escaped, and what a terminal would obey is shown as a code: a page is read by people too.
Colours are those of the reader's own theme, light or dark.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, Any]

_STYLE = """
<style>
.klal { font: 14px/1.45 system-ui, sans-serif; color-scheme: light dark; max-width: 46rem;
  --good: #1a7f37; --bad: #9a6700; --faint: #6e7781; --line: #d0d7de; }
@media (prefers-color-scheme: dark) {
  .klal { --good: #3fb950; --bad: #d29922; --faint: #8b949e; --line: #30363d; } }
.klal table { border-collapse: collapse; margin: .6em 0; }
.klal th, .klal td { text-align: left; padding: .15em 1em .15em 0; border-bottom: 1px solid var(--line); }
.klal td.number { text-align: right; font-variant-numeric: tabular-nums; }
.klal .good { color: var(--good); } .klal .bad { color: var(--bad); } .klal .faint { color: var(--faint); }
.klal meter { width: 12rem; }
</style>
"""
_GOOD = {"whole", "stable", "closed"}
_LISTED_MAX = 200  # Rows in one table: a page of 600,000 members helps nobody.
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escaped(value: object) -> str:
    """Return a value as text inside HTML, what steers a reader's program shown as a code."""
    text = "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in _OBEYED else char for char in str(value))
    return html.escape(text)


def status_page(report: Json) -> str:
    """Return the page of a status."""
    state, epoch, news = report["state"], report["epoch"], report["news"]
    waiting = "; ".join(_waiting(item) for item in epoch["waiting_for"][:_LISTED_MAX])
    stable = report["stable"]
    facts = [
        ("epoch", f"{epoch['number']} {epoch['state']}" + (f", waits for {waiting}" if waiting else "")),
        ("stable", f"{stable['changes']:,} of {stable['of']:,} changes"),
        ("only here", f"{report['only_here']:,} of my changes"),
        ("parked", f"{report['parked']:,}"),
        *(
            (f"parked, {item['member']}", f"{item['count']:,}: {item['reason']}")
            for item in report["parked_why"][:_LISTED_MAX]
        ),
        ("conflicts", f"{report['conflicts']:,}"),
        ("violations", f"{report['violations']:,}"),
        ("last day", _news(news)),
        ("as of", _time(report["as_of_unix_ms"])),
        ("root", report["root"][:16]),
        *(("warning", warning) for warning in report["warnings"]),
    ]
    return _page(
        report["space"],
        f"<b class='{_class(state)}'>{escaped(state)}</b> <span class='faint'>{escaped(report['member'])}</span>",
        _meters(report),
        _members(report["members"]),
        _table(("", ""), [(_cell(name), _cell(value)) for name, value in facts]),
    )


def coverage_page(report: Json) -> str:
    """Return the page of a coverage."""
    missing = [
        (
            _cell(item["member"]),
            _cell(item["log"][:8]),
            _cell(f"{item['from']:,} to {item['to'] - 1:,}"),
            _cell(item["what"]),
            _cell(", ".join(item["holders"][:_LISTED_MAX]) or "nobody known"),
        )
        for item in report["missing"][:_LISTED_MAX]
    ]
    waiting = "; ".join(_waiting(item) for item in report["waiting_for"][:_LISTED_MAX])
    word = report["certainty"]
    return _page(
        report["cut"],
        f"<b class='{_class(word)}'>{escaped(word)}</b> <span class='faint'>{escaped(_time(report['as_of_unix_ms']))}"
        "</span>",
        _meters(report),
        f"<p>waits for {escaped(waiting)}</p>" if waiting else "",
        _table(("owed by", "log", "changes", "missing", "held by"), missing) if missing else "",
        _members(report["members"]),
    )


def _page(title: str, *pieces: str) -> str:
    return f"<div class='klal'>{_STYLE}<h3>{escaped(title)}</h3>{''.join(pieces)}</div>"


def _class(word: str) -> str:
    return "good" if word in _GOOD else "bad"


def _meters(report: Json) -> str:
    rows = []
    for name in ("headers", "payloads"):
        held, known = report[name]["held"], report[name]["known"]
        meter = f"<meter min='0' max='{max(known, 1)}' value='{held if known else 1}'></meter>"
        rows.append((_cell(name), f"<td>{meter}</td>", _cell(f"{held:,} of {known:,}", "number")))
    rows.append((_cell("applied"), "<td></td>", _cell(f"{report['applied']:,}", "number")))
    return _table(("", "", ""), rows)


def _members(members: Sequence[Json]) -> str:
    rows = [
        (
            _cell(member["name"]),
            _cell(member["state"], _class(member["state"])),
            _cell(f"{member['held']:,} of {member['known']:,}", "number"),
            _cell(owed(member)),
            _cell(_age(member["age_ms"])),
            _cell(member["standing"] if member["standing"] != "member" else "yes" if member["finished"] else "not yet"),
        )
        for member in members[:_LISTED_MAX]
    ]
    more = f"<p>and {len(members) - _LISTED_MAX:,} more</p>" if len(members) > _LISTED_MAX else ""
    return _table(("member", "state", "holds", "owes", "last word", "finished"), rows) + more


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escaped(column)}</th>" for column in columns) if any(columns) else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def _cell(value: object, css: str = "") -> str:
    return f"<td class='{css}'>{escaped(value)}</td>" if css else f"<td>{escaped(value)}</td>"


def owed(member: Json) -> str:
    """Return what a member owes, as a few words."""
    parts = [
        f"{count:,} {what.removesuffix('s') if count == 1 else what}" for what, count in member["owes"].items() if count
    ]
    return ", ".join(parts) or "nothing"


def _waiting(item: Json) -> str:
    count = f"{item['count']:,} " if item["count"] else ""
    return f"{item['member']} ({count}{item['reason']})"


def _news(news: Json) -> str:
    total = sum(news["arrived"].values())
    whose = ", ".join(f"{name} {count:,}" for name, count in list(news["arrived"].items())[:4])
    return f"{news['written']:,} written here, {total:,} arrived" + (f": {whose}" if whose else "")


def _age(age_ms: int | None) -> str:
    if age_ms is None:
        return "never"
    if age_ms < -60_000:
        return "ahead of this clock"
    for length, noun in ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute")):
        if age_ms >= length:
            count = age_ms // length
            return f"{count:,} {noun}{'' if count == 1 else 's'} ago"
    return "just now"


def _time(unix_ms: int | None) -> str:
    if unix_ms is None:
        return "no word from elsewhere yet"
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{unix_ms} ms"
