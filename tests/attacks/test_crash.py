"""A session of two members is cut at every call that changes a file: killed, cut from power, or failed by the disk.

The calls of one run are written down below SQLite and Python alike (`tests/helpers/disk.c`), so what lies on the disk
after each of them is worked out, not run again: everything seen so far after a kill, and after a power loss what was
synced, alone or with any of the rest. For the failures the session itself runs once for each of them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

import klal
from klal.errors import IncompleteError, KlalError
from tests.helpers.crash_session import Session
from tests.helpers.disk import Call, Disk, calls_in
from tests.helpers.fleet import scratch

HELPERS = Path(__file__).parents[1] / "helpers"
SESSION = HELPERS / "crash_session.py"
NAMES = ("ana", "ben")
FAILURES = {"once an I/O error": (errno.EIO, 0), "from then on a full disk": (errno.ENOSPC, 1)}

COMPILER = shutil.which("cc") or ""

pytestmark = pytest.mark.skipif(
    not (COMPILER and sys.platform.startswith("linux")), reason="needs a C compiler and LD_PRELOAD"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("disk") / "libdisk.so"
    command = [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(target), str(HELPERS / "disk.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return target


def environment(library: Path, root: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "LD_PRELOAD": str(library), "DISK_ROOT": str(root), **more}


@pytest.fixture(scope="module")
def calls(library: Path) -> list[Call]:
    """Every call of one whole session that changed a file."""
    with scratch() as folder:
        variables = environment(library, folder / "root", DISK_TRACE=str(folder / "trace"))
        subprocess.run([sys.executable, str(SESSION), str(folder / "root")], env=variables, check=True)
        found = list(calls_in((folder / "trace").read_bytes()))
        disk = Disk()
        for call in found:
            disk.do(call)
        # The model of a disk is right: it ends where the disk did.
        assert disk.after_kill() == {path: (folder / "root" / path).read_bytes() for path in disk.names}
    return found


@dataclass
class Said:
    """What the session has been told is stored."""

    made: set[str] = field(default_factory=set)
    changes: dict[str, dict[str, list]] = field(default_factory=lambda: {name: {} for name in NAMES})
    durable: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in NAMES})
    durably_made: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    @staticmethod
    def of(data: bytes) -> Said:
        said = Said()
        for line in data.split(b"\n")[:-1]:
            word = json.loads(line)
            if "made" in word:
                said.made.add(word["made"])
            elif "change" in word:
                said.changes[word["member"]][word["change"]] = word["rows"]
            elif "durable" in word:
                name = word["durable"]
                said.durable[name] = set(said.changes[name])
                said.durably_made.add(name)
            else:
                said.failed.append(word["failed"])
        return said


def check(root: Path, said: Said, *, is_power_loss: bool = False) -> int:
    """Open what is left, see that nothing is lost or over-stated and that both go on; return how many were there."""
    session = Session(root)
    must_be = said.durably_made if is_power_loss else said.made
    with ExitStack() as stack:
        replicas = {}
        for name in NAMES:
            if name in must_be:
                replicas[name] = stack.enter_context(klal.open(session.path(name), home=session.home(name)))
            else:
                # Nobody was told that it is there.
                with suppress(KlalError):
                    replicas[name] = stack.enter_context(klal.open(session.path(name), home=session.home(name)))
        for name, replica in replicas.items():
            changes = said.changes[name]
            if is_power_loss:
                changes = {change: rows for change, rows in changes.items() if change in said.durable[name]}
            check_one(replica, changes)
            replica.execute("CREATE TABLE IF NOT EXISTS t(k TEXT PRIMARY KEY, v)")
            replica.execute("INSERT INTO t VALUES (?, 0)", (f"{name} goes on",))
        check_together(root, replicas)
    return len(replicas)


def check_one(replica: klal.Replica, changes: dict[str, list]) -> None:
    replica.verify()
    coverage = replica.coverage()
    with closing(apsw.Connection(str(replica.path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        states = [state for (state,) in connection.execute("SELECT state FROM klal_change")]
    assert coverage.held == len(states)
    assert coverage.payloads_held == sum(state != 0 for state in states)
    assert changes.keys() <= {str(entry.change) for entry in replica.log()}
    for prefix, count in filter(None, changes.values()):
        assert replica.query("SELECT count(*) FROM t WHERE k LIKE ? || ' %'", (prefix,)) == [(count,)]


def check_together(root: Path, replicas: dict[str, klal.Replica]) -> None:
    share = root / "share"
    for replica in [*replicas.values()] * 2:
        assert replica.sync(share).refused == ()
    for replica in replicas.values():
        with suppress(IncompleteError):
            replica.finish(alone=True)
    for replica in [*replicas.values()] * 2:
        assert replica.sync(share).refused == ()
    assert len({replica.status().root for replica in replicas.values()}) <= 1
    certificates = set()
    for replica in replicas.values():
        replica.verify()
        assert replica._store.connection.execute("SELECT count(*) FROM klal_forks").get == 0
        assert replica.coverage().certainty == ("whole" if len(replicas) > 1 else "unknown")
        certificates.add(replica.close_epoch(0).certificate.hash)
    assert len(certificates) <= 1


def cuts(calls: list[Call], first: int, stride: int) -> Iterator[tuple[int, Disk, Said]]:
    """Yield the disk after every so many calls, with what had been said by then."""
    disk = Disk()
    for number, call in enumerate(calls):
        if number % stride == first:
            said = disk.names.get("said")
            yield number, disk, Said.of(bytes(said.seen) if said else b"")
        disk.do(call)


def cut_everywhere(calls: list[Call], first: int, stride: int, seed: int | None, *, is_power_loss: bool) -> set[int]:
    counts = set()
    for number, disk, said in cuts(calls, first, stride):
        with scratch() as root:
            keeps = None if seed is None else random.Random(seed + number)
            files = disk.after_power_loss(keeps) if is_power_loss else disk.after_kill()
            disk.write(files, root)
            try:
                counts.add(check(root, said, is_power_loss=is_power_loss))
            except BaseException as error:
                error.add_note(f"before call {number}: {calls[number].kind} {calls[number].path}")
                raise
    return counts


EVERY = pytest.mark.soak
SAMPLE = 53


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("first", "stride"), [(0, SAMPLE), pytest.param(0, 1, marks=EVERY)])
def test_a_session_killed_before_any_call_loses_nothing_that_was_said_and_goes_on(calls, first, stride):
    """S48 S42 T51 W3: every change that was returned is there, nothing else is counted, no number is used twice."""
    assert cut_everywhere(calls, first, stride, None, is_power_loss=False) == {0, 1, 2}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("first", "stride", "seed"),
    [(5, SAMPLE, None), (20, SAMPLE, 1), *(pytest.param(0, 1, seed, marks=EVERY) for seed in (None, 1, 2))],
)
def test_a_session_cut_from_power_before_any_call_keeps_what_was_promised_and_goes_on(calls, first, stride, seed):
    """S48 S42 T51 W3: what was synced, finished or closed is there, alone or with any of what was only written."""
    assert cut_everywhere(calls, first, stride, seed, is_power_loss=True) == {0, 1, 2}


def fail_everywhere(library: Path, call_count: int, first: int, stride: int, number: int, lasting: int) -> list[str]:
    """Run the session once for each call that fails; return what its steps were told."""
    told = []
    with scratch() as folder:
        root = folder / "root"
        server = subprocess.Popen(
            [sys.executable, str(SESSION), str(root), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(library, root),
            text=True,
        )
        for count in range(1 + first, call_count, stride):
            server.stdin.write(f"{count} {number} {lasting}\n")
            server.stdin.flush()
            assert server.stdout.readline() == "0\n", f"call {count}: not an error of klal's"
            said = Said.of((root / "said").read_bytes())
            told += said.failed
            try:
                check(root, said)
            except BaseException as error:
                error.add_note(f"call {count} failed with {errno.errorcode[number]}; {said.failed}")
                raise
        server.stdin.close()
        assert server.wait() == 0
    return told


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("number", "lasting"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize(("first", "stride"), [(3, 197), pytest.param(0, 1, marks=EVERY)])
def test_a_disk_that_fails_at_any_call_costs_that_step_and_nothing_that_was_said(
    library, calls, first, stride, number, lasting
):
    """S48 S42 T51 W3: one sentence says so, what was stored before is whole, and the session goes on."""
    assert fail_everywhere(library, len(calls), first, stride, number, lasting)
