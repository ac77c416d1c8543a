"""Stories: commands, a line of dashes, and what is then to be seen. `--rewrite` writes what was seen; read the diff.

Real replicas on disk drive every story. The language is the few words of `Stage`; a line that begins with # is prose.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from klal.errors import IncompleteError
from klal.file_station import FileStation
from klal.sync.snapshot import fetch
from tests.helpers.fleet import BIRD, Fleet

STORIES = sorted(Path(__file__).parent.glob("*.story"))
WIDTH = 118


class Stage:
    """One fleet, and the words that move it."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder)
        self.changes: dict[str, object] = {}

    def play(self, line: str) -> list[str]:
        word, *arguments = line.split()
        said = getattr(self, f"do_{word.replace('-', '_')}")(*arguments)
        return said or []

    def member(self, name: str) -> object:
        return self.fleet[name]

    def do_space(self, founder: str, *others: str) -> None:
        self.fleet.found(founder, BIRD)
        for name in others:
            self.fleet.join(name)
        self.fleet.gather()

    def do_join(self, name: str) -> None:
        self.fleet.join(name)

    def do_bird(self, name: str, key: str, mass: str) -> None:
        """Count a bird, and remember the change under its key."""
        sql = "INSERT INTO bird(id, mass) VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET mass = excluded.mass"
        self.changes[key] = self.fleet[name].execute(sql, (key, int(mass))).change

    def do_snapshot(self, name: str) -> list[str]:
        """Make a snapshot of the newest close, and say what it is of."""
        made = self.fleet[name].snapshot.make()
        return [f"{name} has the rows of epoch {made.epoch} to give: {made.row_count}"]

    def do_ask(self, name: str, other: str) -> list[str]:
        """Ask for a snapshot before a session that does not come about."""
        refused = fetch(FileStation(self.fleet[name]._store), FileStation(self.fleet[other]._store))
        return [f"refused: {refused}"] if refused else []

    def do_reads(self, *names: str) -> list[str]:
        """Say what each can read: in its tables, and in a snapshot if there is one."""
        sql, said = "SELECT id || ' ' || mass FROM bird ORDER BY id", []
        for name in names:
            replica = self.fleet[name]
            tables = [("tables", replica.query(sql))]
            came = replica.snapshot.get() is not None and replica.snapshot.get().giver
            beside = [("snapshot", replica.snapshot.query(sql))] if came else []
            standing = replica.status().standing
            for where, rows in tables + beside:
                listed = ", ".join(text for (text,) in rows) or "nothing"
                said.append(f"{name}, a {standing}, reads in its {where}: {listed}")
        return said

    def do_delete(self, name: str, key: str) -> None:
        self.changes[key] = self.fleet[name].execute("DELETE FROM bird WHERE id = ?", (key,)).change

    def do_sync(self, *names: str) -> None:
        """Let these meet, until each has heard of each."""
        self.fleet.gather(names)

    def do_meet(self, a: str, b: str) -> None:
        self.fleet.meet(a, b)

    def do_ship(self, *names: str) -> None:
        """Let these call at the shared folder, one after another."""
        for name in names:
            self.fleet.drop_by(name)

    def do_spill(self) -> None:
        """Lose every payload that lies in the shared folder."""
        for path in self.fleet.share.rglob("*.P*"):
            path.unlink()

    def do_destroy(self, *names: str) -> None:
        for name in names:
            self.fleet.destroy(name)

    def do_finish(self, *names: str) -> None:
        for name in names:
            self.fleet[name].finish()

    def do_rows(self, name: str) -> list[str]:
        rows = self.fleet[name].query("SELECT id, mass FROM bird ORDER BY id")
        return [f"{name}: " + (", ".join(f"{key} {mass}" for key, mass in rows) or "(nothing)")]

    def do_stable(self, name: str) -> list[str]:
        stable = [key for key, change in self.changes.items() if self.is_stable(name, change)]
        return [f"stable at {name}: {', '.join(stable) or '(nothing)'}"]

    def is_stable(self, name: str, change: object) -> bool:
        held = {entry.change for entry in self.fleet[name].log()}
        return change in held and self.fleet[name].who_has(change).is_stable

    def do_who_has(self, name: str, key: str) -> list[str]:
        found = self.fleet[name].who_has(self.changes[key])
        return [f"{key}: held by {', '.join(found.holders)}; lacking: {', '.join(found.lacking) or '(nobody)'}"]

    def do_missing(self, name: str) -> list[str]:
        return [
            f"{name} lacks {m.change_count} {m.what} of {m.member_name}, held by {', '.join(m.holders)}"
            for m in self.fleet[name].missing()
        ] or [f"{name} lacks nothing"]

    def do_close(self, name: str, epoch: str) -> list[str]:
        try:
            closed = self.fleet[name].close_epoch(int(epoch))
        except IncompleteError as error:
            return [f"{name}: not yet: " + ", ".join(f"{w.member_name} {w.reason}" for w in error.waiting_for)]
        return [f"{name}: epoch {epoch} is {closed.state}, {closed.grade}, {closed.certificate.body.row_count} rows"]

    def do_state(self, *names: str) -> list[str]:
        return [f"{name} is {self.fleet[name].status().state}" for name in names]

    def do_same(self, *names: str) -> list[str]:
        roots = {self.fleet[name].status().root for name in names}
        return [f"{' '.join(names)}: {'one root' if len(roots) == 1 else f'{len(roots)} roots'}"]

    def do_conflicts(self, name: str) -> list[str]:
        return [
            f"{c.key[0]}.{c.column or 'deletion'}: {c.winner.value} by {c.winner.member_name}"
            f" stands against {c.loser.value} by {c.loser.member_name}"
            for c in self.fleet[name].conflicts()
        ] or [f"{name} sees no conflict"]

    def do_verify(self, *names: str) -> list[str]:
        return [f"{name}: {self.fleet[name].verify().certificates} certificates proven" for name in names]


def played(text: str, folder: Path) -> str:
    """Return the story with what is seen in place of what is told."""
    told: list[str] = []
    with (stage := Stage(folder)).fleet:
        for block in text.strip().split("\n\n"):
            script = block.split("\n----\n", maxsplit=1)[0].split("\n")
            seen = []
            for line in script:
                if not line.startswith("#"):
                    seen.extend(stage.play(line))
            told.append("\n".join(script) + ("\n----\n" + "\n".join(seen) if seen else ""))
    return "\n\n".join(told) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_is_told_as_it_happens(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="ascii")
    seen = played(text, tmp_path / "fleet")
    if request.config.getoption("--rewrite"):
        path.write_text(seen, encoding="ascii")
        return

    assert seen == text


def test_there_are_stories() -> None:
    assert {path.stem for path in STORIES} >= {"stability", "withheld", "restored", "conflict"}
