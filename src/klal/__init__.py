"""klal: an embedded database that every replica holds whole, and that can prove it.

import klal

with klal.open("season.db") as db:
    db.execute("UPDATE penguin SET body_mass_g = ? WHERE id = ?", (3800, "N2A1"))
    db.sync("usb-stick/")
    print(db.coverage().is_whole)
"""

from __future__ import annotations

from klal import errors
from klal.api import check_certificate_file, check_proof, create, heal, join, new_id, open, refound, serve  # noqa: A004 - klal.open, as one says gzip.open
from klal.bundle.reports import BundleStatus, Exported, Imported
from klal.bundles import read_bundle
from klal.coverage import Coverage, Missing
from klal.mend import Healed
from klal.model.certificate import Certificate
from klal.model.proof import Proof
from klal.moment import Moment
from klal.prove import Prover
from klal.proven import Proven
from klal.replica import Replica
from klal.reports import (
    ChangeId,
    Closed,
    Conflict,
    Event,
    ForeignWrite,
    NamedMoment,
    Progress,
    RowChange,
    Standing,
    Status,
    SyncReport,
    Version,
    Violation,
)
from klal.spark import Spark

__all__ = [
    "BundleStatus",
    "Certificate",
    "ChangeId",
    "Closed",
    "Conflict",
    "Coverage",
    "Event",
    "Exported",
    "ForeignWrite",
    "Healed",
    "Imported",
    "Missing",
    "Moment",
    "NamedMoment",
    "Progress",
    "Proof",
    "Proven",
    "Prover",
    "Replica",
    "RowChange",
    "Spark",
    "Standing",
    "Status",
    "SyncReport",
    "Version",
    "Violation",
    "check_certificate_file",
    "check_proof",
    "create",
    "errors",
    "heal",
    "join",
    "new_id",
    "open",
    "read_bundle",
    "refound",
    "serve",
]
