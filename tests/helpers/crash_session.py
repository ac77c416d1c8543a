"""One session of two members, as a process that says what it has been told is stored.

    python crash_session.py ROOT           runs it once
    python crash_session.py ROOT serve     for each line "COUNT ERRNO LASTING" on stdin: a process that runs it in
                                           ROOT, in which the COUNTth call that changes a file fails

Each line it writes to ROOT/said is one JSON word: {"made": member}, or {"member", "change", "rows"} once a change is
committed, {"durable": member} once a call has promised that all of that member's work so far survives a power loss, and
{"failed": step} where a step raised an error of klal's. What a step raises else ends the process, and is a bug.
"""

import ctypes
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import klal
from klal.errors import KlalError

ROWS_OF_A_LARGE_CHANGE = 1500  # Its payload lies in slices of its own.


class Session:
    def __init__(self, root):
        self.root = root
        self.said = os.open(root / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.open = {}
        self.ticket = ""

    def say(self, **word):
        os.write(self.said, json.dumps(word).encode() + b"\n")

    def path(self, name):
        return self.root / name / f"{name}.db"

    def home(self, name):
        return self.root / name / "home"

    def step(self, work, *arguments):
        try:
            work(*arguments)
        except KlalError as error:
            self.say(failed=f"{work.__name__} {' '.join(map(str, arguments))}: {error}")

    def create(self):
        self.open["ana"] = klal.create(self.path("ana"), space="s", member="ana", home=self.home("ana"))
        self.say(made="ana")
        self.say(durable="ana")

    def declare(self):
        change = self.open["ana"].execute("CREATE TABLE t(k TEXT PRIMARY KEY, v)").change
        self.say(member="ana", change=str(change), rows=[])

    def invite(self):
        self.ticket = self.open["ana"].invite()
        self.say(durable="ana")

    def join(self):
        self.open["ben"] = klal.join(self.path("ben"), self.ticket, member="ben", home=self.home("ben"))
        self.say(made="ben")
        self.say(durable="ben")

    def write(self, name, prefix, count):
        rows = [(f"{name} {prefix} {number}", number) for number in range(count)]
        change = self.open[name].insert_many("t", rows).change
        self.say(member=name, change=str(change), rows=[f"{name} {prefix}", count])

    def sync(self, name, other):
        self.open[name].sync(self.root / "share" if other == "share" else self.path(other))
        self.say(durable=name)

    def finish(self, name):
        self.open[name].finish(alone=True)
        self.say(durable=name)

    def close_epoch(self, name):
        self.open[name].close_epoch(0).write(self.root / name / "certificate")

    def close(self, name):
        self.open.pop(name).close()
        self.say(durable=name)

    def reopen(self, name):
        self.open[name] = klal.open(self.path(name), home=self.home(name))

    def run(self):
        plan = [
            (self.create,),
            (self.declare,),
            (self.write, "ana", "first", 1),
            (self.invite,),
            (self.join,),
            (self.write, "ben", "first", 2),
            (self.sync, "ben", "share"),
            (self.sync, "ana", "share"),
            (self.write, "ana", "large", ROWS_OF_A_LARGE_CHANGE),
            (self.sync, "ana", "share"),
            (self.sync, "ben", "share"),
            (self.finish, "ben"),
            (self.finish, "ana"),
            (self.sync, "ben", "share"),
            (self.sync, "ana", "share"),
            (self.close_epoch, "ana"),
            (self.write, "ana", "second", 1),
            (self.close, "ana"),
            (self.reopen, "ana"),
            (self.write, "ana", "third", 1),
            (self.write, "ben", "third", 1),
            (self.sync, "ben", "share"),
            (self.write, "ana", "fourth", 1),
            (self.close, "ben"),
        ]
        for work, *arguments in plan:
            if self.can(work, *arguments):
                self.step(work, *arguments)

    def can(self, work, name="ana", *_):
        """Say whether a step makes sense, after whatever failed before."""
        if work == self.join:
            return bool(self.ticket)
        return work in (self.create, self.reopen) or name in self.open


def prepared(root):
    shutil.rmtree(root, ignore_errors=True)
    for name in ("ana", "ben", "share"):
        (root / name).mkdir(parents=True)
    return root


def serve(root):
    disk = ctypes.CDLL(None)
    while order := sys.stdin.readline():
        count, number, lasting = map(int, order.split())
        prepared(root)
        pid = os.fork()
        if not pid:
            disk.disk_arm(count, number, lasting)
            code = 1
            try:
                Session(root).run()
                code = 0
            finally:
                disk.disk_arm(0, 0, 0)
                if code:
                    traceback.print_exc()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


def main():
    root = Path(sys.argv[1])
    if len(sys.argv) > 2:
        serve(root)
        return
    prepared(root)
    Session(root).run()
    os._exit(0)  # What is open is not closed: ana's file is one that a kill leaves behind.


if __name__ == "__main__":
    main()
