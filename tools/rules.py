"""List every rule with the tests that bear its id, and say which rules have none.

Where a rule comes from:

- every id like LOG-3 in docs/spec/protocol.md;
- W (what the system promises), S (scenarios) and T (threats): an id that opens a table row, a list item, a heading or a
  bold phrase in a page under docs/.

A test bears an id when the id stands in its name line, its docstring or its body. An id in the rest of a test file,
such as its module docstring, or in a story, a vector or a benchmark belongs to that whole file.

    python tools/rules.py            all rules
    python tools/rules.py --without  only those that no test bears
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEC = Path("docs/spec/protocol.md")

# Standards that look like rule ids.
NOT_RULES = {"AES", "FIPS", "ISO", "MD", "RFC", "SHA", "UTF"}
RULE = re.compile(r"\b([A-Z]{2,4})-(\d+)\b")
STATEMENT = re.compile(r"\b([WST])-?(\d{1,3})\b")
DEFINITION = re.compile(r"^\s*(?:\||[-*]|#+|\*\*)?\s*(?:\*\*|`)?([WST])-?(\d{1,3})\b")


def rules_in(text: str) -> set[str]:
    """Return the ids like LOG-3 in `text`."""
    return {f"{word}-{number}" for word, number in RULE.findall(text) if word not in NOT_RULES | {"W", "S", "T"}}


def ids_in(text: str) -> set[str]:
    """Return every id in `text`, of rules and of statements."""
    return rules_in(text) | {f"{letter}{int(number)}" for letter, number in STATEMENT.findall(text)}


def defined(root: Path) -> set[str]:
    """Return the ids that the documentation defines."""
    spec = root / SPEC
    found = rules_in(spec.read_text("utf-8")) if spec.is_file() else set()
    for page in sorted((root / "docs").rglob("*.md")):
        # A decision record opens many lines with ids it only talks about.
        if "decisions" in page.parts:
            continue
        for line in page.read_text("utf-8").splitlines():
            if match := DEFINITION.match(line):
                found.add(f"{match[1]}{int(match[2])}")
    return found


def bearers(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield (id, who bears it) for one file.

    Args:
        path: A test module, or any other text file, which bears its ids as a whole.
        name: How the file is called in the list.
    """
    text = path.read_text("utf-8", errors="replace")
    rest = text.splitlines()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text, name)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test"):
                continue
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            body = rest[first : node.end_lineno]
            rest[first : node.end_lineno] = [""] * len(body)
            for found in ids_in("\n".join(body)):
                yield found, f"{name}::{node.name}"
    for found in ids_in("\n".join(rest)):
        yield found, name


def borne(root: Path) -> dict[str, list[str]]:
    """Return id -> the tests, stories, vectors and benchmarks that bear it, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder, suffixes in (("tests", {".py", ".story", ".json", ".txt"}), ("bench", {".py"})):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in suffixes or "__pycache__" in path.parts or "results" in path.parts:
                continue
            for rule, bearer in bearers(path, path.relative_to(root).as_posix()):
                found[rule].append(bearer)
    return {rule: sorted(set(names)) for rule, names in found.items()}


def in_order(rule: str) -> tuple[str, int]:
    word = rule.rstrip("0123456789")
    return word.rstrip("-"), int(rule[len(word) :])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--without", action="store_true", help="only the rules that no test bears")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args()

    rules = sorted(defined(options.root), key=in_order)
    tests = borne(options.root)
    if not rules:
        print(f"no rule is defined in {SPEC} or in any page under docs", file=sys.stderr)
        return 1

    width = max(map(len, rules))
    for rule in rules:
        names = tests.get(rule, [])
        if names and options.without:
            continue
        print(f"{rule:<{width}}  {names[0] if names else '-'}")
        for name in names[1:]:
            print(f"{'':<{width}}  {name}")

    without = [rule for rule in rules if rule not in tests]
    # The other direction is a slip of the pen, or a rule that left the spec. S and T are too short to judge: S3 and T4
    # also name a protocol and a graphics card.
    unknown = sorted((rule for rule in tests if "-" in rule and rule not in rules), key=in_order)
    print(f"\n{len(rules)} rules, {len(rules) - len(without)} with a test, {len(without)} without")
    if unknown:
        print(f"borne by tests and defined nowhere: {', '.join(unknown)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
