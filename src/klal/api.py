"""Where the real world is handed in: files, keys, clock and dice for `create`, `join`, `open`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TextIO

import platformdirs

from klal.disk import refuse_open_database
from klal.errors import IncompleteError, ReadOnlyError, TransportError, UsageError
from klal.file_station import FileStation
from klal.mend import Healed, mend, store_at
from klal.model import proof
from klal.model.acts import Genesis, Policy
from klal.model.certificate import CERTIFICATE_SIZE_MAX, Certificate, check_certificate
from klal.model.codec import HASH_SIZE, NAME_LENGTH_MAX
from klal.model.keys import SEED_SIZE, SigningKey
from klal.model.schema import KLAL_ID_SIZE, klal_id
from klal.model.ticket import decode_ticket
from klal.proven import Proven, proven
from klal.replica import OnProgress, Replica
from klal.reports import Progress, Standing
from klal.store.file import is_there
from klal.store.home import Home
from klal.store.store import Store, World, found_space, join_space
from klal.store.successor import carry_over, predecessor_of
from klal.survey import Survey
from klal.sync.station import Station
from klal.transport.folder import FolderStation
from klal.transport.hubs import Hubs, extra


class SystemClock:
    """This machine's wall clock."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class SystemEntropy:
    """This machine's dice."""

    def token(self, size: int) -> bytes:
        """Return `size` random bytes."""
        return os.urandom(size)


_WORLD = World(SystemClock(), SystemEntropy())
_HUBS = Hubs(_WORLD.entropy)


def create(path: str | Path, *, space: str, member: str, home: str | Path | None = None) -> Replica:
    """Create a file with a new space, and `member` as its founder.

    Args:
        path: Must not exist.
        space: Its name, for people.
        member: The founder's name.
        home: Folder that keeps keys and fences; the user's configuration folder by default.
    """
    _check_name("space", space)
    _check_name("member", member)
    key = SigningKey(_WORLD.entropy.token(SEED_SIZE))
    genesis = Genesis(space, key.member_id, member, _WORLD.entropy.token(HASH_SIZE), Policy())
    folder = _home(home)
    store = found_space(Path(path), folder, _WORLD, genesis, key)
    return Replica(store, lambda remote: _connect(remote, store, folder), _HUBS)


def refound(old: str | Path, path: str | Path, *, space: str, home: str | Path | None = None) -> Replica:
    """Create a file with a new space that goes on from another: with its tables and rows, and the same member.

    It is the way on where fewer than half of a space's members are left. History, conflicts and rows that
    UNIQUE hides stay in the old file, which is not touched; others join the new space by a ticket.

    Args:
        old: A file of the space that is left, with its member's key at hand.
        path: Where the new file will be; must not exist.
        space: The new space's name, for people.

    Raises:
        IncompleteError: Something that is known of is missing in the old file.
        ReadOnlyError: Its member's key is not at hand.
    """
    _check_name("space", space)
    folder = _home(home)
    left = _open_store(Path(old), folder, None)
    try:
        if left.identity is None:
            raise ReadOnlyError(f"{old} is read-only here: the key of its member is not at hand")
        with left.reading():
            missing = Survey(left).coverage().missing
        if missing:
            raise IncompleteError(
                f"{old} lacks changes that are known of, and a new space would be without them",
                missing=missing,
                hint="klal missing FILE says who holds them",
            )
        key, nonce = SigningKey(_WORLD.entropy.token(SEED_SIZE)), _WORLD.entropy.token(HASH_SIZE)
        policy, name = left.genesis.policy, left.identity.name
        genesis = Genesis(space, key.member_id, name, nonce, policy, predecessor_of(left))
        made = found_space(Path(path), folder, _WORLD, genesis, key, first=lambda new: carry_over(left, new))
    finally:
        left.close()
    return Replica(made, lambda remote: _connect(remote, made, folder), _HUBS)


def join(path: str | Path, ticket: str, *, member: str, home: str | Path | None = None) -> Replica:
    """Create a file of the space that a ticket is for, offline; `sync` brings the whole.

    With a home that has this member's key already, the member returns under the same key
    and a new log: that is how a destroyed file comes back.
    """
    _check_name("member", member)
    decoded = decode_ticket(ticket)
    folder = _home(home)
    store = join_space(Path(path), folder, _WORLD, decoded, member)
    return Replica(store, lambda remote: _connect(remote, store, folder), _HUBS)


def open(path: str | Path, *, home: str | Path | None = None, member: str | None = None) -> Replica:  # noqa: A001 - klal.open
    """Open a klal file.

    Args:
        member: Whose key to use when the home has several for this space.

    Raises:
        UsageError: No such file. NotKlalError, NewerFormatError, DamagedError, BusyError.
    """
    folder = _home(home)
    store = _open_store(Path(path), folder, member)
    return Replica(store, lambda remote: _connect(remote, store, folder), _HUBS)


def heal(
    path: str | Path,
    *,
    rows: Literal["ask", "adopt", "undo"] = "ask",
    home: str | Path | None = None,
    member: str | None = None,
    progress: OnProgress | None = None,
) -> Healed:
    """Make a whole file of a damaged one, as `Replica.heal` does, also where it cannot be opened any more.

    Args:
        path: A file that nobody has open.
        rows: What becomes of rows that history does not give: "ask" heals nothing if there are any,
            "adopt" makes them a change of mine, "undo" leaves them behind in the old file.
        member: Whose key to use when the home has several for this space.
        progress: Called now and then.
    """
    told = None if progress is None else lambda done, total: progress(Progress("heal", done, total))
    store, healed = mend(Path(path), _home(home), _WORLD, member, rows, told)
    store.close()
    return healed


