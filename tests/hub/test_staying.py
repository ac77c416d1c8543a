"""`stay_synced` and `klal sync --watch`: what one side gains is with the others at once, whatever the hub does."""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

import klal
from klal.errors import RefusedError, UsageError
from tests.helpers.fleet import BIRD
from tests.helpers.hubs import environment, line_of, until

DEADLINE_S = 60


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))


def ids(replica):
    return {row[0] for row in replica.query("SELECT id FROM bird")}


class Staying:
    """Replicas that stay connected, on one event loop, and how it stands with each."""

    def __init__(self, *replicas, url):
        self.replicas = replicas
        self.states = {replica.member_name: [] for replica in replicas}
        self.moved = asyncio.Event()
        self.tasks = [asyncio.create_task(self._stay(replica, url)) for replica in replicas]

    async def _stay(self, replica, url):
        def told(standing):
            self.states[replica.member_name].append(standing)
            self.moved.set()

        await replica.stay_synced(url, on_standing=told)

    async def until(self, look):
        """Return once `look` is true; it is asked again whenever something may have moved."""
        while not look():
            for task in self.tasks:
                assert not task.done(), task
            self.moved.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self.moved.wait()
            except TimeoutError:
                continue

    async def in_step(self, after=0):
        """Return once every replica is in step, with a session ended after so many states."""
        await self.until(
            lambda: all(any(s.state == "in step" for s in states[after:]) for states in self.states.values())
        )

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def staying(*replicas, url):
    made = Staying(*replicas, url=url)
    try:
        await made.in_step()
        yield made
    finally:
        await made.end()


def test_what_one_writes_the_others_have_at_once_and_receipts_come_back(site):
    """W12 LIN-3: two clients and the hub between them; nobody asks for anything."""
    hub = site.serve()
    ana, ben = site.join("ana"), site.join("ben")

    async def story():
        async with staying(ana, ben, url=hub.url) as both:
            for writer, name in ((ana, "one"), (ben, "two"), (ana, "three")):
                change = writer.execute("INSERT INTO bird VALUES(?, 1, '')", (name,)).change
                await writer.wait_async(change, held_by="all", timeout=30)
            await both.until(lambda: ids(ana) == ids(ben) == {"one", "two", "three"})

    run(story())

    ended = until(lambda: len([line for line in hub.log() if line["event"] == "ended"]) == 2 and hub.log())
    # One session each when they came, and all else by offers.
    assert [line["sessions"] for line in ended if line["event"] == "ended"] == [1, 1]


def test_a_large_change_and_a_transaction_in_hand_are_no_obstacle(site):
    """LIN-4: too large to be offered; and no round of work runs inside the program's own transaction."""
    hub = site.serve()
    ana, ben = site.join("ana"), site.join("ben")

    async def story():
        async with staying(ana, ben, url=hub.url) as both:
            with ben.transaction():
                ben.execute("INSERT INTO bird VALUES('mine', 1, '')")
                ana.insert_many("bird", [(f"bulk {n}", n, random.Random(n).randbytes(60).hex()) for n in range(20_000)])
                await asyncio.sleep(0.3)
                assert ids(ben) == {"mine"}
            await both.until(lambda: ids(ana) == ids(ben) and len(ids(ana)) == 20_001)

    run(story())


def test_what_another_process_writes_goes_at_once(site):
    """D3: the file is looked at, the network is not."""
    hub = site.serve()
    ana, ben = site.join("ana"), site.join("ben")
    ana.close()

    async def story():
        async with staying(ben, url=hub.url) as one:
            command = [sys.executable, "-m", "klal", "sync", str(ana.path), hub.url, "--watch", "--json"]
            home = environment(site.folder / "homes" / "ana")
            watching = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True, env=home)
            try:
                states = [(await asyncio.to_thread(line_of, watching))["state"] for _ in range(3)]
                with klal.open(ana.path, home=site.folder / "homes" / "ana") as other:
                    other.execute("INSERT INTO bird VALUES('by another', 1, '')")
                await one.until(lambda: ids(ben) == {"by another"})
                watching.send_signal(signal.SIGTERM)
                return states, await asyncio.to_thread(watching.wait)
            finally:
                watching.kill()
                watching.stdout.close()

    states, code = run(story())

    assert states[0] == "connecting"
    assert states[-1] == "in step"
    assert code == 0


