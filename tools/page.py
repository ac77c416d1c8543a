"""What the makers of pages share: writing one, or saying that it is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def publish(page: str, text: str, *, root: Path = ROOT) -> int:
    """Write `text` to a page, or with --check only compare; return the exit code."""
    maker = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(description=f"Make {page}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    options = parser.parse_args()
    path = root / page
    if not options.check:
        path.write_text(text, "utf-8")
        print(f"wrote {page}")
    elif not path.is_file() or path.read_text("utf-8") != text:
        print(f"{page} is stale: run python tools/{maker}", file=sys.stderr)
        return 1
    return 0
