"""The main job, with real files and the real command line: three teams, one ship, one season closed.

Every step is a process of its own, as it would be on an island; they meet only through a folder. The steps build on
each other, so this is one test, told in chapters.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import klal

DATA = Path(klal.__file__).parent / "data" / "penguins.csv"
ISLANDS = ("Biscoe", "Dream", "Torgersen")
CREATE_TABLE = """
    CREATE TABLE penguin (
        id TEXT PRIMARY KEY, species TEXT, island TEXT, bill_length_mm REAL, bill_depth_mm REAL,
        flipper_length_mm INTEGER, body_mass_g INTEGER, sex TEXT, year INTEGER
    )
"""


class Team:
    """A folder with one file, and a home that keeps its key."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder / name.lower()
        self.folder.mkdir()
        self.file = self.folder / "penguins.db"
        # Some fifty processes start here: compiled once, and not into the source tree.
        self.environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environment["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
        self.environment["KLAL_HOME"] = str(self.folder / "home")

    def klal(self, command, *arguments, code=0):
        """Run one command with --json, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "klal", command, *map(str, arguments), "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (command, arguments, done.returncode, done.stdout, done.stderr)
        assert done.stderr == ""
        return json.loads(done.stdout)

    def on(self, command, *arguments, code=0):
        """Run a command on this team's file."""
        return self.klal(command, self.file, *arguments, code=code)


@pytest.fixture
def season(tmp_path):
    """Write each island's birds of 2007 as a CSV file, and return how many there are."""
    with DATA.open(encoding="utf-8", newline="") as file:
        birds = [bird for bird in csv.DictReader(file) if bird["year"] == "2007"]
    counts = {}
    for island in ISLANDS:
        rows = [bird for bird in birds if bird["island"] == island]
        with (tmp_path / f"{island}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["id", *birds[0]])
            writer.writeheader()
            for number, row in enumerate(rows, 1):
                writer.writerow({"id": f"N07-{island[:3].upper()}-{number:03}", **row})
        counts[island] = len(rows)
    return counts


def test_three_islands_close_a_season_lose_two_files_and_have_them_back(tmp_path, season):
    """W5, W10, W11, W20, W26."""
    ship = tmp_path / "ship"
    ship.mkdir()
    biscoe, dream, torgersen = teams = [Team(tmp_path, name) for name in ISLANDS]

    # --- one space, joined offline -----------------------------------------------------------------------------------
    biscoe.on("init", "--space", "penguins", "--member", "Biscoe")
    biscoe.on("sql", CREATE_TABLE)
    ticket = biscoe.on("invite", "--uses", 2)["ticket"]
    for team in (dream, torgersen):
        team.on("join", ticket, "--member", team.name)

    # The ship sets the teams down, and so each hears of all.
    for team in (biscoe, dream, torgersen, biscoe, dream):
        team.on("sync", ship)

    # --- everyone writes, nobody is connected ------------------------------------------------------------------------
    for team in teams:
        imported = team.on("import", "penguin", tmp_path / f"{team.name}.csv", "--null", "NA")
        assert imported["row_count"] == season[team.name]
    for team in (biscoe, dream):
        team.on("finish")

    # W5: what of mine nobody else is known to hold has a number, and it is not zero before the first meeting.
    alone = dream.on("status")
    assert alone["only_here"] > 0
    assert [member["name"] for member in alone["members"]] == list(ISLANDS)

    # --- the ship calls, and one visit is cut short ------------------------------------------------------------------
    biscoe.on("sync", ship)
    assert dream.on("sync", ship)["equal"] is True
    assert torgersen.on("sync", ship, "--max-bytes", 3_000)["equal"] is False

    # W5: exactly which changes of which member are not here, and who has them.
    missing = torgersen.on("missing")
    assert missing
    assert {item["member"] for item in missing} <= {"Biscoe", "Dream"}
    assert all(item["holders"] for item in missing)
    assert all(item["from"] < item["to"] for item in missing)
    assert torgersen.on("status")["state"] == "behind"

    # W10, W26: nobody can close, and who is waited for, and who has what is missing, is named.
    refused = torgersen.on("close", code=3)
    assert refused["epoch"] == 0
    assert "not finished" in {item["reason"] for item in refused["waiting_for"] if item["member"] == "Torgersen"}
    owed = [item for item in refused["waiting_for"] if item["reason"].startswith("missing")]
    assert owed
    assert all(item["count"] > 0 and item["holders"] for item in owed)

    # --- the smallest and last completes the work --------------------------------------------------------------------
    # W20: Torgersen joined last and has the fewest birds; it finishes the close.
    assert season["Torgersen"] == min(season.values())
    torgersen.on("finish")
    assert torgersen.on("sync", ship)["equal"] is True
    assert torgersen.on("close")["state"] == "complete"
    # W26: what Torgersen alone had completes everyone.
    for team in (biscoe, dream, torgersen, biscoe):
        team.on("sync", ship)

    closed = [team.on("close", "--epoch", 0) for team in teams]
    assert {(report["state"], report["grade"]) for report in closed} == {("closed", "complete")}
    assert len({report["hash"] for report in closed}) == 1
    certificate = torgersen.folder / "penguins.epoch-0.certificate"
    assert Path(closed[2]["certificate"]) == certificate
    assert torgersen.klal("verify", certificate)["hash"] == closed[0]["hash"]

    # --- two files are destroyed, and the third restores them --------------------------------------------------------
    for team in (biscoe, dream):
        for path in team.folder.glob("penguins.db*"):
            path.unlink()
        team.on("join", ticket, "--member", team.name)
        # W11: a single whole replica brings the others whole. Its key is not here, so it gives and takes nothing.
        team.on("sync", torgersen.file)
        assert team.on("missing") == []
    roots = [team.on("sync", ship)["root"] for team in (biscoe, dream, torgersen, biscoe)]
    assert len(set(roots[1:])) == 1
    # Each came back as the same member, under a new log.
    assert [member["name"] for member in torgersen.on("status")["members"]] == list(ISLANDS)
    assert {team.on("close", "--epoch", 0)["hash"] for team in (biscoe, dream)} == {closed[0]["hash"]}
    assert dream.on("verify")["ok"] is True

    # --- and every row is there, the same everywhere -----------------------------------------------------------------
    exported = set()
    for team in (dream, torgersen):
        path = team.folder / "all.csv"
        assert team.on("export", "penguin", path, "--null", "NA")["row_count"] == sum(season.values())
        exported.add(path.read_bytes())
    assert len(exported) == 1
    heavy = dream.on("sql", "SELECT id, body_mass_g FROM penguin ORDER BY body_mass_g DESC, id LIMIT 1")
    assert heavy == [{"id": "N07-BIS-028", "body_mass_g": 6300}]
