"""Hubs as users run them: real processes on loopback, started, stopped and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

DEADLINE_S = 30.0


class HubProcess:
    """A running `klal serve`."""

    def __init__(self, home: Path, *files: Path, port: int = 0, options: tuple[str, ...] = ()) -> None:
        self.home = home
        self.files = files
        self.options = options
        self.log_path = files[0].with_name(f"{files[0].name}.log")
        self.port = port
        self.url = ""
        self.spaces: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, again on the same port; returns once it takes connections."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "klal", "serve", *map(str, self.files)),
                    *("--port", str(self.port), "--json", *self.options),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(self.home),
                text=True,
            )
        first = line_of(self.process)
        assert first, self.log_path.read_text()
        self.url, self.spaces = first["url"], first["spaces"]
        self.port = int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def log(self) -> list[dict[str, Any]]:
        """Return what it has logged so far, whole lines only."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, event: str, **what: object) -> dict[str, Any]:
        """Return the first line of the log on an event with these fields, once there is one."""

        def look() -> dict[str, Any] | None:
            return next(
                (line for line in self.log() if line["event"] == event and what.items() <= line.items()),
                None,
            )

        return until(look)

    def get(self, page: str, token: str = "") -> tuple[int, str]:
        """Return the status and text of one of its pages."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{page}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a klal process with its keys in `home`."""
    return {**os.environ, "KLAL_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def line_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next line of JSON that a process prints, or {} once it prints no more or the deadline is over."""
    timer = threading.Timer(DEADLINE_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
    finally:
        timer.cancel()
    return json.loads(line) if line else {}


def until(look: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Return what `look` finds as soon as that is something; fail when the deadline is over."""
    pause = threading.Event()
    end_s = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < end_s, "it did not happen in time"
        pause.wait(0.02)
    return found


def lines_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of JSON that a process prints."""
    while line := line_of(process):
        yield line
