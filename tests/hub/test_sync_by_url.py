"""`Replica.sync` with a hub's URL, against a hub that is a process of its own."""

import os
import subprocess
import sys

import pytest

import klal
from klal.errors import RefusedError, TransportError, UsageError
from tests.helpers.fleet import BIRD
from tests.helpers.hubs import HubProcess, environment, until
from tests.hub.conftest import TOKEN


def ids(replica):
    return [row[0] for row in replica.query("SELECT id FROM bird ORDER BY id")]


def test_two_replicas_meet_at_a_hub(shared):
    """SYN-7 WEB-1: what one brings the other takes away, and all three hold the same."""
    site, hub = shared
    ana, ben = site.join("ana"), site.join("ben")
    ana.execute("INSERT INTO bird VALUES('from ana', 1, '')")

    sent = ana.sync(hub.url)
    received = ben.sync(hub.url)
    ana.sync(hub.url)

    assert sent.equal
    assert sent.is_finished
    assert sent.sent_count >= 2
    assert "from ana" in ids(ben)
    assert received.received_count > sent.sent_count
    assert ana.status().root == ben.status().root


def test_a_large_history_goes_through_and_a_cut_is_resumed(shared):
    """SYN-8 SYN-9: in several frames, stopped after some bytes and gone on with."""
    site, hub = shared
    ana, ben = site.join("anna"), site.join("benno")
    ana.insert_many("bird", [(f"bulk {n}", n, os.urandom(40).hex()) for n in range(20_000)])
    seen = []

    cut = ana.sync(hub.url, byte_count_max=200_000)
    whole = ana.sync(hub.url, progress=seen.append)
    ben.sync(hub.url)
    ana.sync(hub.url)

    assert not cut.is_finished
    assert whole.equal
    assert {progress.phase for progress in seen} >= {"payloads"}
    assert ben.status().root == ana.status().root


def test_a_url_may_name_the_space_by_its_name_or_the_beginning_of_its_id(shared):
    """WEB-2."""
    site, hub = shared
    ana = site.join("ann")

    assert ana.sync(f"{hub.url}/flock").equal
    assert ana.sync(f"{hub.url}/{ana.space_id.hex()[:12]}").equal


def test_a_refused_connection_is_a_sentence(shared):
    site, _ = shared
    with pytest.raises(TransportError, match="nothing listens there"):
        site.join("anton").sync("ws://127.0.0.1:1")


@pytest.mark.parametrize(
    "url", ["ws://", "ws://:x@host", "wss://host/s?x=1", "ws://u:p@127.0.0.1/s", "ws://host:99999"]
)
def test_what_is_no_url_of_a_hub_is_used_wrongly(shared, url):
    site, _ = shared
    with pytest.raises(UsageError):
        site.join(f"of {len(site.opened)}").sync(url)


def test_whoever_is_not_admitted_is_told_so_and_nothing_else(shared, tmp_path):
    """ADM-3 T54: a stranger to the space, whatever the space is called."""
    _, hub = shared
    with klal.create(tmp_path / "x.db", space="other", member="eve", home=tmp_path / "home") as eve:
        for path in ("", "/flock", "/nowhere"):
            with pytest.raises(TransportError, match=r"does not admit this member$"):
                eve.sync(hub.url + path)


def test_a_token_lets_in_and_a_wrong_one_does_not(shared, tmp_path):
    """ADM-4: with it come the answers that strangers do not get."""
    site, hub = shared
    ana = site.join("anke")

    assert ana.sync(hub.url, token=TOKEN).equal
    with pytest.raises(TransportError, match="does not admit"):
        ana.sync(hub.url, token=TOKEN + "x")
    with pytest.raises(TransportError, match="has no such space"):
        ana.sync(f"{hub.url}/nowhere", token=TOKEN)
    with (
        klal.create(tmp_path / "x.db", space="other", member="eve", home=tmp_path / "home") as eve,
        pytest.raises(RefusedError, match="serves another space") as caught,
    ):
        eve.sync(f"{hub.url}/flock", token=TOKEN)
    assert caught.value.rule == "SYN-5"


def test_who_joined_by_a_member_the_hub_has_not_met_comes_in_once_it_has(site):
    """ADM-3: a join is proof enough where the inviter is known."""
    hub = site.serve()
    ben = site.join("ben")
    cleo = site.join("cleo", ben.invite())

    with pytest.raises(TransportError, match="does not admit"):
        cleo.sync(hub.url)
    ben.sync(hub.url)

    assert cleo.sync(hub.url).equal


def test_an_expelled_member_is_not_admitted(site):
    """ADM-3 MEM-9."""
    ben = site.join("ben")
    with klal.open(site.file, home=site.folder / "hub") as founder:
        founder.sync(ben.path)
    hub = site.serve()
    assert ben.sync(hub.url).equal
    hub.stop()
    with klal.open(site.file, home=site.folder / "hub") as founder:
        founder.expel("ben", reason="lost")
        founder.finish(alone=True)
        founder.close_epoch()
    hub.start()

    with pytest.raises(TransportError, match="does not admit"):
        ben.sync(hub.url)


def test_one_hub_serves_several_spaces_and_a_file_without_its_key_only_gives(site):
    """WEB-2 SYN-10."""
    other = site.folder / "other.db"
    with klal.create(other, space="herd", member="owner", home=site.folder / "owner") as founder:
        founder.execute(BIRD)
        founder.execute("INSERT INTO bird VALUES('kept', 1, '')")
        ticket = founder.invite()
    hub = site.serve(other)
    ana = site.join("ana")
    ben = klal.join(site.folder / "ben.db", ticket, member="ben", home=site.folder / "homes" / "ben")
    site.opened.append(ben)

    assert len(hub.spaces) == 2
    assert ana.sync(hub.url).equal
    assert not ben.sync(hub.url).equal
    assert ids(ben) == ["kept"]


def test_two_hubs_are_two_replicas(site):
    """W24: one dials the other, and what reaches one reaches both."""
    first = site.serve()
    second_file = site.folder / "second.db"
    klal.join(second_file, site.ticket, member="second", home=site.folder / "second").close()
    second = HubProcess(site.folder / "second", second_file, options=("--peer", first.url))
    site.hubs.append(second)
    ana, ben = site.join("ana"), site.join("ben")
    ana.execute("INSERT INTO bird VALUES('here', 1, '')")
    second.wait_for("peer in step")

    ana.sync(first.url)

    def reached():
        ben.sync(second.url)
        return "here" in ids(ben)

    until(reached)


def test_without_the_extra_a_sentence_says_what_to_install(shared):
    site, hub = shared
    ana = site.join("anouk")
    program = (
        "import sys; sys.modules['websockets'] = sys.modules['uvicorn'] = None\n"
        "from klal.cli import main\n"
        "sys.argv = ['klal', *{arguments}]\n"
        "sys.exit(main())"
    )
    for arguments in (
        ["sync", str(ana.path), hub.url],
        ["serve", str(site.file)],
        ["sync", str(ana.path), hub.url, "--watch"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", program.format(arguments=arguments)],
            env=environment(site.folder / "homes" / "anouk"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "pip install 'klal[hub]'" in done.stderr
