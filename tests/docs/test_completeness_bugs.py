"""Every bug of the catalogue has its test, and every test there its line."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_catalogue_and_its_tests_name_the_same_bugs():
    page = (ROOT / "docs" / "explanation" / "completeness-bugs.md").read_text(encoding="ascii")
    told = re.findall(r"^\| \*\*(C\d+)\*\* \|", page, flags=re.MULTILINE)
    tests = (ROOT / "tests" / "catalogue" / "test_completion_bugs.py").read_text(encoding="ascii")
    shown = re.findall(r'^def test_(c\d+)_\w+\(.*\n    """(C\d+)[:,]', tests, flags=re.MULTILINE)

    assert told == [f"C{number}" for number in range(1, 13)]
    assert list(dict.fromkeys(shown)) == [(each.lower(), each) for each in told]
