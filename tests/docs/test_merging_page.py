"""docs/reference/merging.md is true: its example runs and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/reference/merging.md"


def test_the_example_prints_what_the_page_says(tmp_path: Path) -> None:
    """S19, S23, S24, S30, S31"""
    text = PAGE.read_text(encoding="ascii")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    printed = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert example is not None
    assert printed is not None

    run = subprocess.run([sys.executable, "-c", example[1]], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert run.stdout == printed[1]
