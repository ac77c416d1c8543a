"""`simulate` prints what was counted."""

import io
import json

import pytest
from rich.console import Console

from klal.cli.simulate import share, simulate


def printed(replicas, seed, *, as_json=False, scenario="source", width=80):
    out = io.StringIO()
    code = simulate(scenario, replicas, seed, as_json, Console(file=out, width=width))
    return code, out.getvalue()


def test_every_turn_is_a_sentence_and_every_line_fits_a_terminal_of_80():
    code, text = printed(300, 4)

    assert code == 0
    said = " ".join(text.split())
    assert "simulated: 300 members, a sample of 256 of their changes followed exactly through all of them" in said
    for word in ("Each hides the whole", "Withheld:", "Found and named:", "it brings its generation", "Complete:"):
        assert said.count(word) == 1
    assert said.index("Closed: all 300 hold all") < said.index("Epoch 1 is open.")
    assert max(map(len, text.splitlines())) <= 80
    assert printed(300, 4)[1] == text


def test_json_is_one_object_with_the_same_story():
    code, text = printed(50, 4, as_json=True, width=40)
    story = json.loads(text)

    assert code == 0
    assert (story["simulated"], story["replicas"], story["sample"]) == (True, 50, 50)
    assert story["rounds"][story["closed_in_round"]]["stable"] == 50
    assert story["rounds"][-1]["first_drawn"] == story["first_drawn"]
    assert [one["number"] for one in story["rounds"]] == list(range(len(story["rounds"])))


@pytest.mark.parametrize("wrong", [{"replicas": 2}, {"replicas": 5, "scenario": "other"}])
@pytest.mark.parametrize("as_json", [False, True])
def test_what_cannot_be_simulated_is_refused(wrong, as_json):
    code, text = printed(**{"seed": 0, "as_json": as_json, **wrong})

    assert code == 2
    assert "want" in text
    assert not as_json or json.loads(text)["error"] == "usage"


def test_a_share_is_never_rounded_up():
    assert share(1.0, 2) == "100.00%"
    assert share(0.9999999, 2) == "99.99%"
    assert share(1 / 600_000, 4) == "0.0001%"
    assert share(0.29, 0) == "29%"