def serve(
    *files: str | Path,
    host: str = "127.0.0.1",
    port: int = 8765,
    token_file: str | Path | None = None,
    peers: Iterable[str] = (),
    peer_token: str = "",
    origins: Iterable[str] = (),
    proxies: Iterable[str] = (),
    per_member: int = 8,
    per_address: int = 64,
    per_space: int = 2000,
    home: str | Path | None = None,
    log: TextIO | None = None,
    on_start: Callable[[str, Sequence[str]], None] | None = None,
) -> None:
    """Serve files as a hub: a replica that is easy to reach, and nothing more. Returns after SIGTERM or SIGINT.

    To be called from the main thread, where signals are heard.

    Args:
        files: Each of another space. One without its member's key at hand only gives.
        host: Where to listen; `port` 0 takes any that is free.
        token_file: One token a line, maybe with a name before it: whoever shows one comes in without being a member.
        peers: URLs of other hubs to stay connected to; `peer_token` is shown to them.
        origins: What a browser's page may say it comes from. Nothing else from a browser is let in.
        proxies: Addresses of TLS proxies, whose word on who connects is taken.
        per_member: Connections of one member at once, and so for an address and a space.
        home: As for `open`.
        log: Where lines of JSON go; stderr by default.
        on_start: Called with the URL and the ids of the spaces once connections are taken.

    Raises:
        UsageError: A file is none, two are of one space, or the extra `hub` is not installed.
        TransportError: The address cannot be had.
    """
    folder = _home(home)
    if not files:
        raise UsageError("a hub wants at least one file")
    with extra():
        from klal.hub.server import Setup  # noqa: PLC0415 - an extra
        from klal.hub.server import serve as run  # noqa: PLC0415 - an extra
        from klal.hub.service import Limits  # noqa: PLC0415 - an extra
        from klal.hub.tokens import Tokens  # noqa: PLC0415 - an extra
    setup = Setup(
        [partial(_open_store, Path(file), folder) for file in files],
        host,
        port,
        Limits(per_member, per_address, per_space, frozenset(origins)),
        Tokens() if token_file is None else Tokens.read(Path(token_file)),
        tuple(proxies),
        tuple(peers),
        lambda store: _HUBS.caller(store, peer_token),
        _HUBS.dice,
    )
    told = (lambda _url, _spaces: None) if on_start is None else on_start
    asyncio.run(run(setup, clock=_WORLD.clock, entropy=_WORLD.entropy, log=log or sys.stderr, on_start=told))


def stay(
    file: str | Path, *urls: str, token: str = "", home: str | Path | None = None, told: Callable[[Standing], None]
) -> None:
    """Stay connected to hubs until SIGTERM or SIGINT, with the file on a thread of its own.

    Raises:
        KlalError: As `Replica.stay_synced`.
    """
    asyncio.run(_HUBS.stay_apart(partial(_open_store, Path(file), _home(home)), urls, token, told))


def new_id() -> str:
    """Return a key that nobody else makes: 26 characters, as DEFAULT (klal_id()) gives, before the row is written."""
    return klal_id(_WORLD.entropy.token(KLAL_ID_SIZE))


def check_certificate_file(path: str | Path) -> Certificate:
    """Return the certificate in a file if everything it says of itself holds.

    Raises:
        UsageError: No such file. RefusedError: What does not hold, with its rule.
    """
    path = Path(path)
    try:
        refuse_open_database(str(path))
        with path.open("rb") as file:
            data = file.read(CERTIFICATE_SIZE_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > CERTIFICATE_SIZE_MAX:
        raise UsageError(f"{path} is too large to be a certificate")
    return check_certificate(data)


def check_proof(data: bytes) -> Proven:
    """Return what the bytes of a proof show, if its certificate is the true one.

    Whoever asks must know the hash in `.under` from somebody they trust; a `Spark` keeps it for them.

    Raises:
        RefusedError: PRF-1 to PRF-7, at the first thing that does not hold.
    """
    return proven(proof.check_proof(data))


def _home(home: str | Path | None) -> Home:
    return Home(Path(home) if home is not None else platformdirs.user_config_path("klal"))


def _open_store(path: Path, home: Home, member: str | None = None) -> Store:
    return store_at(path, home, _WORLD, member)


def _check_name(what: str, name: str) -> None:
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        raise UsageError(f"{what} name {name!r:.40} is empty, too long or not printable")


class _OtherFile(FileStation):
    """Another klal file, opened for one session."""

    def release(self) -> None:
        """Close the file."""
        self._store.close()


def _connect(remote: str, store: Store, home: Home) -> Station:
    """Return the station that a remote's name stands for."""
    if "://" in remote:
        raise UsageError(f"{remote}: files, folders and hubs (ws:, wss:) can be synced with by this version")
    path = Path(remote)
    if not remote.strip():
        raise UsageError("the remote has no name")
    if not is_there(path):
        raise TransportError(f"{path} does not exist", hint="name a klal file, or make the folder first")
    if path.is_dir():
        return FolderStation(path, store.space_id)
    if path.samefile(store.path):
        raise UsageError(f"{path} is this very file")
    other = _open_store(path, home)
    try:
        if other.space_id != store.space_id:
            raise UsageError(f"{path} is of another space, {other.genesis.space_name!r}")
        return _OtherFile(other)
    except BaseException:
        other.close()
        raise
