"""A space with its hub, as a process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import klal
from klal.replica import Replica
from tests.helpers.fleet import BIRD, scratch
from tests.helpers.hubs import HubProcess

TOKEN = "a-token-for-tests-only"


@dataclass
class Site:
    """A folder with one founder's file, which a hub serves."""

    folder: Path
    ticket: str = ""
    opened: list[Replica] = field(default_factory=list)
    hubs: list[HubProcess] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "hub.db"

    def found(self) -> None:
        with klal.create(self.file, space="flock", member="hub", home=self.folder / "hub") as hub:
            hub.execute(BIRD)
            self.ticket = hub.invite(use_count_max=1000)

    def serve(self, *more: Path, options: tuple[str, ...] = ()) -> HubProcess:
        hub = HubProcess(self.folder / "hub", self.file, *more, options=options)
        self.hubs.append(hub)
        return hub

    def join(self, name: str, ticket: str | None = None) -> Replica:
        replica = klal.join(
            self.folder / f"{name}.db", ticket or self.ticket, member=name, home=self.folder / "homes" / name
        )
        self.opened.append(replica)
        return replica

    def tokens(self) -> Path:
        path = self.folder / "tokens"
        path.write_text(f"# for tests\ntests {TOKEN}\n")
        return path

    def close(self) -> None:
        for replica in self.opened:
            replica.close()
        for hub in self.hubs:
            hub.__exit__()


@pytest.fixture
def site() -> Iterator[Site]:
    with scratch() as folder:
        made = Site(folder)
        made.found()
        yield made
        made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Site, HubProcess]]:
    """A site and its hub, for tests that leave both as they were or only add to them."""
    with scratch() as folder:
        made = Site(folder)
        made.found()
        yield made, made.serve(options=("--token-file", str(made.tokens())))
        made.close()
