"""A light client: a small file that holds one certificate's outline, and checks everything against it.

It is no replica: it holds no rows, no history and no key, about half a kilobyte in all. It
believes the first certificate because a person gave it the hash, and each later one because
its steward and at least half of the members of the one before signed for it. That, and that
these do not lie together, is all it trusts.
"""

from __future__ import annotations

import os
from pathlib import Path

from klal.disk import refuse_open_database
from klal.errors import LinkError, StoreError, UsageError
from klal.model.certificate import MAGIC, Certificate, check_certificate
from klal.model.codec import HASH_SIZE
from klal.model.proof import NamedClaim, check_proof
from klal.proven import Proven, proven
from klal.rules.spark import SPARK_SIZE_MAX, Belief, advance, decode_belief, require_under


class Spark:
    """One light client, kept in one file.

    Made by `Spark.begin` and `Spark.open`.
    """

    standing = "spark"

    def __init__(self, path: Path, belief: Belief) -> None:
        self._path = path
        self._belief = belief

    @staticmethod
    def begin(path: str | Path, certificate: Certificate, *, hash: str | bytes) -> Spark:  # noqa: A002 - as in .hash
        """Return a new light client that believes a certificate, and write its file.

        Args:
            path: Must not exist.
            certificate: From `check_certificate_file`.
            hash: Its hash, from a person or a page that is trusted: the file alone proves less.

        Raises:
            LinkError: The certificate has another hash.
        """
        path = Path(path)
        wanted = hash if isinstance(hash, bytes) else _hash_of(hash)
        if certificate.hash != wanted:
            raise LinkError(
                f"certificate has the hash {certificate.hash.hex()[:16]}, want {wanted.hex()[:16]}", rule="SPK-1"
            )
        if path.exists():
            raise UsageError(f"{path} is there already")
        spark = Spark(path, Belief(certificate.body.outline))
        spark._save()
        return spark

    @staticmethod
    def open(path: str | Path) -> Spark:
        """Return the light client of a file.

        Raises:
            UsageError: No such file. RefusedError: SPK-1, it is something else.
        """
        path = Path(path)
        try:
            refuse_open_database(str(path))
            with path.open("rb") as file:
                data = file.read(SPARK_SIZE_MAX + 1)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        return Spark(path, decode_belief(data))

    @property
    def space_id(self) -> bytes:
        """The 32 bytes that name the space."""
        return self._belief.outline.space_id

    @property
    def epoch(self) -> int:
        """The epoch of the certificate that is believed."""
        return self._belief.outline.epoch

    @property
    def certificate_hash(self) -> bytes:
        """The hash of the certificate that is believed."""
        return self._belief.outline.hash

    @property
    def trusts(self) -> str:
        """Why it is believed, in words."""
        belief = self._belief
        if not belief.of_count:
            return "a person gave its hash"
        return f"{belief.named_count} of {belief.of_count} members signed for it"

    def check(self, data: bytes) -> Proven | None:
        """Return what a proof shows under the certificate that is believed.

        A proof of who named a later certificate (`prove.named(since=...)`) moves this light client on to that
        one, and is durable before this returns. A certificate's own file shows nothing new: None where it is
        the one that is believed.

        Raises:
            RefusedError: The proof does not hold, or is not under what is believed here.
            ForkError: Members signed for two certificates of one epoch.
            IncompleteError: The next certificate may still be given up: its steward or too many have not named it.
        """
        if data.startswith(MAGIC):
            certificate = check_certificate(data)
            if certificate.hash != self.certificate_hash:
                raise LinkError(
                    f"certificate {certificate.hash.hex()[:8]} of epoch {certificate.epoch} is not the one believed"
                    f" here, {self.certificate_hash.hex()[:8]} of epoch {self.epoch}",
                    rule="SPK-3",
                    hint="a proof of who named it moves a spark on: klal prove FILE --since N",
                )
            return None
        proof = check_proof(data)
        if isinstance(proof.claim, NamedClaim):
            belief = advance(self._belief, proof)
            if belief.outline.epoch > self.epoch or belief.named_count > self._belief.named_count:
                self._belief = belief
                self._save()
        else:
            require_under(self._belief, proof)
        return proven(proof)

    def _save(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            with temporary.open("xb") as file:
                file.write(self._belief.encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise StoreError(f"{self._path} could not be written: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<klal.Spark {str(self._path)!r} of epoch {self.epoch}>"


def _hash_of(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != HASH_SIZE:
        raise UsageError(f"{text!r:.80} is no hash: want 64 hex digits")
    return found
