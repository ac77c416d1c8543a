"""What the tests of commands share: a command line, run in this process."""

from __future__ import annotations

import json

import pytest

from klal.cli.app import run


@pytest.fixture
def columns():
    """How wide the terminal is; a module whose sentences are longer says so."""
    return 80


@pytest.fixture
def klal(tmp_path, monkeypatch, capsys, columns):
    """Run a command line in a fresh folder; with --json what it printed is parsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))

    def klal(*arguments, home="home", code=0):
        monkeypatch.setenv("KLAL_HOME", str(tmp_path / home))
        found = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert found == code, printed
        if "--json" in arguments:
            assert printed.err == ""
            return json.loads(printed.out)
        return printed.out + printed.err

    return klal
