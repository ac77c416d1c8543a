"""A small fleet of real replicas: real files and folders, with clocks and dice that a test sets.

Replicas sync through a folder, as users do, or straight with each other's open file, which is quicker. One home keeps
all the keys, as a file can only be written to where its key is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self

import apsw

from klal.file_station import FileStation
from klal.model.acts import Genesis, Policy
from klal.model.codec import HASH_SIZE, UNIX_MS_MAX
from klal.model.keys import SEED_SIZE, SigningKey
from klal.model.ticket import decode_ticket
from klal.replica import Replica
from klal.store.file import open_file
from klal.store.home import Home
from klal.store.store import Store, World, found_space, join_space
from klal.sync.drive import drive
from klal.sync.side import Outcome
from klal.transport.folder import FolderStation

START_MS = 1_700_000_000_000
BIRD = "CREATE TABLE bird(id TEXT PRIMARY KEY, mass INTEGER, note TEXT)"


_MEMORY = Path("/dev/shm")


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is gone afterwards, in memory where the system has such a place: drawn fleets are many."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@dataclass
class FakeClock:
    """A clock that moves by one millisecond whenever it is read."""

    now_ms: int = START_MS

    def unix_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms


@dataclass
class FakeEntropy:
    """Dice that fall the same way for the same seed."""

    seed: str
    count: int = 0

    def token(self, size: int) -> bytes:
        self.count += 1
        block = sha256(f"{self.seed}:{self.count}".encode()).digest()
        return (block * (size // len(block) + 1))[:size]


@dataclass
class Fleet:
    """Replicas by member name.

    Shape:
        folder: where everything lies; `share` is the folder they may sync through.
        ticket: of the founder's first invitation.
    """

    folder: Path
    not_after_ms: int = UNIX_MS_MAX
    replicas: dict[str, Replica] = field(default_factory=dict)
    worlds: dict[str, World] = field(default_factory=dict)
    ticket: str = ""
    file_count: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.home = Home(self.folder / "home")
        self.share = self.folder / "share"
        self.share.mkdir(exist_ok=True)

    def __getitem__(self, name: str) -> Replica:
        return self.replicas[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas.values():
            replica.close()

    @property
    def names(self) -> list[str]:
        return list(self.replicas)

    def world(self, name: str) -> World:
        if name not in self.worlds:
            self.worlds[name] = World(FakeClock(), FakeEntropy(name))
        return self.worlds[name]

    def skew(self, name: str, by_ms: int) -> None:
        self.world(name).clock.now_ms += by_ms

    def found(self, name: str, *tables: str) -> Replica:
        """Make the space, with `name` as its founder."""
        world = self.world(name)
        key = SigningKey(world.entropy.token(SEED_SIZE))
        genesis = Genesis(
            "flock", key.member_id, name, world.entropy.token(HASH_SIZE), Policy(not_after_ms=self.not_after_ms)
        )
        self._keep(name, found_space(self._path(name), self.home, world, genesis, key))
        for sql in tables:
            self[name].execute(sql)
        self.ticket = self[name].invite(use_count_max=1000)
        return self[name]

    def join(self, name: str, ticket: str | None = None) -> Replica:
        """Join as `name`; where the home has that member's key, it is the member who returns."""
        store = join_space(self._path(name), self.home, self.world(name), decode_ticket(ticket or self.ticket), name)
        return self._keep(name, store)

    def open(self, name: str, path: Path | None = None) -> Replica:
        """Open a member's file, again or in another place."""
        path = path or self.replicas[name].path
        return self._keep(name, self.store(path, name))

    def store(self, path: Path, name: str) -> Store:
        return Store(open_file(path), path, self.home, self.world(name), name)

    def guest(self, name: str, path: Path) -> Replica:
        """Open another file of a member, outside the fleet; the caller closes it."""
        store = self.store(path, name)
        return Replica(store, lambda remote: self._connect(remote, store))

    def snapshot(self, name: str, to: str) -> Replica:
        """Bring a member's file and its keys back as they are now, as of another machine that goes by `to`.

        What a snapshot of a whole machine restores, no fence can see: both go on in one log.
        """
        path, home = self._path(to), self.folder / f"home of {to}"
        own = self.replicas[name]
        own.close()
        shutil.copy(own.path, path)
        shutil.copytree(own._store._home.folder, home)
        member = own.member_name
        self._keep(name, Store(open_file(own.path), own.path, own._store._home, self.world(name), member))
        return self._keep(to, Store(open_file(path), path, Home(home), self.world(to), member))

    def reopen(self, name: str) -> Replica:
        self[name].close()
        return self.open(name)

    def destroy(self, name: str) -> None:
        """Delete a member's file; its key stays."""
        replica = self.replicas.pop(name)
        replica.close()
        for path in replica.path.parent.glob(f"{replica.path.name}*"):
            path.unlink()

    def meet(self, a: str, b: str, byte_count_max: int | None = None) -> Outcome:
        """Sync two open files with each other."""
        mine, theirs = self[a]._store, self[b]._store
        return drive(FileStation(mine), FileStation(theirs), byte_count_max=byte_count_max)

    def drop_by(self, name: str, byte_count_max: int | None = None) -> Outcome:
        """Sync one replica with the shared folder."""
        store = self[name]._store
        station = FolderStation(self.share, store.space_id)
        return drive(FileStation(store), station, byte_count_max=byte_count_max)

    def gather(self, names: Iterable[str] | None = None) -> None:
        """Let everybody hear of everything, and of everybody's having heard."""
        hub, *others = list(names or self.replicas)
        # Twice for changes and parked work, a third time for the receipts that follow.
        for _ in range(3):
            for name in others:
                self.meet(hub, name)

    def end_epochs(self) -> None:
        """Let everybody finish as far as anybody has, so that nothing waits for its epoch."""
        self.gather()
        while any(replica.status().parked for replica in self.replicas.values()):
            last = max(replica._store.writer.epoch for replica in self.replicas.values())
            for replica in self.replicas.values():
                if replica._store.writer.epoch < last:
                    replica.finish()
            self.gather()

    def close_epoch(self) -> None:
        """Let everybody finish the running epoch, and hear of it."""
        self.gather()
        for replica in self.replicas.values():
            replica.finish()
        self.gather()

    def _path(self, name: str) -> Path:
        self.file_count += 1
        return self.folder / f"{name}-{self.file_count}.db"

    def _keep(self, name: str, store: Store) -> Replica:
        self.replicas[name] = Replica(store, lambda remote: self._connect(remote, store))
        return self.replicas[name]

    def _connect(self, remote: str, own: Store) -> FileStation | FolderStation:
        path = Path(remote)
        if path.is_dir():
            return FolderStation(path, own.space_id)
        return next(FileStation(r._store) for r in self.replicas.values() if r.path == path)


