"""Home servers that mounts run by themselves, over the private Tor network."""

import os
import signal
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cbfs.network.tor.private_network import PrivateTorNetwork
from tests.support.world import User, World, run, through_tor, wait_for, world

pytestmark = [pytest.mark.tor, pytest.mark.mount]


@pytest.fixture
def here(
    tor_network: PrivateTorNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("o"), through_tor(tor_network)) as made:
        yield made


def servers_of(user: User) -> list[int]:
    """The processes of the user's own server."""
    word = str(user.account / "server").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if word in words:
            found.append(int(path.parent.name))
    return found


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def wait_published(user: User) -> None:
    wait_for(lambda: "own server: published" in status(user) or None, "the server")


def test_two_with_servers_of_their_own_need_no_other(
    here: World, tor_network: PrivateTorNetwork
) -> None:
    with ThreadPoolExecutor() as pool:
        alice, bob = pool.map(here.account_with_server, ("alice", "bob"))
    assert not servers_of(alice)
    host = tor_network.control("host")
    bob.mounts = ("-o", f"tor={host}")
    alice.mount()
    (alice.mountpoint / "outbox" / "bob").mkdir()
    alice.write("bob", "early", "bob is not there\n")
    wait_for(lambda: "bob: " in status(alice) or None, "status to say what is wrong")
    assert "1 message to bob" in status(alice)

    bob.mount()
    folder = bob.wait_message("alice", "bob is not there\n").parent.name
    wait_published(bob)
    bob.write(folder, "answer", "now I am\n")
    alice.wait_message("bob", "now I am\n")
    wait_published(alice)
    assert (len(servers_of(alice)), len(servers_of(bob))) == (1, 1)

    # the server is killed: it is started again, and nothing is lost
    (server,) = servers_of(bob)
    os.kill(server, signal.SIGKILL)
    alice.write(folder, "again", "to a new server\n")
    bob.wait_message("alice", "to a new server\n")
    assert servers_of(bob) != [server]

    # the mount is killed: its server ends with it
    bob.kill()
    wait_for(lambda: not servers_of(bob) or None, "bob's server to end")
    alice.write(folder, "last", "while bob is dead\n")
    bob.mount()
    bob.wait_message("alice", "while bob is dead\n")
    texts = [path.read_text() for path in bob.messages("alice")]
    assert sorted(texts) == ["bob is not there\n", "to a new server\n", "while bob is dead\n"]
    bob.unmount()
    wait_for(lambda: not servers_of(bob) or None, "bob's server to end with his mount")
    for path in bob.account.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_private_server_of_ones_own_is_reached_by_its_clients_only(
    here: World, tor_network: PrivateTorNetwork
) -> None:
    with ThreadPoolExecutor() as pool:
        names = ("alice", "bob", "carol")
        alice, bob, carol = pool.map(here.account_with_server, names)
    carol.mounts = ("-o", f"tor={tor_network.control('host')}")  # keys are known to a whole tor
    alice.mount()
    profile = tomllib.loads((alice.mountpoint / "profile.toml").read_text())
    alice.unmount()
    host = profile["server"].rpartition("@")[2].partition(":")[0]
    key = run("cbfs", "onion-key", host, "--account", bob.account)
    assert key.returncode == 0, key.stderr
    (alice.account / "server" / "clients").write_text(f"bob {key.stdout}")
    alice.mount()
    wait_published(alice)
    for user, text in ((carol, "from carol\n"), (bob, "from bob\n")):
        user.mount()
        (user.mountpoint / "outbox" / "alice").mkdir()
        user.write("alice", "note", text)
    alice.wait_message("bob", "from bob\n")
    wait_for(lambda: "you have no key for it" in status(carol) or None, "carol to be told")
    assert not alice.messages("carol")


def test_a_server_of_ones_own_is_reached_through_tor_only(here: World, tmp_path: Path) -> None:
    here.way = replace(here.way, accounts=("--no-tor",))
    policy = here.place / "names" / "policy"
    done = run(
        *("cbfs", "init", "alice", "--own-server", "--no-tor", "--account", tmp_path / "a"),
        *("--names", policy),
    )
    assert done.returncode == 1
    assert "reached through Tor" in done.stderr
    assert "cbfs: hint:" in done.stderr
    both = run("cbfs", "init", "alice", "--own-server", "--server", "x", "--names", policy)
    assert both.returncode == 2
