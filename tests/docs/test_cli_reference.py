"""The page on the command line and the program agree, in both directions."""

import re
from pathlib import Path

import typer.main

from klal.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
GROUP = typer.main.get_command(app)


def commands(group=GROUP, before=""):
    """Return every command by its whole name, those inside a group by the group's name and their own."""
    found = {}
    for name, command in group.commands.items():
        found.update(commands(command, f"{name} ") if hasattr(command, "commands") else {before + name: command})
    return found


COMMANDS = commands()
NAME = "|".join(sorted(COMMANDS, key=len, reverse=True))


def sections():
    """Return the text under each command's own heading."""
    parts = re.split(rf"^### `klal ({NAME}|[a-z-]+)(?: [^`]*)?`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (re.split(r"^## ", text, flags=re.MULTILINE)[0] for text in parts[2::2]), strict=True))


def options_of(command):
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")} - {"--help"}


def test_every_command_has_a_section_and_every_section_a_command():
    assert set(sections()) == set(COMMANDS)


def test_every_option_is_in_its_commands_table_and_the_table_has_no_other():
    for name, text in sections().items():
        documented = set(re.findall(r"^\| `(--[a-z-]+)", text, flags=re.MULTILINE))

        assert documented == options_of(COMMANDS[name]), name


def test_every_argument_is_in_its_commands_heading():
    headings = re.findall(rf"^### `klal ({NAME})(?: ([^`]*))?`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, arguments in headings:
        found = [p.metavar for p in COMMANDS[name].params if p.param_type_name == "argument"]

        assert arguments == " ".join(found), name


def test_every_command_has_json():
    assert all("--json" in options_of(command) for command in COMMANDS.values())
