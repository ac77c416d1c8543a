"""The README is true: its example runs and prints what it says, and it stays a door."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
LINE_COUNT_MAX = 120


def test_the_example_runs_and_prints_what_the_readme_says(tmp_path: Path) -> None:
    text = README.read_text(encoding="ascii")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None

    run = subprocess.run([sys.executable, "-c", example[1]], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "[('N1A1', 'Dream', 3750)]"
    assert lines[1].endswith("it waits for ben (not finished)")


def test_the_readme_fits_one_door() -> None:
    lines = README.read_text(encoding="ascii").splitlines()

    assert len(lines) <= LINE_COUNT_MAX
    assert not any("SPEED_TABLE" in line for line in lines)


def test_every_page_the_readme_names_is_there() -> None:
    text = README.read_text(encoding="ascii")
    pages = re.findall(r"\]\(([^)#]+)\)", text)

    assert pages
    assert [page for page in pages if not (README.parent / page).exists()] == []