def rows_of(replica: Replica) -> dict[str, list[tuple[object, ...]]]:
    """Return every user table's rows, whole, by the names of its columns."""
    found = {}
    for name in replica.tables():
        columns = sorted(column for column, _ in replica.table_columns(name))
        listed = ", ".join(f'"{column}"' for column in columns)
        order = ", ".join(f'"{column}"' for column in replica.table_key(name))
        found[name] = [tuple(columns), *replica.query(f'SELECT {listed} FROM "{name}" ORDER BY {order}')]
    return found


def answers_of(replica: Replica) -> tuple[object, ...]:
    """Return everything that two replicas holding the same must say alike."""
    return (
        replica.status().root,
        rows_of(replica),
        replica.conflicts(),
        [(e.change, e.member_name, e.unix_ms, e.epoch, e.tables, e.acts, e.is_late) for e in replica.log()],
        [(certificate.epoch, certificate.hash) for certificate in certificates_of(replica)],
        sorted((m.member_id, m.name) for m in replica.members()),
    )


def all_agree(fleet: Fleet, ask: Callable[[Replica], object] = answers_of) -> None:
    names = fleet.names
    want = ask(fleet[names[0]])
    for name in names[1:]:
        assert ask(fleet[name]) == want, name


def certificates_of(replica: Replica) -> list:
    store = replica._store
    return [store.certificate(epoch) for epoch in range(store.epochs.next_epoch)]


def stored_counts(path: Path) -> tuple[int, int, int]:
    """Count from the file's bytes alone: headers under a seal, payloads of those, headers in all."""
    # With the library that has the file open: another one's locks would be this process's too.
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        sealed = dict(connection.execute("SELECT log, max(length) FROM klal_seal GROUP BY log"))
        lines = connection.execute(
            "SELECT s.log, s.seq + c.lsn - s.lsn, c.state FROM klal_change c JOIN klal_span s"
            " ON s.lsn = (SELECT max(lsn) FROM klal_span WHERE lsn <= c.lsn)"
        ).fetchall()
    under = [(log, seq, state) for log, seq, state in lines if seq < sealed.get(log, 0)]
    return len(under), sum(state != 0 for _, _, state in under), len(lines)
