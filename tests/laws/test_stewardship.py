"""Whoever is retired, elected, cut off or coming back: no epoch ever has two closed certificates, and all agree.

Fleets of real replicas, in which anybody does at any moment whatever an honest member may do. A global observer
notes each certificate that any replica calls closed, and a light client believes what it is shown.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from klal.errors import IncompleteError, LinkError, UsageError
from klal.spark import Spark
from tests.helpers.fleet import BIRD, Fleet, certificates_of, rows_of, scratch

EPOCH_COUNT = 3
SEEDS = (*range(12), 216)
SILENT = "silent"


class Observer:
    """Everything that any replica ever called closed, and a light client that hears of all of it."""

    def __init__(self, path: Path) -> None:
        self.closed: dict[int, bytes] = {}
        self.path = path
        self.spark: Spark | None = None

    def look(self, replica) -> None:
        survey = replica._survey()
        for certificate in certificates_of(replica):
            with replica._store.reading():
                state = survey.epoch_state(certificate.epoch)
            if state == "closed":
                known = self.closed.setdefault(certificate.epoch, certificate.hash)
                assert known == certificate.hash, f"epoch {certificate.epoch} is closed twice"
                if self.spark is None:
                    self.spark = Spark.begin(self.path, certificate, hash=certificate.hash)
        if self.spark is not None and replica._store.epochs.next_epoch > self.spark.epoch + 1:
            # Not yet, or this replica has another certificate of that epoch: never a proof of lies, a ForkError.
            proof = replica.prove.named(since=self.spark.epoch)
            with suppress(IncompleteError, LinkError):
                self.spark.check(proof.encode())


def step(fleet: Fleet, random: Random, names: list[str], observer: Observer) -> None:
    name = random.choice(names)
    replica = fleet[name]
    other = random.choice([each for each in fleet.names if each != name])
    what = random.choices(("meet", "write", "finish", "retire", "support", "hand"), (10, 4, 4, 2, 3, 1))[0]
    if what == "meet":
        if other in names:
            fleet.meet(name, other)
            observer.look(fleet[other])
    else:
        with suppress(UsageError, IncompleteError):
            if what == "write":
                replica.execute("INSERT INTO bird(id) VALUES(?)", (f"{name}{random.random()}",))
            elif what == "finish":
                if replica._store.writer.epoch < EPOCH_COUNT:
                    replica.finish()
            elif what == "retire":
                replica.retire(other, SILENT)
            elif what == "support":
                replica.support(random.choice([name, other]))
            else:
                replica.hand_stewardship(other)
    observer.look(replica)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_epoch_is_ever_closed_twice_and_all_come_to_the_same(seed):
    """W18 W23 S50 S55 EPO-5 EPO-6 EPO-7 EPO-8 EPO-9 SPK-2."""
    run(seed)


@pytest.mark.soak
def test_nor_in_many_more_fleets():
    """W18 W23."""
    for seed in range(1000, 1400):
        run(seed)


def run(seed: int) -> None:
    random = Random(seed)
    with scratch() as folder, Fleet(folder) as fleet:
        names = ["ana", "ben", "cal", "dan", "eva"][: random.randint(3, 5)]
        fleet.found("ana", BIRD)
        for name in names[1:]:
            fleet.join(name)
        if random.random() < 0.7:
            fleet.gather()
        observer = Observer(folder / "light.spark")
        near = list(names)
        for at in range(random.randint(10, 45)):
            if at == 12 and random.random() < 0.6:
                # Somebody goes out of reach, the steward as likely as any.
                near.remove(random.choice(near))
            step(fleet, random, near, observer)

        for _ in range(2 * EPOCH_COUNT):
            fleet.gather()
            for replica in fleet.replicas.values():
                with suppress(UsageError, IncompleteError):
                    if replica._store.writer.epoch < EPOCH_COUNT:
                        replica.finish()
        fleet.gather()
        for replica in fleet.replicas.values():
            observer.look(replica)
        chains = [[each.hash for each in certificates_of(replica)] for replica in fleet.replicas.values()]
        assert all(chain == chains[0] for chain in chains)
        for epoch, hashed in observer.closed.items():
            assert chains[0][epoch] == hashed, "what was closed was overturned"
        if observer.spark is not None:
            assert chains[0][observer.spark.epoch] == observer.spark.certificate_hash, "a light client was misled"
        # Whoever was retired from an epoch that is still undecided waits for it with what is of the next one.
        settled = [replica for replica in fleet.replicas.values() if not replica.status().parked]
        for ask in (rows_of, lambda replica: [(m.name, m.standing) for m in replica.members()]):
            assert len({repr(ask(replica)) for replica in settled}) <= 1
        for replica in fleet.replicas.values():
            replica.verify()
