"""A fleet in one process, a round to a line: from everybody alone to the next epoch.

Each line is printed as soon as it is counted. Shares are cut, never rounded up: 100% is said of nothing less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from klal.sim.source import run_source

if TYPE_CHECKING:
    from klal.sim.fleet import Round

SCENARIOS = ("source",)
SAMPLE_COUNT = 256
_COLUMNS = ("round", "alone", "behind", "whole", "stable", "mean coverage", "", "missing", "epoch")
_WIDTHS = (5, 7, 7, 7, 7, 13, 9, 7, 10)  # 80 with the gaps: a terminal of 80


def simulate(scenario: str, replicas: int, seed: int, as_json: bool, console: Console) -> int:
    """Run `scenario` and print it; return the exit code: 0 done, 1 numpy is not installed, 2 used wrongly.

    Args:
        scenario: One of SCENARIOS.
        replicas: At least 3.
        seed: The only source of chance: the same seed prints the same lines.
        as_json: Print one JSON object, and nothing for people.
        console: Where to print.
    """
    if scenario not in SCENARIOS:
        return _refuse(console, f"scenario {scenario!r} is not known, want {' or '.join(SCENARIOS)}", 2, as_json)
    if replicas < 3:
        return _refuse(console, f"{replicas} replicas, want at least 3", 2, as_json)
    try:
        rounds = run_source(replicas, seed, SAMPLE_COUNT)
    except ImportError:
        return _refuse(console, "simulating needs numpy: pip install 'klal[sim]'", 1, as_json)
    if as_json:
        _print_json(console, _as_object(scenario, replicas, seed, list(rounds)))
    else:
        _show(console, replicas, seed, rounds)
    return 0


def _refuse(console: Console, message: str, code: int, as_json: bool) -> int:
    if as_json:
        kind = "usage" if code == 2 else "failed"
        _print_json(console, {"error": kind, "message": message, "hint": None, "rule": None})
    else:
        _say(console, f"error: {message}", "bold red")
    return code


def _as_object(scenario: str, replicas: int, seed: int, rounds: list[Round]) -> dict[str, Any]:
    closed = next(one for one in rounds if one.turn == "closed")
    named = next(one for one in rounds if one.turn == "named")
    return {
        "scenario": scenario,
        "simulated": True,
        "replicas": replicas,
        "sample": min(SAMPLE_COUNT, replicas),
        "seed": seed,
        "withheld_by": named.missing[0].member,
        "closed_in_round": closed.number,
        "certificate": closed.certificate,
        "first_drawn": rounds[-1].first_drawn,
        "rounds": [asdict(one) for one in rounds],
    }


def _print_json(console: Console, value: dict[str, Any]) -> None:
    console.print(json.dumps(value, indent=2), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _show(console: Console, replicas: int, seed: int, rounds: Iterator[Round]) -> None:
    sample = min(SAMPLE_COUNT, replicas)
    _say(
        console,
        f"simulated: {replicas:,} members, a sample of {sample:,} of their changes followed exactly "
        f"through all of them (seed {seed})",
        "bold",
    )
    before: Round | None = None
    for one in rounds:
        _line(console, one, has_header=before is None)
        for sentence in _sentences(one, before, sample):
            _say(console, sentence, "cyan", indent=6)
        before = one


def _line(console: Console, one: Round, *, has_header: bool) -> None:
    # A table of one row: fixed widths keep the lines under each other, and nobody waits for the last round.
    table = Table(box=None, show_header=has_header, pad_edge=False, padding=(0, 1, 0, 0))
    for name, width in zip(_COLUMNS, _WIDTHS, strict=True):
        table.add_column(name, width=width, justify="left" if name in ("mean coverage", "epoch") else "right")
    table.add_row(
        str(one.number),
        *(f"{count:,}" for count in (one.alone, one.behind, one.whole, one.stable)),
        ProgressBar(total=1.0, completed=one.coverage_mean, width=_WIDTHS[5]),
        share(one.coverage_mean, 4),
        f"{one.missing_count:,}",
        f"{one.epoch} {one.epoch_state}",
    )
    console.print(table)


def _sentences(one: Round, before: Round | None, sample: int) -> Iterator[str]:
    """Yield what to say of this round, from its figures alone."""
    replicas = one.alone + one.behind + one.whole
    if one.turn == "hidden":
        yield (
            f"Each hides the whole: {one.alone:,} of {replicas:,} have met nobody. A replica holds its own change and "
            f"{share(one.coverage_mean, 4)} of the sample in the mean, and has heard of "
            f"{share(one.members_known_mean, 4)} of its members."
        )
        if one.narrow:
            yield f"{one.narrow:,} of them have a scope: they take only some tables of what is offered, more over time."
    elif before is not None and before.narrow and not one.narrow:
        yield "No scope is left: everybody takes everything."
    if one.turn in ("withheld", "named", "found"):
        yield from _about_the_last(one, replicas)
    elif one.turn == "complete":
        yield f"Complete: all {replicas:,} hold all {sample:,}, and can compute the same certificate. Receipts follow."
    elif one.turn == "closed":
        yield (
            f"Closed: all {replicas:,} hold all, and each has the receipts of all members of the sample, which name "
            f"the certificate {one.certificate}."
        )
    elif one.turn == "opened":
        yield (
            f"Epoch {one.epoch} is open. Ties in it are drawn by hash(certificate, member): first of "
            f"{replicas:,} is {one.first_drawn}. Everybody has written again, "
            f"and holds {share(one.coverage_mean, 4)} of it in the mean."
        )


def _about_the_last(one: Round, replicas: int) -> Iterator[str]:
    for last in one.missing:
        if one.turn == "withheld":
            yield (
                f"Withheld: everybody in contact holds all of the sample but one change, {last.change}, which "
                f"{last.holder_count:,} replica holds. {one.whole:,} are whole: the epoch stays {one.epoch_state}."
            )
        elif one.turn == "named":
            yield (
                f"Still {one.epoch_state}, though the others met again ({one.contacts:,} pairs). Found and named: "
                f"{last.named_by:,} replicas list {last.change} as missing here, and {last.member} as who owes it. "
                f"The only replica that holds it is {last.holder}."
            )
        else:
            yield (
                f"{last.member} met one other: {one.whole:,} are whole, {replicas - one.whole:,} are not. "
                f"Now it brings its generation."
            )


def share(value: float, digits: int) -> str:
    """Return a share as a percentage, cut and not rounded: what is not all is never shown as 100%."""
    scale: int = 10**digits
    return f"{math.floor(value * 100 * scale + 1e-6) / scale:.{digits}f}%"


def _say(console: Console, sentence: str, style: str, indent: int = 0) -> None:
    console.print(Padding(Text(sentence, style=style), (0, 0, 0, indent), expand=False))
