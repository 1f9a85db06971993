"""Mounts, servers and a directory over the private Tor network: all real programs."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import stem.control
import stem.response.events

from cbfs.network.tor.private_network import PrivateTorNetwork
from tests.support.sockets import Watch
from tests.support.tornet import SystemTor
from tests.support.world import Service, User, World, through_tor, wait_for, world

pytestmark = [pytest.mark.tor, pytest.mark.mount]


@pytest.fixture
def here(
    tor_network: PrivateTorNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
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


LOOK_UPS = 20


def ask_for(user: User, name: str) -> None:
    """Have the name directory asked for a name that nobody has."""
    folder = user.mountpoint / "outbox" / name
    folder.mkdir()
    (folder / "note").write_text("for nobody")
    wait_for((folder / "note.error").exists, "the directory to say so")


def test_between_two_mounts_there_is_nothing_but_tor(
    here: World, tor_network: PrivateTorNetwork
) -> None:
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
        for number in range(LOOK_UPS):  # each is over in a moment, which a busy machine may miss
            watch.look()
            if watch.through_tor >= ours():
                break
            ask_for(alice, f"nobody{number}")
        everybody = ours()
    assert not watch.others
    assert watch.through_tor >= everybody  # each was seen while it talked with tor


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def delivered(user: User) -> None:
    """Until the servers have all that the user has sent."""
    wait_for(lambda: "everything that was sent is delivered" in status(user) or None, "delivery")


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
    delivered(alice)  # bob may have it before its sender knows

    system_tor.stop()
    wait_for(lambda: "Tor: not connected: " in status(alice) or None, "status to say so")
    for number in range(3):
        alice.write(folder, f"m{number}", f"meanwhile {number}\n")
    wait_for(lambda: "  3 messages to bob\n" in status(alice) or None, "them to be queued")
    assert "Tor: not connected: " in status(alice)
    watch = Watch(lambda: set(alice.pids()), set())
    watch.look()
    assert not watch.others  # no connection to anywhere
    assert contents(bob, "alice") == ["before\n"]

    system_tor.start()
    delivered(alice)
    assert "Tor: connected to the Tor network" in status(alice)
    alice.write(folder, "after", "after\n")
    bob.wait_message("alice", "after\n")
    expected = ["after\n", "before\n", *(f"meanwhile {number}\n" for number in range(3))]
    wait_for(lambda: len(contents(bob, "alice")) >= 5 or None, "all of it")
    assert contents(bob, "alice") == expected


@dataclass(slots=True)
class Streams:
    """What a tor has connected for whom, seen at its control port."""

    targets: dict[str, set[str]] = field(default_factory=dict)
    """SOCKS user name, and the hosts that it has reached."""
    circuits: dict[str, set[str]] = field(default_factory=dict)
    """SOCKS user name, and the circuits that carried its streams."""

    def heard(self, event: stem.response.events.StreamEvent) -> None:
        user = event.keyword_args.get("SOCKS_USERNAME", "").strip('"')
        if user and event.status == "SUCCEEDED":  # those without a user are tor's own
            self.targets.setdefault(user, set()).add(event.target_address)
            self.circuits.setdefault(user, set()).add(event.circ_id)

    def wait_users(self, server: Service, count: int) -> None:
        """Until so many users have reached that server."""
        host = server.url.partition("@")[2].rpartition(":")[0]
        wait_for(
            lambda: sum(host in hosts for hosts in list(self.targets.values())) >= count or None,
            f"{count} users of {host}",
        )


@contextmanager
def streams_of(control: str) -> Iterator[Streams]:
    """What that tor connects while the block lasts."""
    streams = Streams()
    with stem.control.Controller.from_socket_file(control) as controller:
        controller.authenticate()
        controller.add_event_listener(streams.heard, stem.control.EventType.STREAM)
        yield streams


def test_each_delivery_has_credentials_and_a_circuit_of_its_own(
    here: World, system_tor: SystemTor
) -> None:
    second, third = here.another_server("second"), here.another_server("third")
    homes = {"alice": third, "bob": here.server, "erin": here.server, "carol": second}
    homes["dave"] = third
    with ThreadPoolExecutor() as pool:
        accounts = {name: pool.submit(here.account, name, home) for name, home in homes.items()}
    alice = accounts["alice"].result()
    for account in accounts.values():
        account.result()
    alice.mounts = ("-o", f"tor={system_tor.control}")
    with streams_of(system_tor.control) as streams:
        alice.mount()
        everybody = "bob,carol,dave,erin"
        (alice.mountpoint / "outbox" / everybody).mkdir()
        alice.write(everybody, "news", "the news\n")
        wait_for(
            lambda: (
                (alice.messages() and "everything that was sent is delivered" in status(alice))
                or None
            ),
            "delivery",
        )
        # a connection that breaks is made again, with fresh credentials too: so at least
        streams.wait_users(here.server, 4)  # a prekey and a delivery for each of two
        streams.wait_users(second, 2)
        streams.wait_users(third, 3)  # and alice's own, whose home it is
        streams.wait_users(here.names, 5)  # a name each, and one's own
    assert all(len(hosts) == 1 for hosts in streams.targets.values())
    every = [circuit for found in streams.circuits.values() for circuit in found]
    assert len(every) == len(set(every))  # none has carried the streams of two
