"""Make docs/reference/python.md from the docstrings of what `import klal` gives."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from page import publish

import klal
from klal import coverage, reports
from klal.bundle import reports as bundle_reports

LINE_LENGTH = 100
PAGE = "docs/reference/python.md"
HEAD = """# Python

What `import klal` gives, made by `tools/python_page.py` from the docstrings.
`help(klal.Replica)` says the same at a prompt.
[The tutorial](../tutorial.md) shows how it goes together.
[DB-API and SQLAlchemy](../how-to/use-with-an-orm.md) have a page of their own.

A call either does all it says or changes nothing.
Whatever goes wrong is an exception of [`klal.errors`](#errors), and "not yet" is a value wherever a caller could go on.
Paths may be text or `pathlib.Path`; times are milliseconds since 1970, UTC; ids, hashes and roots are bytes.
Values that are printed have a `to_json()` with the keys of [the command line](cli.md).
"""

FUNCTIONS = [
    *("create", "join", "open", "heal", "refound", "new_id", "read_bundle", "check_certificate_file", "check_proof"),
    "serve",
]
# The order in which a person meets them. A name that is missing here stops the page from being made.
GROUPS = {
    "Rows": "execute executemany insert_many query transaction in_transaction is_query tables table_columns table_key "
    "set_policy close",
    "What it is": "path space_id space_name predecessor member_id member_name log_id read_only",
    "Exchange": "invite sync stay_synced export_bundle bundle_status import_bundle",
    "Is it all there?": "status coverage missing who_has stable only_here wait wait_async members log",
    "What did not go together": "conflicts resolve violations on_conflict",
    "Closing the books": "finish close_epoch prove",
    "Members": "leave come_back retire expel admit stewardship support hand_stewardship",
    "The past": "at history diff name_moment moments discloser",
    "As it happens": "watch watch_async",
    "The file": "verify heal compact snapshot backup foreign_writes adopt undo",
}
SECTION = re.compile(r"^(Args|Returns|Raises|Shape|Yields):(.*)$")
WRITTEN = ("to_json", "parse")  # Said once, in the head.


def page() -> str:
    """Return the text of the page."""
    lines = [HEAD]
    lines += ["## Functions", ""]
    for name in FUNCTIONS:
        lines += entry(f"klal.{name}", getattr(klal, name), "###")
    lines += ["## Replica", "", *prose(inspect.getdoc(klal.Replica) or "")]
    for title, names in GROUPS.items():
        lines += [f"### {title}", ""]
        for name in names.split():
            lines += entry(name, inspect.getattr_static(klal.Replica, name), "####")
    lines += ["## What they return", ""]
    for name, kind in values():
        lines += value(name, kind)
    lines += ["## Errors", "", "```text", *(inspect.getdoc(klal.errors) or "").splitlines()[2:9], "```", ""]
    lines += ["| `klal.errors` | |", "|---|---|"]
    lines += [f"| `{name}` | {first_line(thing)} |" for name, thing in errors()]
    check_complete()
    return "\n".join(lines) + "\n"


def entry(name: str, thing: Any, level: str) -> list[str]:
    """Return one function, method or property."""
    if isinstance(thing, property):
        returned = inspect.get_annotations(thing.fget).get("return", "")  # type: ignore[arg-type]
        return [f"{level} {name}", "", f"```python\n{name}: {returned}\n```", "", *prose(inspect.getdoc(thing) or "")]
    function = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
    shown = f"{name}{signature(function, LINE_LENGTH - len(name))}"
    return [f"{level} {name}", "", f"```python\n{shown}\n```", "", *prose(inspect.getdoc(function) or "")]


def value(name: str, kind: type) -> list[str]:
    """Return one class: what it holds, and what can be asked of it."""
    lines = [f"### {name}", "", *prose(inspect.getdoc(kind) or "")]
    fields = getattr(kind, "__annotations__", {})
    if dataclasses.is_dataclass(kind) or hasattr(kind, "__struct_fields__") or hasattr(kind, "_fields"):
        held = ", ".join(f"`{field}: {_written(kind_of)}`" for field, kind_of in fields.items() if field[0] != "_")
        lines += [f"Holds {held}.", ""]
    for member, thing in sorted(vars(kind).items()):
        is_shown = not member.startswith("_") and member not in WRITTEN and member not in fields
        if is_shown and (callable(thing) or isinstance(thing, property | classmethod | staticmethod)):
            lines += entry(f"{name}.{member}", thing, "####")
    return lines


def signature(function: Callable[..., Any], line_length: int) -> str:
    """Return the parameters without `self`, annotations as they are written; each on a line of its own if need be."""
    shown = inspect.signature(function)
    kept = [_bare(each) for each in shown.parameters.values() if each.name not in ("self", "cls")]
    returned = _Bare(shown.return_annotation)
    in_one = str(shown.replace(parameters=kept, return_annotation=returned))
    if len(in_one) <= line_length:
        return in_one
    inside = str(shown.replace(parameters=kept, return_annotation=shown.empty))[1:-1]
    # A comma inside brackets belongs to a type.
    parts = re.split(r", (?![^\[(]*[\])])", inside)
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {returned}"


def _written(annotation: Any) -> str:
    return str(getattr(annotation, "__forward_arg__", annotation))


class _Bare(str):
    """An annotation that is shown as it is written, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _bare(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(annotation=_Bare(parameter.annotation))


def prose(doc: str) -> list[str]:
    """Return a docstring as a page: its sections as lists, everything else as it stands."""
    lines: list[str] = []
    section = ""
    for line in doc.splitlines():
        found = SECTION.match(line)
        if found:
            section = found[1]
            lines += ["", f"*{section}*", ""]
            continue
        if section and line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(": ")
            is_named = colon and section != "Returns" and " " not in name.replace(", ", ",").replace(" or ", ",")
            lines.append(f"- `{name}`: {rest}" if is_named else f"- {line.strip()}")
        elif section and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            section = section if line.startswith(" ") or not line else ""
            lines.append(line)
    return [*_squeezed(lines), ""]


def _squeezed(lines: list[str]) -> Iterator[str]:
    """Yield the lines without two empty ones in a row, and without one at either end."""
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    yield from text.split("\n")


def values() -> list[tuple[str, type]]:
    """Return every class whose values a caller meets, by name."""
    met = {name: getattr(klal, name) for name in klal.__all__}
    for module in (reports, bundle_reports, coverage):
        met |= {
            name: thing for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__
        }
    return sorted((name, thing) for name, thing in met.items() if inspect.isclass(thing) and thing is not klal.Replica)


def errors() -> list[tuple[str, type[Exception]]]:
    """Return every exception of klal's, by name."""
    return sorted(
        (name, thing)
        for name, thing in vars(klal.errors).items()
        if inspect.isclass(thing) and issubclass(thing, klal.errors.KlalError)
    )


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def check_complete() -> None:
    """Stop where something public stands nowhere on the page."""
    grouped = {name for names in GROUPS.values() for name in names.split()}
    ours = [each for each in klal.Replica.__mro__ if each.__module__.startswith("klal")]
    public = {name for each in ours for name in vars(each) if not name.startswith("_")}
    functions = {name for name in klal.__all__ if inspect.isfunction(getattr(klal, name))}
    lacking = (grouped ^ public) | (set(FUNCTIONS) ^ functions)
    if lacking:
        raise SystemExit(f"tools/python_page.py does not place {', '.join(sorted(lacking))}")


if __name__ == "__main__":
    sys.exit(publish(PAGE, page()))
