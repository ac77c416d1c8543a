"""A writer that is made to be killed: it works without end on one file, and says each change once it is committed.

    python killed_writer.py FILE HOME FOLDER

Reads one order per line, and for each starts a process; it is a fork, so that a test need not wait for Python to start.
An order is a SEED, for a process that writes until it is killed; or SEED STEP COUNT, for one that does this step and
kills itself before its COUNTth call that could leave something in a file.

One JSON line says the {"pid"}, and one that it {"ended"}, by which signal. In between, the writer says {"step"} before
it does one, and {"change", "rows", "bulk"} once a change is committed: rows is {key: value or null}, bulk
[prefix, count, value] stands for rows whose keys are prefix and a number. {"done"} says that a step was not cut.
"""

import itertools
import json
import os
import random
import signal
import sys

import klal
from klal.errors import IncompleteError


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Writer:
    def __init__(self, replica, folder, seed):
        self.replica = replica
        self.folder = folder
        self.dice = random.Random(seed)
        self.serial = 0

    def key(self):
        self.serial += 1
        return f"{self.dice.getrandbits(64):016x}-{self.serial}"

    def one_row(self):
        key = self.key()
        result = self.replica.execute("INSERT INTO t VALUES (?, ?)", (key, self.serial))
        say(change=str(result.change), rows={key: self.serial})

    def many_rows(self):
        prefix, count = self.key(), self.dice.choice([20, 200, 200, 1000, 17_000])
        result = self.replica.insert_many("t", [(f"{prefix}.{number}", self.serial) for number in range(count)])
        say(change=str(result.change), bulk=[prefix, count, self.serial])

    def transaction(self):
        rows = {}
        self.replica.execute("BEGIN")
        for _ in range(self.dice.randrange(1, 30)):
            key = self.key()
            self.replica.execute("INSERT INTO t VALUES (?, 0)", (key,))
            self.replica.execute("UPDATE t SET v = v + ? WHERE k = ?", (self.serial, key))
            rows[key] = self.serial
        gone = self.key()
        self.replica.execute("SAVEPOINT s")
        self.replica.execute("INSERT INTO t VALUES (?, 0)", (gone,))
        self.replica.execute("ROLLBACK TO s")
        result = self.replica.execute("COMMIT")
        say(change=str(result.change), rows={**rows, gone: None})

    def first_row(self):
        self.one_row()

    def large(self):
        prefix = self.key()
        result = self.replica.insert_many("t", [(f"{prefix}.{number}", self.serial) for number in range(17_000)])
        say(change=str(result.change), bulk=[prefix, 17_000, self.serial])

    def delete(self):
        keys = [key for (key,) in self.replica.query("SELECT k FROM t ORDER BY k LIMIT 3")]
        result = self.replica.executemany("DELETE FROM t WHERE k = ?", [(key,) for key in keys])
        if keys:
            say(change=str(result.change), rows=dict.fromkeys(keys))

    def sync(self):
        self.replica.sync(self.folder)

    def finish(self):
        try:
            self.replica.finish()
        except IncompleteError:
            self.replica.sync(self.folder)

    def reopen(self):
        path, home = self.replica.path, self.home
        self.replica.close()
        self.replica = klal.open(path, home=home)

    def run(self):
        steps = [self.one_row] * 6 + [self.many_rows, self.transaction, self.transaction, self.delete]
        steps += [self.sync, self.sync, self.finish, self.reopen]
        while True:
            step = self.dice.choice(steps)
            say(step=step.__name__)
            step()


def opened(path, home, folder, seed):
    say(step="open")
    writer = Writer(klal.open(path, home=home), folder, int(seed))
    writer.home = home
    return writer


LASTING = {"execute", "executemany", "fsync", "replace", "link", "unlink", "mkdir", "close"}


def die_before(count):
    """Kill this process before its `count`th call of what could leave something in a file."""
    calls = itertools.count()

    def see(_frame, event, function):
        if event == "c_call" and function.__name__ in LASTING and next(calls) >= count:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(see)


def write(path, home, folder, seed, step="", count="0"):
    writer = opened(path, home, folder, seed)
    if not step:
        writer.run()
    if step != "first_row":
        writer.one_row()  # The fence is passed with the first write.
    say(step=step)
    die_before(int(count))
    getattr(writer, step)()
    sys.setprofile(None)
    say(done=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    while order := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            write(*sys.argv[1:], *order.split())
        say(pid=pid)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write("\n")  # Its last line may have been cut off.
        say(ended=os.WTERMSIG(status))


if __name__ == "__main__":
    main()
