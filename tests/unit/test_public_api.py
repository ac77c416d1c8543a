"""What `import klal` gives is a promise: it changes on purpose, with the golden file."""

from __future__ import annotations

import inspect
from pathlib import Path

import klal
from klal import dbapi

GOLDEN = Path(__file__).parents[1] / "golden" / "public_api.txt"


def _public() -> list[str]:
    lines = []
    for module in (klal, dbapi):
        for name in module.__all__:
            thing = getattr(module, name)
            lines.append(f"{module.__name__}.{name}")
            if inspect.isclass(thing) and thing.__module__.startswith("klal") and not issubclass(thing, Exception):
                ours = [each for each in thing.__mro__ if each.__module__.startswith("klal")]
                members = {member for each in ours for member in vars(each) if not member.startswith("_")}
                lines.extend(f"{module.__name__}.{name}.{member}" for member in sorted(members))
    lines.extend(
        f"klal.errors.{name}"
        for name, thing in sorted(vars(klal.errors).items())
        if inspect.isclass(thing) and issubclass(thing, klal.errors.KlalError)
    )
    return lines


def test_the_public_names_are_those_of_the_golden_file() -> None:
    assert _public() == GOLDEN.read_text(encoding="ascii").splitlines()
