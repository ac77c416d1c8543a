"""Put each of the kept faults into a copy of the sources, and see whether the tests notice.

    python tools/mutants.py              all of them
    python tools/mutants.py WORD...      those whose name holds one of the words

Prints one line per fault, and ends with 1 if one survived.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests/mutants/mutants.toml"
# Whatever the tests read: they find the rest of the repository beside themselves.
COPIED = ("src", "tests", "docs", "tools", "bench", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
TIMEOUT_S = 540


@dataclass(frozen=True)
class Mutant:
    """One fault: `old` is replaced by `new` in `file`, and one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, text: str) -> str:
        """Return the file's text with the fault in it.

        Raises:
            ValueError: The old text does not occur exactly once, so the list is out of date.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the old text occurs {text.count(self.old)} times in {self.file}, want once")
        return text.replace(self.old, self.new)


def kept() -> list[Mutant]:
    """Return the list of faults."""
    entries = tomllib.loads(LIST.read_text("utf-8"))["mutant"]
    return [Mutant(each["name"], each["file"], each["old"], each["new"], tuple(each["tests"])) for each in entries]


def outcome(mutant: Mutant, folder: Path) -> str:
    """Return "caught" or "survived": run the tests named on a copy of the repository with the fault in it."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, folder / name)
    target = folder / mutant.file
    target.write_text(mutant.applied_to(target.read_text("utf-8")), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "caught"  # A fault that hangs is seen by everybody.
    # 1 is "some test failed". Anything else, such as a copy that cannot be imported, proves nothing.
    return {0: "survived", 1: "caught"}.get(run.returncode, f"not run: {run.stdout[-300:]}{run.stderr[-300:]}")


def main() -> int:
    """Run the faults asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    mutants = [mutant for mutant in kept() if not words or any(word in mutant.name for word in words)]
    missed = 0
    for mutant in mutants:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            result = outcome(mutant, Path(folder))
        missed += result != "caught"
        print(f"{result:9} {time.monotonic() - started:5.0f} s  {mutant.name}", flush=True)
    print(f"{len(mutants) - missed} of {len(mutants)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
