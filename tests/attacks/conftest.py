"""What the attacks on members share."""

from __future__ import annotations

import pytest

from tests.helpers.fleet import BIRD, START_MS, Fleet


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path / "fleet", not_after_ms=START_MS + 1_000_000) as made:
        made.found("ana", BIRD)
        made.join("ben")
        made["ben"].execute("INSERT INTO bird VALUES('ben', 1, 'honest')")
        made.gather()
        yield made
