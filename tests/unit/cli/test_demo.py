import json

from klal.cli.app import run
from klal.cli.demo import SEASONS


def test_what_the_demo_says_is_true_and_it_touches_nothing_of_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "demo-files" / "run-1" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")

    code = run(["demo", "--fast", "--json"])
    printed = capsys.readouterr()
    report = json.loads(printed.out)

    assert code == 0, printed
    assert report["ok"] is True
    assert report["directory"].endswith("run-2")
    assert report["penguins"] == 344
    assert [item["epoch"] for item in report["certificates"]] == list(range(len(SEASONS)))
    assert len({item["hash"] for item in report["certificates"]}) == len(SEASONS)
    assert {item["state"] for item in report["certificates"]} == {"closed"}
    assert report["conflict"]["winner"]["value"] != report["conflict"]["loser"]["value"]
    assert report["short_visit"]["payloads"]["held"] < report["short_visit"]["payloads"]["known"]
    assert report["fleet"]["replicas"] == 60_000
    assert mine.read_text() == "mine"


def test_a_demo_that_finds_itself_wrong_says_so_and_ends_with_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("klal.cli.demo.SHORT_VISIT_BYTES", 1 << 30)

    code = run(["demo", "--fast", "--json", "--dir", str(tmp_path / "demo")])
    report = json.loads(capsys.readouterr().out)

    assert code == 1
    assert report["ok"] is False
    assert "cut short" in report["what"]
