"""What `import klal` gives is a promise: it changes on purpose, with the golden file."""

from __future__ import annotations

import inspect
from pathlib import Path

import klal

GOLDEN = Path(__file__).parents[1] / "golden" / "public_api.txt"


def _public() -> list[str]:
    lines = []
    for name in klal.__all__:
        thing = getattr(klal, name)
        lines.append(f"klal.{name}")
        if inspect.isclass(thing):
            lines.extend(f"klal.{name}.{member}" for member in sorted(vars(thing)) if not member.startswith("_"))
    lines.extend(
        f"klal.errors.{name}"
        for name, thing in sorted(vars(klal.errors).items())
        if inspect.isclass(thing) and issubclass(thing, klal.errors.KlalError)
    )
    return lines


def test_the_public_names_are_those_of_the_golden_file() -> None:
    assert _public() == GOLDEN.read_text(encoding="ascii").splitlines()
