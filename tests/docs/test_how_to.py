"""The how-to pages are true: what they show runs, and prints what stands beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "how-to").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="ascii"), re.DOTALL)
    assert examples
    for example in examples:
        run = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)

        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", example, re.MULTILINE)
