"""Mounts, servers and a directory over the private Tor network: all real programs."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cbfs.tor_network import Network
from tests.sockets import Watch
from tests.tornet import SystemTor
from tests.world import User, World, through_tor, wait_for, world

pytestmark = [pytest.mark.tor, pytest.mark.mount]


@pytest.fixture
def here(tor_network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("t"), through_tor(tor_network)) as made:
        yield made


def test_the_watch_sees_what_does_not_lead_to_tor() -> None:
    with ExitStack() as stack:
        watch = Watch(lambda: {os.getpid()}, set())
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        watch.look()
        assert not watch.others
        stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted, _ = listener.accept()
        stack.enter_context(accepted)
        watch.look()
        assert len(watch.others) == 2
        stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).bind(("127.0.0.1", 0))
        watch.look()
        assert len(watch.others) == 3


def test_between_two_mounts_there_is_nothing_but_tor(here: World, tor_network: Network) -> None:
    alice, bob = here.account("alice"), here.account("bob")
    tor = set(tor_network.pids.values())

    def ours() -> set[int]:
        return {here.names.pid, here.server.pid, *alice.pids(), *bob.pids()}

    with Watch(ours, tor) as watch:
        alice.mount()
        bob.mount()
        (alice.mountpoint / "outbox" / "bob").mkdir()
        alice.write("bob", "hello", "hello\n")
        folder = bob.wait_message("alice", "hello\n").parent.name
        bob.write(folder, "answer", "hello to you\n")
        alice.wait_message("bob", "hello to you\n")
        watch.look()
        everybody = ours()
    assert not watch.others
    assert watch.through_tor >= everybody  # each was seen while it talked with tor


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def contents(user: User, sender: str) -> list[str]:
    return sorted(path.read_text() for path in user.messages(sender))


def test_while_tor_is_stopped_all_waits_and_then_arrives_once(
    here: World, system_tor: SystemTor
) -> None:
    alice, bob = here.account("alice"), here.user("bob")
    alice.mounts = ("-o", f"tor={system_tor.control}")
    alice.mount()
    (alice.mountpoint / "outbox" / "bob").mkdir()
    alice.write("bob", "before", "before\n")
    folder = bob.wait_message("alice", "before\n").parent.name

    system_tor.stop()
    wait_for(lambda: "no Tor: " in status(alice) or None, "status to say so")
    for number in range(3):
        alice.write(folder, f"m{number}", f"meanwhile {number}\n")
    wait_for(lambda: "  3 messages to bob\n" in status(alice) or None, "them to be queued")
    assert "no Tor: " in status(alice)
    watch = Watch(lambda: set(alice.pids()), set())
    watch.look()
    assert not watch.others  # no connection to anywhere
    assert contents(bob, "alice") == ["before\n"]

    system_tor.start()
    wait_for(lambda: "everything that was sent is delivered" in status(alice) or None, "delivery")
    assert "Tor: connected to the Tor network" in status(alice)
    alice.write(folder, "after", "after\n")
    bob.wait_message("alice", "after\n")
    expected = ["after\n", "before\n", *(f"meanwhile {number}\n" for number in range(3))]
    wait_for(lambda: len(contents(bob, "alice")) >= 5 or None, "all of it")
    assert contents(bob, "alice") == expected