def test_a_hub_that_stops_tells_its_clients_to_come_back_and_they_do(site):
    """WEB-5: SIGTERM, with what was running made durable and the files closed."""
    hub = site.serve()
    ana, ben = site.join("ana"), site.join("ben")

    async def story():
        async with staying(ana, ben, url=hub.url) as both:
            assert await asyncio.to_thread(hub.stop) == 0
            await both.until(lambda: all(any(s.state == "waiting" for s in each) for each in both.states.values()))
            ana.execute("INSERT INTO bird VALUES('meanwhile', 1, '')")
            before = max(map(len, both.states.values()))
            await asyncio.to_thread(hub.start)
            await both.in_step(after=before)
            await both.until(lambda: ids(ben) == {"meanwhile"})
            return both.states["ana"]

    states = run(story())

    assert any("stopped or restarted" in standing.why for standing in states)
    assert hub.log()[-1]["event"] != "error"
    assert not [line for line in hub.log() if line["event"] == "error"]


def test_a_hub_whose_disk_was_rolled_back_gets_back_what_it_lost(site):
    """T32 T50: it has no say, so it loses nothing that anybody else has."""
    hub = site.serve()
    ana, ben = site.join("ana"), site.join("ben")
    ana.sync(hub.url)
    hub.stop()
    for path in site.folder.glob("hub.db*"):
        shutil.copy(path, path.with_name(f"old-{path.name}"))
    hub.start()
    ana.execute("INSERT INTO bird VALUES('after the backup', 1, '')")
    ana.sync(hub.url)
    hub.kill()
    for path in site.folder.glob("hub.db*"):
        path.unlink()
    for path in site.folder.glob("old-hub.db*"):
        shutil.copy(path, path.with_name(path.name.removeprefix("old-")))
    hub.start()

    report = ana.sync(hub.url)
    ben.sync(hub.url)

    assert report.equal
    assert ids(ben) == {"after the backup"}


def test_a_hub_of_another_space_ends_it_with_a_sentence(site):
    """SYN-5: dialing again would help nobody."""
    other = site.folder / "other.db"
    with klal.create(other, space="herd", member="hub", home=site.folder / "hub") as founder:
        founder.execute(BIRD)
    hub = site.serve(other, options=("--token-file", str(site.tokens())))
    ana = site.join("ana")

    with pytest.raises(RefusedError, match="serves another space"):
        run(ana.stay_synced(f"{hub.url}/herd", token=site.tokens().read_text().split()[-1]))
    with pytest.raises(UsageError):
        run(ana.stay_synced())
    with pytest.raises(UsageError):
        run(ana.stay_synced("http://127.0.0.1"))


async def _storm(site, hub, names, seed, kill_count):
    """Let clients write while the hub is killed and started again; return what they were told is stored."""
    dice = random.Random(seed)
    replicas = [site.join(name) for name in names]
    said = set()
    is_over = False

    async def write(replica, its):
        serial = 0
        while not is_over:
            name = f"{replica.member_name} {serial}"
            replica.execute("INSERT INTO bird VALUES(?, ?, '')", (name, serial))
            said.add(name)
            serial += 1
            await asyncio.sleep(its.random() * 0.05)

    async with staying(*replicas, url=hub.url) as clients:
        writers = [asyncio.create_task(write(replica, random.Random(dice.random()))) for replica in replicas]
        for _ in range(kill_count):
            await asyncio.sleep(0.1 + dice.random() * 0.3)
            hub.kill()
            await asyncio.to_thread(hub.start)
            await clients.in_step(after=max(map(len, clients.states.values())))
        is_over = True
        await asyncio.gather(*writers)
        await clients.until(lambda: all(ids(replica) == said for replica in replicas))
    return said


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seed", "kill_count"), [(1, 2), *(pytest.param(seed, 20, marks=pytest.mark.soak) for seed in range(2, 27))]
)
def test_nothing_is_lost_when_the_hub_is_killed_under_load(site, seed, kill_count):
    """S48 W9 T32: SIGKILL, again and again, while three clients write."""
    hub = site.serve()

    said = asyncio.run(asyncio.wait_for(_storm(site, hub, ("ana", "ben", "cleo"), seed, kill_count), 280))

    assert hub.stop() == 0
    with klal.open(site.file, home=site.folder / "hub") as kept:
        assert ids(kept) == said
        kept.verify()
