"""What the command line says of certificates and proofs: what they show, and what they do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from klal.cli.output import Exit, Output
from klal.cli.text import counted, listed, shown, sized
from klal.errors import LinkError, StoreError, UsageError
from klal.model.certificate import MAGIC, Certificate
from klal.model.proof import PROOF_MAGIC, PROOF_SIZE_MAX, Proof, check_proof
from klal.proven import Proven, proven

if TYPE_CHECKING:
    from klal.replica import Replica
    from klal.spark import Spark


def kind_of(path: Path) -> str:
    """Return "certificate", "proof" or "file", by how the content begins."""
    begins = _read(path, max(len(MAGIC), len(PROOF_MAGIC)))
    if begins.startswith(MAGIC):
        return "certificate"
    return "proof" if begins.startswith(PROOF_MAGIC) else "file"


def _read(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size_max)
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error.strerror or error}") from error


def write_proof(path: Path, data: bytes) -> None:
    """Write a proof to a new file, or over one."""
    if path.exists() and kind_of(path) != "proof":
        raise StoreError(f"{path} is there already, and is no proof", hint="--to names another place")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror or error}") from error


def require_one(what: str | None, member: str | None, since: int | None, *, payload: bool, key: str | None) -> None:
    """Refuse arguments of `klal prove` that ask for two things at once.

    Raises:
        UsageError: They do.
    """
    if (what is not None) + (member is not None) + (since is not None) > 1:
        raise UsageError("a proof is of one thing: a change, a row, a member, or who named the certificate")
    if payload and (what is None or key is not None):
        raise UsageError("only a change has a payload to show")


def require_kinds(kinds: Sequence[str], *, is_compared: bool) -> None:
    """Refuse what `klal verify` cannot check together.

    Raises:
        UsageError: Two databases, a proof beside anything else, or a certificate named for no proof.
    """
    if kinds.count("file") > 1 or ("proof" in kinds and len(kinds) > 1):
        raise UsageError("want one file, one proof, or certificates with at most one file beside them")
    if is_compared and kinds != ["proof"]:
        raise UsageError("--certificate says what a proof must be under; certificates are given as arguments")


# -- certificates ------------------------------------------------------------------------


def verify_certificates(paths: Sequence[Path]) -> tuple[list[Certificate], dict[str, Any]]:
    """Check certificates alone and beside each other, and return them with what is shown so far."""
    import klal as library
    from klal.rules.chain import check_chain

    chain = check_chain(library.check_certificate_file(path) for path in paths)
    last = chain[-1]
    report = {
        "ok": True,
        "changes": last.body.change_count,
        "payloads": 0,
        "receipts": 0,
        "certificates": len(chain),
        "epoch": last.epoch,
        "hash": last.hash.hex(),
        "grade": last.grade,
        "members": sorted(witness.member.name for witness in last.witness),
        "proved": _words_of(chain),
        "not_proved": _limits_of(chain),
    }
    return chain, report


def _words_of(chain: Sequence[Certificate]) -> list[str]:
    last = chain[-1]
    words = [
        (
            f"each of the {counted(last.body.member_count, 'member')} it lists signed a Close of epoch {last.epoch},"
            " in a log that is inside the cut it lists"
        ),
        "cut, counts and members are those of the roots in its body",
    ]
    if len(chain) > 1:
        epochs = [each.epoch for each in chain]
        is_whole = epochs == list(range(epochs[0], epochs[-1] + 1))
        names = f"epochs {epochs[0]} to {epochs[-1]}" if is_whole else f"epochs {', '.join(map(str, epochs))}"
        words.append(
            f"the certificates of {names} are of one chain: no cut lacks what an earlier one had"
            + (", and who came and went is said" if is_whole else "")
        )
        if is_whole and epochs[0] == 0:
            words.append("the chain begins with the first epoch, and no certificate is left out")
    return words


def _limits_of(chain: Sequence[Certificate]) -> list[str]:
    limits = [
        (
            "that nobody else was a member, and what the rows were: whoever knows the hash from somebody they trust,"
            " or holds the history, knows that too"
        ),
        "that no member kept a change to itself: its Close binds it, and what surfaces later is shown as late",
    ]
    if chain[0].epoch:
        limits.insert(0, f"what was certified before epoch {chain[0].epoch}: give the earlier certificates too")
    return limits


def compared(replica: Replica, chain: Sequence[Certificate], report: dict[str, Any], update: Any) -> dict[str, Any]:
    """Check a file, and certificates against it."""
    checked = replica.verify(progress=update, certificates=chain).to_json()
    report = {**report, "payloads": checked["payloads"], "receipts": checked["receipts"]}
    report["proved"] = [
        *report["proved"],
        "cut, members, rows and counts are those that the history in the file gives, worked out anew",
    ]
    report["not_proved"] = [report["not_proved"][-1]]
    return report


def draw_certificates(out: Output, report: dict[str, Any]) -> None:
    """Show what certificates prove, in words."""
    what = f"the certificate of epoch {report['epoch']}, {report['grade']}"
    changes = f"{counted(report['changes'], 'change')} of {listed(report['members'], 'nobody')}"
    out.say(Text.assemble(("everything holds: ", "bold green"), f"{what}, over {changes}"))
    out.say(f"hash {report['hash']}")
    for sentence in report["proved"]:
        out.say(Text.assemble(("shown      ", "green"), shown(sentence)))
    for sentence in report["not_proved"]:
        out.say(Text.assemble(("not shown  ", "yellow"), shown(sentence)))


# -- proofs --------------------------------------------------------------------------------


def spelled(replica: Replica, table: str, key: str) -> tuple[Any, ...]:
    """Return the key that is spelled, by the types of the table's key columns as it stands now."""
    from klal.cli.csvfile import spelled_key

    types = dict(replica.table_columns(table))
    return spelled_key(key, [types[name] for name in replica.table_key(table)])


