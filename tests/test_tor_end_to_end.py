"""Mounts, servers and a directory over the private Tor network: all real programs."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cbfs.tor_network import Network
from tests.sockets import Watch
from tests.world import World, through_tor, world

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
