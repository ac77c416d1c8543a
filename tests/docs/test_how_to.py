"""The tutorial, the how-to pages and the one on completeness are true: their examples run one after another in one
folder, and print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md")), DOCS / "explanation" / "completeness.md"]
END = "-- end of block --"
# Each block is a program of its own: it shares the folder with those before it, and no names.
PYTHON = f"""
import sys
for code in sys.argv[1:]:
    exec(compile(code, "block", "exec"), {{"__name__": "__main__"}})
    print({END!r}, end="")
"""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(text):
    """Yield (language, code, printed) for each block that can be run; printed is the `text` block behind it."""
    blocks = [(match[1], match[2]) for match in BLOCK.finditer(text)]
    for (language, code), (after, printed) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language in ("python", "sh"):
            yield language, code, printed if after == "text" else ""


def run(language, codes, folder):
    """Run blocks of one language and return what each printed; one process for all, since its imports are dear."""
    if language == "python":
        command = [sys.executable, "-c", PYTHON, *codes]
    else:
        command = ["sh", "-ec", f"\nprintf %s '{END}'\n".join([*codes, ""])]
    # `python` on the page is the one that has klal.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(END)[:-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_runs_and_prints_what_the_page_says(page, tmp_path):
    found = list(examples(page.read_text(encoding="ascii")))
    assert found
    for language, group in groupby(found, key=itemgetter(0)):
        blocks = list(group)

        printed = run(language, [code for _, code, _ in blocks], tmp_path)
        assert printed == [expected for *_, expected in blocks]


def test_every_error_in_the_table_is_mapped_as_it_says():
    from klal import dbapi, errors

    page = next(page for page in PAGES if page.stem == "use-with-an-orm")
    rows = re.findall(r"^\| `(\w+)`.* \| `(\w+)` \|$", page.read_text(encoding="ascii"), flags=re.MULTILINE)
    assert len(rows) >= 3
    for ours, theirs in rows:
        assert dbapi._error_of(getattr(errors, ours)("a sentence")) is getattr(dbapi, theirs)
