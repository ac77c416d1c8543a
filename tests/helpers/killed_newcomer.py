"""A newcomer that is killed at its COUNTth commit while a snapshot comes.

python killed_newcomer.py FILE SOURCE HOME COUNT
"""

import os
import signal
import sys

import klal
from klal.file_station import FileStation
from klal.sync.snapshot import fetch

path, source, home, count = sys.argv[1:]
left = int(count)


def commit() -> None:
    global left  # noqa: PLW0603 - it is all that this process counts
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)


with klal.open(path, home=home, member="dan") as dan, klal.open(source, home=home, member="ana") as ana:
    station, giver = FileStation(dan._store), FileStation(ana._store)
    dan._store.listen(commit)
    sys.stdout.write(fetch(station, giver))
