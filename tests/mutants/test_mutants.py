"""The kept faults still fit the sources; `make mutants` runs them."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = spec_from_file_location("mutants", ROOT / "tools/mutants.py")
assert _spec is not None
assert _spec.loader is not None
mutants = module_from_spec(_spec)
_spec.loader.exec_module(mutants)


@pytest.mark.parametrize("mutant", mutants.kept(), ids=lambda mutant: mutant.name)
def test_every_kept_fault_still_applies(mutant: object) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")

    assert mutant.applied_to(text) != text
    assert all((ROOT / test).exists() for test in mutant.tests)


def test_there_are_at_least_ten_faults_and_no_name_twice() -> None:
    names = [mutant.name for mutant in mutants.kept()]

    assert len(set(names)) == len(names) >= 10
