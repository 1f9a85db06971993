"""Registrations through a sequencer and three verifiers, each a process of its own, all of whom
must sign. They share the cores with each other and with the load, which comes from this process.

As many people as a round has room for register at the same time: each commits, waits, registers,
waits, and is followed by another.
"""

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from cbfs_common.limits import ROUND_COMMITS_MAX
from cbfs_common.names.operations import Refusal
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.wire import RefusedReply, Submit, Submitted, decode_reply, encode_request
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.transport import Frame
from tests.bench.names_at_size import registration
from tests.bench.server import RANDOM, TIMEOUT, Client, on_disk
from tests.support.world import Service, program, wait_for

VERIFIERS = ("v1", "v2", "v3")
PEOPLE = 2 * ROUND_COMMITS_MAX
PER_CONNECTION = 32
"""Requests of one connection under way; the server reads on up to 64."""


def free_port() -> int:
    """One that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def directory(place: Path) -> Iterator[tuple[Address, list[int]]]:
    """Sequencer and verifiers, until the end of the block: where the sequencer is, and the ids of
    all processes."""
    ports = {name: free_port() for name in ("sequencer", *VERIFIERS)}
    lines = []
    for name, port in ports.items():
        role = ["--sequencer"] if name == "sequencer" else []
        words = ["key", "--data", str(place / name), *role, "--address", f"127.0.0.1:{port}"]
        named = "bench.example" if role else name
        done = subprocess.run(
            program("cbfs-names", *words, named), capture_output=True, text=True, check=True
        )
        lines.append(done.stdout)
    config = place / "config"
    terms = "registration work 0\n"
    config.write_text("".join(lines) + terms + f"group all all {' '.join(VERIFIERS)}\nquorum all\n")
    with ExitStack() as stack:
        services = {}
        for name, port in ports.items():
            option = "--sequencer" if name == "sequencer" else "--verifier"
            options = (option, "--config", str(config))
            services[name] = Service("cbfs-names", place / name, options, f"127.0.0.1:{port}")
            stack.callback(services[name].close)
        address = parse_address(services["sequencer"].url, "cbfs-names")
        yield address, [service.pid for service in services.values()]


class Submitter(Client):
    """A connection with several operations on their way."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, RANDOM.token(32))
        self._last = 0
        self.waiting: dict[int, Person] = {}

    def submit(self, person: "Person") -> None:
        self._last += 1
        self.waiting[self._last] = person
        payload = encode_request(Submit(person.next))
        self.socket.sendall(self._connection.send(self._last, payload))

    def answers(self) -> list[tuple["Person", object]]:
        """What one read completes."""
        events = self._connection.receive(self.socket.recv(65_536))
        return [
            (self.waiting.pop(event.id), decode_reply(event.payload))
            for event in events
            if isinstance(event, Frame)
        ]


@dataclass
class Person:
    """Somebody who registers a name by these operations."""

    operations: list[bytes]
    began: float = 0.0

    @property
    def next(self) -> bytes:
        return self.operations[0]


@dataclass
class Measured:
    """Registrations a second, the processor time of all the directory's processes for one, and how
    long one took from COMMIT to its last answer (median); in seconds."""

    rate: float
    cpu: float
    latency: float


@dataclass
class Load:
    """``people`` are still to come."""

    people: Iterator[Person]
    done: list[float] = field(default_factory=list)
    """How long each took who has registered."""

    def start(self, link: Submitter) -> bool:
        """The next one begins. False when there is nobody left."""
        person = next(self.people, None)
        if person is None:
            return False
        person.began = time.perf_counter()
        link.submit(person)
        return True

    def take(self, link: Submitter) -> None:
        """Answers, and what follows from them."""
        for person, reply in link.answers():
            if reply == RefusedReply(Refusal.NO_QUORUM):
                raise AssertionError("too slow")
            if not isinstance(reply, Submitted):
                raise AssertionError(f"refused: {reply}")
            del person.operations[0]
            if person.operations:
                link.submit(person)
            else:
                self.done.append(time.perf_counter() - person.began)
                self.start(link)


def measure(count: int) -> Measured:
    """Register so many names."""
    with on_disk() as place, directory(place) as (address, pids):
        policy = place / "sequencer" / "policy"
        text = wait_for(lambda: policy.exists() and policy.read_text(), "the policy")
        here = parse_policy(str(text)).directory
        people = [Person(list(registration(here, number))) for number in range(count)]
        wait_until_accepted(address, registration(here, count)[0])
        load = Load(iter(people))
        links = [Submitter(address) for _ in range(PEOPLE // PER_CONNECTION)]
        poll = select.epoll()
        by_descriptor = {link.socket.fileno(): link for link in links}
        started, used = time.perf_counter(), sum(map(cpu, pids))
        for descriptor, link in by_descriptor.items():
            poll.register(descriptor, select.EPOLLIN)
            for _ in range(PER_CONNECTION):
                load.start(link)
        while len(load.done) < count:
            for descriptor, _ in poll.poll(TIMEOUT):
                load.take(by_descriptor[descriptor])
        taken = time.perf_counter() - started
        used = sum(map(cpu, pids)) - used
        poll.close()
        for link in links:
            link.socket.close()
    return Measured(count / taken, used / count, median(load.done))


def wait_until_accepted(address: Address, operation: bytes) -> None:
    """Until all verifiers are there."""

    def accepted() -> bool:
        link = Submitter(address)
        link.submit(Person([operation]))
        while not (found := link.answers()):
            pass
        link.socket.close()
        return isinstance(found[0][1], Submitted)

    wait_for(accepted, "the verifiers")