def written(path: Path, proof: Proof) -> dict[str, Any]:
    """Write a proof, and return what it proves and how large it is."""
    data = proof.encode()
    write_proof(path, data)
    found = proven(proof)
    return {**found.to_json(), "sentence": found.sentence, "path": str(path), "bytes": len(data)}


def draw_written(out: Output, report: dict[str, Any]) -> None:
    """Show what was proved, and where the proof is."""
    out.say(Text.assemble(("proved: ", "bold green"), shown(report["sentence"])))
    under = report["under"]
    out.say(f"under the certificate of epoch {under['epoch']}, hash {under['certificate']}")
    out.say(f"{sized(report['bytes'])} in {shown(report['path'])}")


def verify_proof(path: Path, against: str | None) -> dict[str, Any]:
    """Check a proof, and that it is under the certificate that `against` names, if it names one."""
    found = proven(check_proof(_read(path, PROOF_SIZE_MAX + 32)))
    if against is not None:
        wanted = _hash_named(against)
        if wanted not in (found.under, found.certificate):
            raise LinkError(
                f"proof is under the certificate {found.under.hex()[:16]} of epoch {found.under_epoch},"
                f" want {wanted.hex()[:16]}",
                rule="PRF-2",
            )
    return {**found.to_json(), "sentence": found.sentence, "trusted": against is not None}


def _hash_named(text: str) -> bytes:
    import klal as library

    path = Path(text)
    if path.is_file():
        return library.check_certificate_file(path).hash
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"{text!r:.80} is neither a certificate's file nor its hash") from error


def draw_proof(out: Output, report: dict[str, Any]) -> None:
    """Show what a proof proves, in words."""
    out.say(Text.assemble(("proved: ", "bold green"), shown(report["sentence"])))
    for name, value in report.get("row", {}).items():
        out.say(f"  {shown(name)}: {shown(value)}")
    under = report["under"]
    what = f"the certificate of epoch {under['epoch']} with the hash {under['certificate']}"
    if report["trusted"]:
        out.say(f"under {what}, which is the one given")
    else:
        out.say(Text.assemble(("only if ", "bold yellow"), f"{what} is the true one; --certificate compares"))


def draw_proven(out: Output, found: Proven) -> None:
    """Show what a light client was shown."""
    out.say(Text.assemble(("proved: ", "bold green"), shown(found.sentence)))
    for name, value in found.facts.get("row", {}).items():
        out.say(f"  {shown(name)}: {shown(value)}")


# -- light clients -------------------------------------------------------------------------


def run_spark(state: Path, items: Sequence[Path], hashed: str | None, out: Output) -> int:
    """Begin a light client, or show one what is in `items`."""
    import klal as library

    if not state.exists():
        if len(items) != 1 or hashed is None:
            raise UsageError(
                f"{state} is not there yet",
                hint="a spark begins with one certificate, and its hash from somebody you trust: --hash HEX",
            )
        spark = library.Spark.begin(state, library.check_certificate_file(items[0]), hash=hashed)
        items = ()
    elif hashed is not None:
        raise UsageError(f"{state} is there already; --hash begins a new one")
    else:
        spark = library.Spark.open(state)
    found = [spark.check(_read(item, PROOF_SIZE_MAX + 32)) for item in items]
    shown_so_far = [each for each in found if each is not None]
    report = {**standing(spark), "proved": [each.to_json() for each in shown_so_far]}

    def draw(out: Output) -> None:
        for each in shown_so_far:
            draw_proven(out, each)
        out.say(Text.assemble(("spark", "bold"), f" of space {report['space'][:8]}, epoch {report['epoch']}"))
        out.say(f"believes {report['certificate']}: {report['trusts']}")
        out.say("holds no rows and no history: everything else it checks by proof")

    out.answer(report, draw)
    return Exit.DONE


def standing(spark: Spark) -> dict[str, Any]:
    """Return what a light client holds, and why."""
    return {
        "standing": spark.standing,
        "space": spark.space_id.hex(),
        "epoch": spark.epoch,
        "certificate": spark.certificate_hash.hex(),
        "trusts": spark.trusts,
    }
