"""Bundles in any order, some twice, some lost, come to what direct sessions come to (W1, W11, T27)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from klal.errors import IncompleteError
from klal.model.frontier import Frontier
from tests.helpers.fleet import BIRD, Fleet, all_agree, rows_of, scratch

machines = st.integers(0, 4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), machines, st.integers(0, 2)),
        st.tuples(st.just("blob"), machines, st.integers(0, 2)),
        st.tuples(st.just("finish"), machines, st.none()),
        st.tuples(st.just("bring back"), machines, st.none()),
        st.tuples(st.just("meet"), machines, machines),
        st.tuples(st.just("export"), machines, st.sampled_from(["all", "for", "since", "parts"])),
        st.tuples(st.just("take"), machines, st.integers(0, 20)),
    ),
    min_size=4,
    max_size=24,
)


class Post:
    """A fleet that writes bundles and takes them, in whatever order they are drawn."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.bundles: list[Path] = []
        self.moments: list[Frontier] = []
        self.count = 0

    def export(self, name: str, **asked: Any) -> list[Path]:
        self.count += 1
        path = self.fleet.folder / f"{self.count}.bundle"
        found = [each.path for each in self.fleet[name].export_bundle(path, **asked).bundles]
        self.bundles += found
        return found

    def run(self, kind: str, one: int, other: Any) -> None:
        fleet, names = self.fleet, self.fleet.names
        name = names[one % len(names)]
        replica = fleet[name]
        match kind:
            case "write":
                sql = "INSERT INTO bird VALUES(?, 1, ?) ON CONFLICT DO UPDATE SET mass = mass + 1, note = excluded.note"
                replica.execute(sql, (f"b{other}", f"{name} {self.count}"))
            case "blob":
                text = "".join(f"{name} {self.count} {at}" for at in range(40_000))
                replica.execute("INSERT OR REPLACE INTO bird VALUES(?, 2, ?)", (f"large {other}", text))
            case "finish":
                # No epoch is finished beyond one that is not complete; that is no affair of bundles.
                try:
                    replica.finish()
                except IncompleteError:
                    return
            case "bring back":
                if len(names) < 5:
                    fleet.snapshot(name, f"m{fleet.file_count}")
            case "meet":
                if names[other % len(names)] != name:
                    fleet.meet(name, names[other % len(names)])
            case "export":
                self.export_as(name, other)
            case "take":
                if self.bundles:
                    replica.import_bundle(self.bundles[other % len(self.bundles)])

    def export_as(self, name: str, kind: str) -> None:
        with self.fleet[name].at("now") as now:
            self.moments.append(now.frontier)
        if kind == "for":
            self.export(name, for_="ana")
        elif kind == "parts":
            self.export(name, size_max=600_000)
        elif kind == "since":
            self.export_since(name)
        else:
            self.export(name)

    def export_since(self, name: str) -> None:
        try:
            self.export(name, since=self.moments[0])
        except IncompleteError:
            self.export(name, since="now")

    def deliver_all(self) -> None:
        """Let everybody have everybody's bundles, made anew each round, the newest first."""
        for _ in range(3):
            fresh = [path for name in self.fleet.names for path in self.export(name)]
            for name in self.fleet.names:
                for path in (*fresh[::-1], self.bundles[0]):
                    self.fleet[name].import_bundle(path)


@given(steps)
@settings(max_examples=12, deadline=None)
def test_bundles_in_any_order_end_as_direct_sessions_do(drawn: list[tuple[str, int, Any]]) -> None:
    """W1 W11 T27 S35: nothing is left that a session would still bring, and all answers are alike."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD)
        fleet.join("ben")
        fleet.join("cal")
        post = Post(fleet)
        for step in drawn:
            post.run(*step)
        post.deliver_all()

        for name in fleet.names[1:]:
            outcome = fleet.meet("ana", name)
            assert (outcome.sent.change_count, outcome.received.change_count) == (0, 0), name
            assert (outcome.sent.payload_count, outcome.received.payload_count) == (0, 0), name
        fleet.end_epochs()  # What waits for its epoch is applied where that has come.
        all_agree(fleet)


@given(steps)
@settings(max_examples=8, deadline=None)
def test_parts_taken_in_order_are_each_whole_and_together_everything(drawn: list[tuple[str, int, Any]]) -> None:
    """W11 S46: none is larger than was asked for, each needs only what is before it, and a newcomer has it all."""
    with scratch() as folder, Fleet(folder) as fleet:
        fleet.found("ana", BIRD)
        fleet.join("ben")
        post = Post(fleet)
        for step in [step for step in drawn if step[0] != "finish"]:
            post.run(*step)
        fleet.gather()
        fleet.join("dan")
        for path in post.export("ana", size_max=500_000):
            taken = fleet["dan"].import_bundle(path)

            assert taken.is_whole, taken.sentences
            assert path.stat().st_size <= 500_000
        assert rows_of(fleet["dan"]) == rows_of(fleet["ana"])
