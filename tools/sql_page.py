"""Make docs/reference/sql.md from docs/reference/sql.toml, whose every line a test runs."""

from __future__ import annotations

import sys
import tomllib
from typing import Any

from page import ROOT, publish

LIST, PAGE = "docs/reference/sql.toml", "docs/reference/sql.md"
HEAD = """# SQL

What SQLite can declare, and what klal does with it.
Reads, and writes of rows, are SQLite's own; this page is about what is declared.
It is made by `tools/sql_page.py` from a list whose every line is run by a test.

A constraint holds for what is written here, as in SQLite.
Two members apart can each obey it and break it together: a merge never stops on that, nothing is lost, and every
replica lists the same breaches in the view `klal_violations`.

| Feature | klal | What happens when two members breach it apart |
|---|---|---|
"""


def page(features: list[dict[str, Any]]) -> str:
    """Return the text of the page."""
    rows = []
    for feature in features:
        refused = feature.get("refused")
        verdict = "works" if refused is None else f'refused: "{refused}"'
        rows.append(f"| {feature['name']} | {verdict} | {feature.get('apart', '-')} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(publish(PAGE, page(tomllib.loads((ROOT / LIST).read_text("utf-8"))["feature"])))
