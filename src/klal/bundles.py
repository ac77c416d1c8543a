"""Bundles: the calls of a replica that write itself into a file to be carried, and take one.

A bundle is for where nothing connects: it is sent, or taken along, and read at the other end
as a session would be. What it is for is said when it is written: everything, or what somebody
is known to lack.

Source:
    docs/spec/bundle.md. Decision D19.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from klal.bundle.reading import Bundle
from klal.bundle.reports import BundleStatus, Exported, Imported
from klal.bundle.taking import bundle_status, import_bundle
from klal.bundle.writing import export_bundles
from klal.errors import ReadOnlyError, UsageError
from klal.membership import Membership
from klal.model.certificate import Certificate
from klal.moment import Asked, Moments
from klal.reports import Progress
from klal.store.store import Store

OnProgress = Callable[[Progress], None]


class Bundles(Membership):
    """The part of a replica that writes bundles and takes them."""

    def export_bundle(
        self,
        path: str | Path,
        *,
        for_: str | bytes | None = None,
        since: Asked | Certificate | None = None,
        size_max: int | None = None,
        progress: OnProgress | None = None,
    ) -> Exported:
        """Write what is held here to one new file, with the newest receipt of every member.

        Args:
            path: Must not exist.
            for_: A member, by name or id: write what they lack, as far as their newest receipt here says.
                Where they use several files, it is the one last heard from.
            since: Write what lies beyond a moment, as `at` takes it, or beyond a certificate's cut.
            size_max: Where more is to be written, make several files, none larger than this: of
                "a.bundle" then "a.1-of-3.bundle" and so on, to be taken in this order.
            progress: Called now and then.

        Raises:
            UsageError: Something is there already; both `for_` and `since`; no such member or moment.
            IncompleteError: Not all of that moment is here.
            StoreError: The disk refuses; files that were whole by then stay.
        """
        store = self._begin("export_bundle")
        if for_ is not None and since is not None:
            raise UsageError("export_bundle takes a member or a moment, not both")
        if size_max is not None and size_max < 1:
            raise UsageError(f"size_max is {size_max}, want at least 1")
        member_id = None if for_ is None else self._member_id(for_)

        def base() -> Mapping[int, int]:
            if member_id is not None:
                return _held_by(store, member_id)
            if since is None:
                return {}
            return Moments(store).lengths(since.frontier() if isinstance(since, Certificate) else since)

        told = _told(progress)
        return export_bundles(store, Path(path), base, size_max=size_max, on_progress=told)

    def import_bundle(self, path: str | Path, *, progress: OnProgress | None = None) -> Imported:
        """Take what a bundle holds and is not here, judged as if it had come in a session.

        What is whole of a cut or damaged bundle is kept, and the answer says what is not here.
        Taking it again goes on where it stopped.

        Raises:
            UsageError: No bundle, or one of another space.
            ReadOnlyError: The key of this file's member is not at hand.
        """
        store = self._begin("import_bundle")
        if store.identity is None:
            raise ReadOnlyError(f"{store.path} is read-only here: the key of its member is not at hand")
        told = _told(progress)
        bundle = Bundle(Path(path))
        try:
            self._check_space(bundle)
            report = import_bundle(store, bundle, lambda done, total: told("import", done, total))
        finally:
            bundle.close()
        store.enter_if_waiting(is_writing=False)
        store.note_contact()
        return report

    def bundle_status(self, path: str | Path) -> BundleStatus:
        """Return what a bundle would bring here, of whom, and what it needs that is not here; nothing is taken."""
        bundle = Bundle(Path(path))
        try:
            self._check_space(bundle)
            with self._store.reading():
                return bundle_status(bundle, self._store)
        finally:
            bundle.close()

    def _check_space(self, bundle: Bundle) -> None:
        if bundle.space_id != self._store.space_id:
            name = "" if bundle.contents is None else f", {bundle.contents.space_name!r}"
            raise UsageError(f"{bundle.path} is of another space{name}")


def read_bundle(path: str | Path) -> BundleStatus:
    """Return what is in a bundle, of whom, and what it needs, without any file of its space.

    Raises:
        UsageError: No bundle.
    """
    bundle = Bundle(Path(path))
    try:
        return bundle_status(bundle, None)
    finally:
        bundle.close()


def _held_by(store: Store, member_id: bytes) -> Mapping[int, int]:
    """Return what the newest receipt of a member says is held, by strand; nothing where none is here."""
    history = store.history
    return {
        history.by_id[log_id].log: min(length, history.by_id[log_id].length)
        for log_id, length in store.knowledge.newest_lengths(member_id).items()
        if log_id in history.by_id
    }


def _told(progress: OnProgress | None) -> Callable[[str, int, int], None]:
    return (lambda *_: None) if progress is None else lambda *each: progress(Progress(*each))
