"""One door for everything printed: JSON for programs, rich for people, errors as a sentence and a hint.

The one choice a reader would question: text is never interpreted as markup, because names and values come from others.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from klal.cli.text import jsonable, shown
from klal.errors import ConstraintError, IncompleteError, KlalError, UsageError


class Exit(IntEnum):
    """What the process says to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3


class Output:
    """Where one command prints.

    Args:
        as_json: Print one JSON value on stdout, and nothing for people.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(markup=False, emoji=False, highlight=False)
        self.errors = Console(markup=False, emoji=False, highlight=False, stderr=True)

    def json(self, value: Any) -> None:
        """Print `value` in the key order it was given: an object over several lines, a list one item to a line."""
        value = jsonable(value)
        if isinstance(value, list):
            lines = ",\n".join("  " + json.dumps(item, allow_nan=False) for item in value)
            sys.stdout.write(f"[\n{lines}\n]\n" if lines else "[]\n")
        else:
            sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")

    def json_line(self, value: Any) -> None:
        """Print `value` as one line, for a command that goes on."""
        sys.stdout.write(json.dumps(jsonable(value), allow_nan=False) + "\n")

    def flush(self) -> None:
        """Have what was printed read now, also by a program behind a pipe."""
        sys.stdout.flush()

    def say(self, text: str | Text = "", style: str = "") -> None:
        """Print one sentence for people. It is not wrapped: paths and tickets are copied from it."""
        self.console.print(text, style=style or None, soft_wrap=True)

    def draw(self, renderable: RenderableType) -> None:
        """Print a table or panel for people."""
        self.console.print(renderable)

    def answer(self, value: Any, draw: Callable[[Output], None]) -> None:
        """Print `value` as JSON, or let `draw` show it to a person."""
        if self.as_json:
            self.json(value)
        else:
            draw(self)

    def error(self, error: KlalError) -> Exit:
        """Print `error`, and return the exit code it means."""
        if self.as_json:
            self.json({"error": kind(error), "message": str(error), "hint": error.hint, "rule": error.rule})
        else:
            rule = f" ({error.rule})" if error.rule else ""
            self.errors.print(Text.assemble(("error: ", "bold red"), shown(str(error)), (rule, "dim")), soft_wrap=True)
            if error.hint:
                # A hint may be a statement to copy, over several lines.
                lines = "\n".join(shown(line) for line in error.hint.splitlines())
                self.errors.print(Text.assemble(("hint: ", "bold"), lines), soft_wrap=True)
        return exit_code(error)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[Callable[[Any], None]]:
        """Yield a callback for `Progress(phase, done, total)`; a bar on stderr, only where a person watches."""
        if self.as_json or not self.errors.is_terminal:
            yield lambda _progress: None
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.errors, transient=True) as bar:
            tasks = {}

            def update(progress: Any) -> None:
                phase = progress.phase or title
                if phase not in tasks:
                    tasks[phase] = bar.add_task(shown(phase), total=None)
                bar.update(tasks[phase], completed=progress.done, total=progress.total or None)

            yield update


def kind(error: KlalError) -> str:
    """Return the name of this error in JSON: `NotKlalError` is "not-klal"."""
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def exit_code(error: KlalError) -> Exit:
    """Return what the shell is told of `error`."""
    if isinstance(error, UsageError) and not isinstance(error, ConstraintError):
        return Exit.USAGE
    return Exit.INCOMPLETE if isinstance(error, IncompleteError) else Exit.FAILED
