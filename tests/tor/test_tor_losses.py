"""What breaks between two mounts and the private Tor network, and loses nothing."""

import hashlib
import os
import queue
import signal
from collections.abc import Iterator

import pytest
import stem
import stem.control
import stem.response.events

from cbfs.network.tor.private_network import PrivateTorNetwork
from tests.mount.test_attachments import IN_ENVELOPES
from tests.support.tornet import SystemTor
from tests.support.world import WAIT, User, World, through_tor, wait_for, world

pytestmark = [pytest.mark.tor, pytest.mark.mount]

FRAME = 16_384
"""Bytes of a stream after which a frame of ours is under way, and not its first."""

CLOSED = 3
"""Circuits that are closed under a file."""


@pytest.fixture(scope="module")
def here(
    tor_network: PrivateTorNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("l"), through_tor(tor_network)) as made:
        yield made


def status(user: User) -> str:
    return (user.mountpoint / "status").read_text()


def said(user: User, words: str) -> None:
    wait_for(lambda: words in status(user) or None, f"status to say {words!r}")


class Cutter:
    """Closes circuits when a stream on them has sent more than a frame and a half."""

    def __init__(self, controller: stem.control.Controller) -> None:
        self._controller = controller
        self._written: dict[str, int] = {}
        self._circuits: dict[str, str] = {}
        self.due: queue.Queue[str] = queue.Queue()

    def heard_stream(self, event: stem.response.events.StreamEvent) -> None:
        if event.circ_id:
            self._circuits[event.id] = event.circ_id

    def heard_bytes(self, event: stem.response.events.StreamBwEvent) -> None:
        total = self._written.get(event.id, 0) + event.written
        self._written[event.id] = total
        if total > FRAME * 3 // 2 and total % FRAME and event.id in self._circuits:
            self.due.put(self._circuits[event.id])

    def cut(self, count: int) -> None:
        """So many different ones."""
        done: set[str] = set()
        while len(done) < count:
            circuit = self.due.get(timeout=WAIT)
            if circuit not in done:
                try:
                    self._controller.close_circuit(circuit)
                except stem.InvalidArguments:
                    continue  # it has just ended by itself
                done.add(circuit)


def test_circuits_closed_in_the_middle_of_frames(here: World, system_tor: SystemTor) -> None:
    alice, bob = here.account("alice"), here.user("bob")
    alice.mounts = ("-o", f"tor={system_tor.control}")
    alice.mount()
    alice.run(IN_ENVELOPES)
    (alice.mountpoint / "outbox" / "bob").mkdir()
    data = os.urandom(4 << 20)
    with stem.control.Controller.from_socket_file(system_tor.control) as controller:
        controller.authenticate()
        cutter = Cutter(controller)
        controller.add_event_listener(cutter.heard_stream, stem.control.EventType.STREAM)
        controller.add_event_listener(cutter.heard_bytes, stem.control.EventType.STREAM_BW)
        alice.write("bob", "film.bin", data)
        cutter.cut(CLOSED)
    wait_for(lambda: bob.messages("alice") or None, "the file")
    (path,) = bob.messages("alice")
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    said(alice, "everything that was sent is delivered")


def test_a_network_that_changes_and_an_onion_that_is_away(
    here: World, system_tor: SystemTor
) -> None:
    carol, dave = here.account("carol"), here.user("dave")
    carol.mounts = ("-o", f"tor={system_tor.control}")
    carol.mount()
    (carol.mountpoint / "outbox" / "dave").mkdir()
    carol.write("dave", "first", "first\n")
    folder = dave.wait_message("carol", "first\n").parent.name

    system_tor.switch_network(False)
    said(carol, "Tor: not connected")
    carol.write(folder, "second", "second\n")
    said(carol, "  1 message to dave\n")
    system_tor.switch_network(True)
    said(carol, "Tor: connected to the Tor network")
    dave.wait_message("carol", "second\n")

    here.server.end(signal.SIGKILL)
    carol.write(folder, "third", "third\n")
    said(carol, "  1 message to dave\n")
    said(carol, "carol: not connected to ")
    here.server.start()
    dave.wait_message("carol", "third\n")
    said(carol, "everything that was sent is delivered")
    texts = sorted(path.read_text() for path in dave.messages("carol"))
    assert texts == ["first\n", "second\n", "third\n"]
