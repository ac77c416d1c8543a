"""The page about the source says what was found, not what is wished."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("source_page", ROOT / "tools" / "source_page.py")
source_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(source_page)

REGISTRY = """
[[rule]]
id = "W1"
says = "One."
means = "One history."
code = ["here.py", "absent.py"]

[[rule]]
id = "W2"
says = "Two."
means = "Two replicas."
code = ["here.py"]

[[rule]]
id = "W3"
says = "Three."
means = "Three figures."
code = ["here.py", "sim/model.py"]
"""


@pytest.fixture
def root(tmp_path):
    files = {
        "docs/explanation/source.toml": REGISTRY,
        "src/klal/here.py": "",
        "src/klal/sim/model.py": "",
        "tests/test_one.py": 'def test_a_w1_claim(): ...\ndef helper():\n    "W2"\ndef test_b():\n    "W12, W30"\n',
        "tests/unit/sim/test_model.py": 'def test_c():\n    """W3: in the model."""\n',
        "bench/results/1.json": '{"W1_seconds": 3, "other": 4}',
        "bench/results/2.json": '{"runs": [{"W1_seconds": 2}]}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_a_rule_is_built_when_a_test_bears_its_id(root):
    text = source_page.page(root)
    one, two, three = text.split("\n### ")[1:]

    assert "here.py" in one
    assert "absent.py" not in text
    assert "`test_a_w1_claim`" in one
    assert "runs.W1_seconds = 2 (2.json)" in one
    assert "Status: not built yet." in two
    assert "here.py" not in two
    assert "Status: in the simulator's model only." in three
    assert "src/klal/here.py" not in three


def test_a_stale_page_is_found(root, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["source_page.py", "--check", "--root", str(root)])
    assert source_page.main() == 1

    (root / source_page.PAGE).write_text(source_page.page(root), "utf-8")
    assert source_page.main() == 0

    (root / "tests/test_one.py").unlink()
    assert source_page.main() == 1


def test_the_page_has_every_rule_and_names_only_files_that_exist():
    text = source_page.page(ROOT)

    assert re.findall(r"^### (W\d+)$", text, re.MULTILINE) == [f"W{number}" for number in range(1, 29)]
    for path in re.findall(r"\]\(\.\./\.\./([^)]+)\)", text):
        assert (ROOT / path).is_file()
