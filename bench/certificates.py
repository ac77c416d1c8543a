"""What it costs to make a certificate, to check one, and to prove one thing under it; and how large all of that is.

    make bench                                   1,000,000 rows in 10,000 changes; epochs of 10 and 100 members
    .venv/bin/python bench/certificates.py --rows 100000 --members 10 300 --large 600000

"make" is the last Close with the certificate that follows from it, the rows being as they lie in the file; "verify"
checks the whole file and works the certificate out again from history alone. "whole" is all that had to be done for the
certificate: every replica's joining, writing, closing and syncing, in this one process; and "check" is what one who was
given it does. The large one is made straight from keys. Times are those that this process spends on a core.
Results are kept in bench/results/.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import klal
from bench import COLUMNS, Place, machine, rows_of, save, timed
from klal.model.acts import Close, encode_acts
from klal.model.certificate import Body, Certificate, CutHead, MemberName, Witness, check_certificate
from klal.model.codec import tree_leaf
from klal.model.frontier import Frontier, Head
from klal.model.header import ACTS_TABLE, NO_CERTIFICATE, Header, Part, header_hash
from klal.model.keys import SigningKey, log_id_of
from klal.model.merkle import inclusion_path
from klal.model.payload import part_root
from klal.model.proof import ChangeClaim, Proof
from klal.model.roots import chain_root, members_root
from klal.model.seal import make_seal

BAR = 0.1  # W22: checking costs under a tenth of making the whole.


def median(work: Callable[[], object], repeat: int) -> float:
    """Return the median of a few runs, in seconds of this process."""
    return statistics.median(timed(work, time.process_time) for _ in range(repeat))


def many_rows(row_count: int, per_change: int, repeat: int) -> dict[str, float]:
    """Return figures of one member with many rows in many changes."""
    place = Place()
    replica = klal.create(place.folder / "a.db", space="bench", member="a", home=place.folder / "home")
    try:
        replica.execute(f"CREATE TABLE bird({COLUMNS})")
        rows = rows_of(row_count)

        def write() -> None:
            for start in range(0, row_count, per_change):
                replica.insert_many("bird", rows[start : start + per_change])

        writing = timed(write, time.process_time)
        closing = timed(lambda: replica.finish(alone=True), time.process_time)
        closed = replica.close_epoch(0)

        def verify() -> None:
            replica.verify(certificates=[closed.certificate])

        key = f"{row_count // 2:016x}"
        row = replica.prove.row("bird", key)
        absent = replica.prove.row("bird", f"{key}!")
        change = replica.prove.change(klal.ChangeId(replica.log_id, closed.certificate.body.change_count // 2))
        return {
            "rows": row_count,
            "changes": closed.certificate.body.change_count,
            "write_seconds": round(writing, 2),
            "make_seconds": round(closing, 3),
            "make_us_per_row": round(1e6 * closing / row_count, 2),
            "verify_against_history_seconds": round(timed(verify, time.process_time), 2),
            "prove_row_seconds": round(timed(lambda: replica.prove.row("bird", key), time.process_time), 2),
            "prove_change_seconds": round(timed(lambda: replica.prove.change(_id(change)), time.process_time), 3),
            "check_row_us": round(1e6 * median(lambda: klal.check_proof(row.encode()), 100 * repeat), 1),
            "check_change_us": round(1e6 * median(lambda: klal.check_proof(change.encode()), 100 * repeat), 1),
            "row_proof_bytes": len(row.encode()),
            "absence_proof_bytes": len(absent.encode()),
            "change_proof_bytes": len(change.encode()),
            "change_proof_bytes_among_1000000": _among(change, 1_000_000),
        }
    finally:
        replica.close()
        place.remove()


def _id(proof: Proof) -> str:
    return str(klal.check_proof(proof.encode()).facts["change"])


def _among(proof: Proof, count: int) -> int:
    """Return the size of a change's proof if the epoch had `count` changes, by the true path in such a tree."""
    claim = proof.claim
    assert isinstance(claim, ChangeClaim)
    path = inclusion_path([tree_leaf(n.to_bytes(8, "big")) for n in range(count)], count // 2)
    larger = ChangeClaim(claim.member_id, claim.incarnation, claim.header, count // 2, count, path)
    return len(Proof(proof.certificate, None, larger).encode())


def many_members(member_count: int, repeat: int) -> dict[str, float]:
    """Return figures of a real epoch of many members, with one row and one Close each."""
    place = Place()
    home, path = place.folder / "home", place.folder / "hub.db"
    try:
        began = time.process_time()
        with klal.create(path, space="bench", member="hub", home=home) as hub:
            hub.execute(f"CREATE TABLE bird({COLUMNS})")
            ticket = hub.invite(use_count_max=member_count)
        for row in rows_of(member_count - 1):
            own = place.folder / "own.db"
            with klal.join(own, ticket, member=f"member {row[0]}", home=home) as one:
                one.insert_many("bird", [row])
                one.finish(alone=True)
                one.sync(path)
            own.unlink()
        with klal.open(path, home=home, member="hub") as hub:
            making = timed(lambda: hub.finish(alone=True), time.process_time)
            whole = time.process_time() - began
            certificate = hub.close_epoch(0).certificate
            member = hub.prove.member("hub").encode()
        data = certificate.encode()
        checking = median(lambda: check_certificate(data), repeat)
        return {
            "members": certificate.body.member_count,
            "whole_seconds": round(whole, 2),
            "make_seconds": round(making, 3),
            "check_seconds": round(checking, 4),
            "W22_check_to_whole": round(checking / whole, 4),
            "certificate_bytes": len(data),
            "member_proof_bytes": len(member),
        }
    finally:
        place.remove()


CHECK = """
import sys, time
from pathlib import Path
from klal.api import check_certificate_file
from klal.model.codec import pack
def rss():  # of this process alone: what getrusage says counts the one it was forked from
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
before = rss()
start = time.process_time()
certificate = check_certificate_file(sys.argv[1])
print(time.process_time() - start, rss() - before, len(pack(certificate.body.outline)))
"""


def large(member_count: int) -> dict[str, float]:
    """Return figures of checking a certificate of very many members, in a process of its own."""
    place = Place()
    try:
        path = place.folder / "large.certificate"
        path.write_bytes(certificate_of(member_count).encode())
        size = path.stat().st_size
        done = subprocess.run([sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True, check=True)
        seconds, grown_kb, outline_size = map(float, done.stdout.split())
    finally:
        place.remove()
    return {
        "members": member_count,
        "check_seconds": round(seconds, 2),
        "check_us_per_member": round(1e6 * seconds / member_count, 1),
        "checked_in_memory_mb": round(grown_kb / 1024, 1),
        "certificate_bytes": size,
        "certificate_bytes_per_member": round(size / member_count, 1),
        "outline_bytes": int(outline_size),
    }


def certificate_of(member_count: int) -> Certificate:
    """Return a certificate in which each member's log is one change that closes the epoch."""
    space, salt = bytes(32), bytes(16)
    acts = encode_acts((Close(0),), salt)
    part = Part(ACTS_TABLE, part_root(acts), len(acts), 1)
    witness, heads = [], {}
    for number in range(member_count):
        key = SigningKey(number.to_bytes(32, "big"))
        log_id = log_id_of(space, key.member_id, salt)
        header = Header(0, 0, number, 0, log_id, NO_CERTIFICATE, (), (part,)).encode()
        hashed = header_hash(space, header)
        seal = make_seal(key, space, log_id, 1, hashed)
        witness.append(Witness(MemberName(key.member_id, f"member {number}"), salt, header, acts, seal.signature))
        heads[log_id] = Head(1, hashed)
    witness.sort(key=lambda each: each.member.member_id)
    cut, ids = Frontier(heads), [each.member.member_id for each in witness]
    body = Body(
        version=1,
        space_id=space,
        epoch=0,
        previous=NO_CERTIFICATE,
        chain_root=chain_root(()),
        history_root=cut.root(),
        changes_root=bytes(32),
        rows_root=bytes(32),
        change_count=member_count,
        payload_size=member_count * len(acts),
        row_count=0,
        members_root=members_root(ids),
        member_count=member_count,
        joined=tuple(each.member for each in witness),
        left=(),
        gone=(),
        late=(),
        steward=ids[0],
        steward_next=ids[0],
    )
    return Certificate(
        body, tuple(CutHead(*(log_id, h.length, h.head_hash)) for log_id, h in cut.heads.items()), tuple(witness)
    )


def main() -> None:
    """Run, print the figures beside the bar, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-change", type=int, default=100)
    parser.add_argument("--members", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--large", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-save", action="store_true")
    arguments = parser.parse_args()
    kept: dict[str, object] = machine()
    figures = {"rows": many_rows(arguments.rows, arguments.per_change, arguments.repeat)}
    for member_count in arguments.members:
        figures[f"{member_count} members"] = many_members(member_count, arguments.repeat)
    figures["large"] = large(arguments.large)
    for form, values in figures.items():
        print(form)
        for name, value in values.items():
            note = f"   bar {BAR}   {'within' if value <= BAR else 'ABOVE'}" if name.startswith("W22") else ""
            print(f"  {name:34} {value:>14,}{note}")
    if not arguments.no_save:
        save("certificates.json", kept | figures)


if __name__ == "__main__":
    main()
