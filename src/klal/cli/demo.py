"""`klal demo`: three island teams, one ship, three seasons closed, on real data.

Everything is done through the public Python surface, on real files, and every figure printed is read back from them.
What the demo claims it also checks: where a claim does not hold it stops, says so, and leaves with exit code 1.

It writes only into a folder that it makes itself, and deletes only files that it made there in the same run.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from klal.cli import render, standing
from klal.cli.csvfile import converter
from klal.cli.output import Exit, Output
from klal.cli.text import counted, listed, short_change, shown, sized
from klal.errors import IncompleteError, KlalError

if TYPE_CHECKING:
    from klal.replica import Replica

ISLANDS = ("Biscoe", "Dream", "Torgersen")
SEASONS = (2007, 2008, 2009)
COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "species": "TEXT",
    "island": "TEXT",
    "bill_length_mm": "REAL",
    "bill_depth_mm": "REAL",
    "flipper_length_mm": "INTEGER",
    "body_mass_g": "INTEGER",
    "sex": "TEXT",
    "year": "INTEGER",
}
CREATE_TABLE = f"CREATE TABLE penguin ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"

DAY_BIRD_COUNT = 6
"""Birds entered in one go: one day in the field, one change."""

SHORT_VISIT_BYTES = 4_000
"""What the boat carries ashore when the weather turns: the outline of everything, and a part of the rows."""

DISPUTED_BIRD = "N07-DRE-001"
TRY_NEXT = (
    "status FILE",
    'sql FILE "SELECT island, year, count(*) AS birds FROM penguin GROUP BY 1, 2"',
    "log FILE --limit 10",
    "verify DREAM/penguins.epoch-2.certificate",
    "sql FILE \"UPDATE penguin SET sex = 'female' WHERE id = 'N07-TOR-004'\"",
    "sync FILE SHIP",
)
"""What can be done with the files the demo leaves: FILE, SHIP and DREAM stand for their paths."""

FLEET = 600_000
FLEET_FAST = 60_000

Row = tuple[Any, ...]


class DemoError(Exception):
    """Something the demo says is not true: a bug in klal, and no other message may hide it."""


def demo(directory: Path, *, out: Output, fast: bool) -> int:
    """Run the demo in a new folder under `directory`.

    Returns:
        The exit code: 0 when everything it says was found to be true.
    """
    started = time.monotonic()
    stage = Stage.make(directory, out)
    try:
        for scene in (_found, _season_2007, _close_2007, _season_2008, _season_2009, _storm, _newcomer):
            scene(stage)
        _fleet(stage, fast=fast)
    except (DemoError, KlalError) as error:
        out.errors.print(Text.assemble(("the demo failed: ", "bold red"), shown(str(error))), soft_wrap=True)
        if out.as_json:
            out.json({"ok": False, "what": str(error), "directory": str(stage.base), **stage.facts})
        return Exit.FAILED
    _try_next(stage, time.monotonic() - started)
    if out.as_json:
        out.json({"ok": True, "directory": str(stage.base), **stage.facts})
    return Exit.DONE


def require(claim: bool, sentence: str) -> None:
    """Raise `DemoError` unless what `sentence` says is so."""
    if not claim:
        raise DemoError(f"it should be true, and is not, that {sentence}")


# --- the stage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Team:
    """One team: a file, and a folder that keeps its key."""

    name: str
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "penguins.db"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @contextmanager
    def opened(self) -> Iterator[Replica]:
        """Open the file as a program on the island does: for as long as it needs it."""
        import klal

        with klal.open(self.file, home=self.home) as replica:
            yield replica


@dataclass
class Stage:
    """Where the demo plays, and what it prints with."""

    base: Path
    out: Output
    birds: dict[tuple[str, int], list[Row]]
    teams: list[Team]
    ship: Path
    ticket: str = ""
    epoch: int = 0
    facts: dict[str, Any] = field(default_factory=lambda: {"certificates": []})

    @classmethod
    def make(cls, directory: Path, out: Output) -> Stage:
        """Return a stage in a folder that was not there before."""
        number = 1
        while True:
            base = directory / f"run-{number}"
            try:
                base.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
        teams = [Team(island, base / island.lower()) for island in ISLANDS]
        for team in teams:
            team.home.mkdir(parents=True)
        ship = base / "ship"
        ship.mkdir()
        return cls(base, out, _birds(), teams, ship)

    def team(self, name: str) -> Team:
        return next(team for team in self.teams if team.name == name)

    def heading(self, text: str) -> None:
        if not self.out.as_json:
            self.out.say()
            self.out.say(Text(text, style="bold cyan"))

    def tell(self, *sentences: str) -> None:
        if not self.out.as_json:
            for sentence in sentences:
                self.out.say("  " + sentence)

    def show(self, renderable: Any) -> None:
        if not self.out.as_json:
            self.out.draw(Padding(renderable, (1, 0, 1, 4)))

    def bar(self, held: int, known: int, *, width: int = 30) -> Text:
        return standing.bar(held, known, width=width, ascii_only=self.out.console.options.ascii_only)

    def good(self, sentence: str) -> None:
        """Say what was just checked."""
        if not self.out.as_json:
            tick = "*" if self.out.console.options.ascii_only else "\u2713"
            self.out.say(Text.assemble("  ", (tick, "bold green"), " ", sentence))


def _birds() -> dict[tuple[str, int], list[Row]]:
    """Return the rows of the table, by island and season; a key says where and when a bird was measured."""
    converters = [converter(kind) for kind in COLUMNS.values()]
    birds: dict[tuple[str, int], list[Row]] = {(island, year): [] for island in ISLANDS for year in SEASONS}
    text = (resources.files("klal") / "data" / "penguins.csv").read_text(encoding="utf-8")
    for bird in csv.DictReader(text.splitlines()):
        rows = birds[bird["island"], int(bird["year"])]
        bird["id"] = f"N{bird['year'][2:]}-{bird['island'][:3].upper()}-{len(rows) + 1:03}"
        values = (bird[name] for name in COLUMNS)
        rows.append(tuple(None if v == "NA" else c(v) for c, v in zip(converters, values, strict=True)))
    return birds


def _enter(stage: Stage, year: int) -> dict[str, tuple[int, int]]:
    """Let each team enter its own birds of one season, a day at a time.

    Returns:
        Team -> (birds, changes).
    """
    entered = {}
    for team in stage.teams[: len(ISLANDS)]:
        rows = stage.birds[team.name, year]
        days = [rows[i : i + DAY_BIRD_COUNT] for i in range(0, len(rows), DAY_BIRD_COUNT)]
        with team.opened() as replica:
            for day in days:
                replica.insert_many("penguin", day)
        entered[team.name] = (len(rows), len(days))
    return entered


def _call(stage: Stage, team: Team, *, byte_count_max: int | None = None) -> None:
    """Let the ship call at one island: the team exchanges with its folder, and closes the season if that can be."""
    with team.opened() as replica:
        replica.sync(stage.ship, byte_count_max=byte_count_max)
        if byte_count_max is None and _certificate(replica, stage.epoch) is not None:
            # The receipt that names the certificate leaves with the ship that is still at the pier.
            replica.sync(stage.ship)


def _certificate(replica: Replica, epoch: int) -> Any:
    """Return the close of `epoch`, or None where it must wait."""
    try:
        return replica.close_epoch(epoch)
    except IncompleteError:
        return None


def _route(stage: Stage, calls: Sequence[str]) -> None:
    """Sail from island to island, and show after every call how many of all changes each team has."""
    if not stage.out.as_json:
        stage.out.say()
        names = "".join(team.name.ljust(19) for team in stage.teams)
        stage.out.say(Text("    " + "the ship calls at".ljust(19) + names.rstrip(), "bold"))
        stage.out.say(_bars(stage, "(before it sails)"))
    for name in calls:
        _call(stage, stage.team(name))
        if not stage.out.as_json:
            stage.out.say(_bars(stage, name))
    if not stage.out.as_json:
        stage.out.say()


def _bars(stage: Stage, label: str) -> Text:
    """Return one line: how many of all changes that exist anywhere each team has, rows and all."""
    held: dict[str, int] = {}
    world: set[str] = set()
    for team in stage.teams:
        with team.opened() as replica:
            changes = [str(entry.change) for entry in replica.log()]
            held[team.name] = len(changes) - sum(
                item.change_count for item in replica.missing() if item.what == "payloads"
            )
            world.update(changes)
    line = Text("    " + label.ljust(19))
    for team in stage.teams:
        count = held[team.name]
        line.append_text(stage.bar(count, len(world), width=10))
        line.append(f" {count}/{len(world)}".ljust(9))
    line.rstrip()
    return line


def _close_everywhere(stage: Stage, year: int) -> str:
    """Check that the season is closed at every team, with one certificate.

    Returns:
        Its hash.
    """
    hashes: set[str] = set()
    state = ""
    for team in stage.teams:
        with team.opened() as replica:
            closed = _certificate(replica, stage.epoch)
            require(closed is not None, f"season {year} can be closed at {team.name}")
            require(closed.state == "closed", f"season {year} is closed at {team.name}, not only {closed.state}")
            require(closed.grade == "complete", f"season {year} is complete at {team.name}")
            hashes.add(closed.certificate.hash.hex())
            closed.write(team.folder / f"penguins.epoch-{stage.epoch}.certificate")
            state = closed.state
    require(len(hashes) == 1, f"all teams compute the same certificate for {year}")
    certificate = hashes.pop()
    stage.facts["certificates"].append({"epoch": stage.epoch, "hash": certificate, "grade": "complete", "state": state})
    stage.epoch += 1
    return certificate


def _finish(team: Team) -> None:
    with team.opened() as replica:
        replica.finish()


def _roots(teams: Sequence[Team]) -> set[str]:
    found = set()
    for team in teams:
        with team.opened() as replica:
            found.add(str(replica.status().to_json()["root"]))
    return found


def _rows(team: Team) -> list[Row]:
    with team.opened() as replica:
        return list(replica.query("SELECT * FROM penguin ORDER BY id"))


# --- the scenes ------------------------------------------------------------------------------------------------------


def _found(stage: Stage) -> None:
    """Three files, one space."""
    import klal

    stage.heading("Three islands, one whole")
    stage.tell(
        "344 penguins were measured on three Antarctic islands, from 2007 to 2009.",
        "Here three teams enter them again, each into one SQLite file of its own.",
        "There is no network. A ship calls at the islands in turn, with a folder on",
        "board; nothing else ever travels. Every figure below is read from the files.",
    )
    biscoe, *others = stage.teams
    with klal.create(biscoe.file, space="penguins", member=biscoe.name, home=biscoe.home) as replica:
        replica.execute(CREATE_TABLE)
        stage.ticket = replica.invite()
    for team in others:
        klal.join(team.file, stage.ticket, member=team.name, home=team.home).close()
    made = render.table("team", "file", "knows of", "says of itself")
    for team in stage.teams:
        with team.opened() as replica:
            report = replica.status().to_json()
        made.add_row(team.name, shown(str(team.file)), counted(len(report["members"]), "member"), report["state"])
    stage.show(made)
    stage.tell(
        f"Biscoe began the space. One ticket of {sized(len(stage.ticket))} let the others join, offline;",
        "nobody has met anybody yet. The ship goes round once, and each hears of all.",
        "After every call: how many of all changes that exist anywhere each team has.",
    )
    _route(stage, ["Biscoe", "Dream", "Torgersen", "Biscoe", "Dream"])
    for team in stage.teams:
        with team.opened() as replica:
            require(len(replica.members()) == len(ISLANDS), f"{team.name} knows all three members")


def _season_2007(stage: Stage) -> None:
    """Three teams alone, and a ship that begins to bring them together."""
    stage.heading("Season 2007: everyone writes, nobody is connected")
    entered = _enter(stage, 2007)
    made = render.table("team", "birds", "changes", "birds in its file", right=(1, 2, 3))
    for team in stage.teams:
        birds, changes = entered[team.name]
        made.add_row(team.name, str(birds), str(changes), str(len(_rows(team))))
    stage.show(made)
    stage.tell(
        "Plain SQL, on each island's own file. Biscoe and Dream say that they have", "finished, and the ship sails."
    )
    _finish(stage.team("Biscoe"))
    _finish(stage.team("Dream"))
    _route(stage, ["Biscoe", "Dream"])
    torgersen = stage.team("Torgersen")
    stage.tell(f"At Torgersen the weather turns: {sized(SHORT_VISIT_BYTES)} come ashore, then the boat must leave.")
    _call(stage, torgersen, byte_count_max=SHORT_VISIT_BYTES)
    with torgersen.opened() as replica:
        coverage = replica.coverage()
        report = [item.to_json() for item in replica.missing()]
    require(not coverage.is_whole, "a visit cut short leaves Torgersen incomplete, and it says so")
    require(bool(report), "Torgersen names what it lacks after a visit cut short")
    stage.show(
        render.grid(
            ("headers", stage.bar(coverage.held, coverage.known), f"{coverage.held} of {coverage.known}"),
            (
                "payloads",
                stage.bar(coverage.payloads_held, coverage.payloads_known),
                f"{coverage.payloads_held} of {coverage.payloads_known}",
            ),
        )
    )
    stage.tell("Torgersen has the outline of everything, and can name every row it lacks:")
    stage.show(render.missing(report))
    stage.facts["short_visit"] = {
        "headers": {"held": coverage.held, "known": coverage.known},
        "payloads": {"held": coverage.payloads_held, "known": coverage.payloads_known},
    }


def _close_2007(stage: Stage) -> None:
    """A close refused, and then granted."""
    stage.heading("Closing 2007: not yet")
    stage.tell(
        "Torgersen tries to close the season. It may: any member may. But it must wait,", "and is told for whom:"
    )
    with stage.team("Torgersen").opened() as replica:
        try:
            replica.close_epoch(0)
        except IncompleteError as error:
            waiting = [item.to_json() for item in error.waiting_for]
        else:
            raise DemoError("season 2007 was closed while a team had not finished")
    stage.show(render.waiting(0, waiting))
    reasons = {item["reason"] for item in waiting}
    require("not finished" in reasons, "the refusal names the team that has not finished")
    require(bool(reasons - {"not finished"}), "the refusal names what is not held at Torgersen")
    stage.facts["refused_close"] = waiting
    stage.tell("Torgersen says that it has finished, and the ship goes round again.")
    _finish(stage.team("Torgersen"))
    _route(stage, ["Torgersen", "Biscoe", "Dream", "Torgersen", "Biscoe"])
    certificate = _close_everywhere(stage, 2007)
    stage.good("season 2007 is closed: every byte of every team was checked by hash")
    stage.good(f"all three computed the same certificate, {certificate[:16]}...")


def _season_2008(stage: Stage) -> None:
    """Two teams correct one bird at once."""
    stage.heading("Season 2008: two teams correct the same bird")
    dream, torgersen = stage.team("Dream"), stage.team("Torgersen")
    measured = {row[0]: row for row in _rows(dream)}[DISPUTED_BIRD][6]
    corrections = {dream.name: measured + 50, torgersen.name: measured - 150}
    _enter(stage, 2008)
    stage.tell(
        f"Bird {DISPUTED_BIRD} was entered with {measured:,} g. Far apart, Dream corrects it to",
        f"{corrections['Dream']:,} g and Torgersen to {corrections['Torgersen']:,} g. (Both corrections are made up.)",
    )
    for team in (dream, torgersen):
        with team.opened() as replica:
            replica.execute("UPDATE penguin SET body_mass_g = ? WHERE id = ?", (corrections[team.name], DISPUTED_BIRD))
    _route(stage, ["Dream", "Torgersen", "Biscoe", "Dream"])
    lists = []
    for team in stage.teams:
        with team.opened() as replica:
            lists.append([item.to_json() for item in replica.conflicts()])
    require(all(found == lists[0] for found in lists), "every team lists the same conflict")
    require(len(lists[0]) == 1, f"exactly one conflict is listed, not {len(lists[0])}")
    values = {lists[0][0]["winner"]["value"], lists[0][0]["loser"]["value"]}
    require(values == set(corrections.values()), "both values are in the list of conflicts")
    stage.tell("Nobody was asked to decide, and nothing was lost. Every team now lists:")
    stage.show(render.conflicts(lists[0], now_unix_ms=time.time_ns() // 1_000_000))
    stage.facts["conflict"] = lists[0][0]
    stage.tell(f"Dream looks into its field book: {measured:,} g was right. One UPDATE settles it.")
    with dream.opened() as replica:
        settled = replica.execute("UPDATE penguin SET body_mass_g = ? WHERE id = ?", (measured, DISPUTED_BIRD))
    for team in stage.teams:
        _finish(team)
    for name in ("Dream", "Torgersen", "Biscoe", "Dream", "Torgersen", "Biscoe", "Dream"):
        _call(stage, stage.team(name))
    for team in stage.teams:
        with team.opened() as replica:
            require(not replica.conflicts(), f"the conflict is settled at {team.name}")
    certificate = _close_everywhere(stage, 2008)
    stage.good(f"settled everywhere by change {short_change(str(settled.change))}; all three writes stay in history")
    stage.good(f"season 2008 is closed: {certificate[:16]}...")


def _season_2009(stage: Stage) -> None:
    """The last season."""
    stage.heading("Season 2009: the last one")
    _enter(stage, 2009)
    for team in stage.teams:
        _finish(team)
    _route(stage, ["Biscoe", "Dream", "Torgersen", "Biscoe", "Dream", "Torgersen", "Biscoe"])
    certificate = _close_everywhere(stage, 2009)
    want = sorted(row for rows in stage.birds.values() for row in rows)
    for team in stage.teams:
        require(_rows(team) == want, f"{team.name} has all {len(want)} penguins exactly as published")
    stage.good(f"season 2009 is closed: {certificate[:16]}...")
    stage.good(f"each of the three files has all {len(want)} penguins, value for value as published")
    stage.facts["penguins"] = len(want)


def _storm(stage: Stage) -> None:
    """Two of three files are lost, and one brings them back."""
    import klal

    stage.heading("A storm: two of three files are lost, and the ship with its folder")
    survivor = stage.team("Torgersen")
    lost = [team for team in stage.teams if team is not survivor]
    require(len(_roots(stage.teams)) == 1, "all teams hold the same before the storm")
    rows = _rows(survivor)
    for team in lost:
        for path in sorted(team.folder.glob("penguins.db*")):
            path.unlink()
    stage.tell(
        f"{listed([team.name for team in lost])} deleted; {survivor.name}, the smallest team, still has its file.",
        "Another ship comes, with an empty folder. The others join again, with the",
        "keys they kept: each is the same member as before.",
    )
    stage.ship = stage.base / "second-ship"
    stage.ship.mkdir()
    for team in lost:
        klal.join(team.file, stage.ticket, member=team.name, home=team.home).close()
    _route(stage, [survivor.name, *(team.name for team in lost), survivor.name, lost[0].name])
    after = _roots(stage.teams)
    require(len(after) == 1, "all teams hold the same after the storm")
    for team in stage.teams:
        require(_rows(team) == rows, f"{team.name} has every row that was there before the storm")
        with team.opened() as replica:
            hashes = [replica.close_epoch(number).certificate.hash.hex() for number in range(len(SEASONS))]
        require(hashes == [item["hash"] for item in stage.facts["certificates"]], f"{team.name} has all certificates")
    with survivor.opened() as replica:
        names = [member["name"] for member in replica.status().to_json()["members"]]
    require(sorted(names) == sorted(ISLANDS), "there are still three members, nobody twice")
    stage.facts["root"] = after.pop()
    stage.good(f"all three hold the same again, byte for byte: root {stage.facts['root'][:16]}...")
    stage.good("every row is back, and each team computes the three certificates again")
    stage.good("there are still three members: a file that comes back is nobody new")


def _newcomer(stage: Stage) -> None:
    """Somebody new has the whole, and can prove it."""
    import klal

    stage.heading("A newcomer")
    archive = Team("Archive", stage.base / "archive")
    archive.home.mkdir(parents=True)
    klal.join(archive.file, stage.ticket, member=archive.name, home=archive.home).close()
    with archive.opened() as replica:
        replica.sync(stage.ship)
        require(replica.coverage().is_whole, "the newcomer has the whole after one visit of the ship")
        verified = replica.verify().to_json()
        hashes = [replica.close_epoch(n).certificate.hash.hex() for n in range(len(SEASONS))]
    require(_rows(archive) == _rows(stage.team("Torgersen")), "the newcomer has every row")
    stage.tell("Archive joins with the same ticket, meets the ship once, and checks it all:")
    stage.show(render.verified(verified))
    known = [item["hash"] for item in stage.facts["certificates"]]
    require(hashes == known, "the newcomer computes the very certificates the teams computed")
    made = render.table("season", "certificate, computed alike by all four")
    for year, found in zip(SEASONS, hashes, strict=True):
        made.add_row(str(year), found)
    stage.show(made)
    for team in stage.teams[:1]:
        for number in range(len(SEASONS)):
            checked = klal.check_certificate_file(team.folder / f"penguins.epoch-{number}.certificate")
            require(checked.hash.hex() == known[number], f"the certificate file of epoch {number} proves itself")
    stage.facts["verified"] = verified


def _fleet(stage: Stage, *, fast: bool) -> None:
    """The same rules, for as many as the source names."""
    from klal.cli.simulate import simulate

    count = FLEET_FAST if fast else FLEET
    stage.heading(f"And {count:,}?")
    if find_spec("numpy") is None:
        stage.tell("Simulating needs numpy, which is not installed: pip install 'klal[sim]'")
        return
    stage.tell(f"The same rules for {count:,} replicas, simulated exactly:", "")
    if stage.out.as_json:
        # The simulation prints its own JSON value; here it becomes a part of ours.
        console = Console(file=StringIO(), markup=False, emoji=False, highlight=False, width=10_000)
        code = simulate(scenario="source", replicas=count, seed=1, as_json=True, console=console)
        stage.facts["fleet"] = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    else:
        code = simulate(scenario="source", replicas=count, seed=1, as_json=False, console=stage.out.console)
    require(code == Exit.DONE, "the simulated fleet becomes whole")


def _try_next(stage: Stage, seconds: float) -> None:
    """Say what can be done with the files that are left."""
    if stage.out.as_json:
        return
    team = stage.team("Dream")
    stage.heading(f"Done, in {seconds:.0f} seconds")
    stage.tell(
        f"{stage.facts['penguins']} penguins, three seasons closed, one conflict listed and settled, two files",
        "lost and brought back, nothing missing. The files are yours, as Dream. Try:",
    )
    stage.out.say()
    stage.out.say(f"    {'set' if os.name == 'nt' else 'export'} KLAL_HOME={shlex.quote(str(team.home))}")
    names = {"FILE": str(team.file), "SHIP": str(stage.ship), "DREAM": str(team.folder)}
    for line in TRY_NEXT:
        for name, path in names.items():
            line = line.replace(name, shlex.quote(path))  # noqa: PLW2901 - the line as it is to be typed
        stage.out.say(f"    {_program()} {line}")
    stage.out.say()


def _program() -> str:
    """Return how klal was started, so that the lines printed can be typed as they are."""
    if shutil.which("klal"):
        return "klal"
    started = Path(sys.argv[0])
    return _nearest(started) if started.stem == "klal" else f"{_nearest(Path(sys.executable))} -m klal"


def _nearest(path: Path) -> str:
    """Return `path` from here where it lies below, else in full."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative
