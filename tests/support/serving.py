"""The message server as a process, and links to it, for tests."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, open_link, request
from cbfs_common.limits import ENVELOPE_SIZE, PREKEY_RECORD_SIZE
from cbfs_common.primitives import KEM_PUBLIC_SIZE, Random, dh_public, kem_encapsulate
from cbfs_common.profile import Address, parse_address
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import CreateAccount, List
from cbfs_common.wire.transport import ClientConnection, Event

RANDOM = Random(os.urandom, kem_encapsulate)
TIMEOUT = 150.0
"""Seconds after which what a test waits for has failed, however busy the machine is."""

FOREVER = 2**40


POSTGRES_WIDE = "POSTGRES" in os.environ
"""Whether all tests of a server's store are made with PostgreSQL as well, which takes minutes; else
it is those of its own, and what every store must do but for kills at each step and the model."""

_ALSO = (pytest.param("postgres", marks=pytest.mark.slow),) if POSTGRES_WIDE else ()
STORES = ("lmdb", *_ALSO)


def store_options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """For a server whose fixture has these stores as its parameters: where it keeps the mail."""
    if request.param == "lmdb":
        return ()
    return "--store", request.getfixturevalue("postgres_server").database()


class RunningServer:
    """``cbfs-server`` over ``data``; ``log`` is all that it wrote to stderr."""

    def __init__(self, data: Path, *options: str, listen: str = "127.0.0.1:0") -> None:
        self.data = data
        self.options = options
        self._log = data.parent / f"{data.name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cbfs_server.cli", "--data", str(data)),
                    *("--listen", listen, "--verbose", *options),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.address: Address = parse_address(out.readline().decode())

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_logged(self, pattern: str, since: int = 0) -> None:
        """Until it has logged that, behind so many characters: its thread writes when it can."""
        limit = time.monotonic() + TIMEOUT
        while not re.search(pattern, self.log[since:]):
            assert time.monotonic() < limit, self.log[since:]
            time.sleep(0.01)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return resident(self.process.pid)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT)

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(TIMEOUT)


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_server(data: Path, *options: str) -> Iterator[RunningServer]:
    server = RunningServer(data, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(TIMEOUT)


@asynccontextmanager
async def link_to(server: RunningServer, secret: bytes | None = None) -> AsyncIterator[Link]:
    """A link with the key of an account, or with a fresh one."""
    async with open_link(LoopbackDialer(), server.address, secret, b"test", RANDOM) as link:
        yield link


async def new_account(server: RunningServer) -> tuple[bytes, bytes]:
    """(secret, user id) of a new account."""
    secret = os.urandom(32)
    async with link_to(server, secret) as link:
        await request(link, CreateAccount())
    return secret, dh_public(secret)


async def listed(home: Link) -> list[bytes]:
    """All ids of the mailbox whose owner is at the other end of the link."""
    ids, after, more = list[bytes](), b"", True
    while more:
        page = await request(home, List(after))
        ids += page.ids
        after, more = (ids[-1] if ids else b""), page.more
    return ids


KEM = bytes(KEM_PUBLIC_SIZE)
"""The server does not look into it."""


def record(kind: PrekeyKind = PrekeyKind.ONE_TIME, expires: int = FOREVER) -> bytes:
    """A prekey record of noise; the server does not look into it."""
    start = os.urandom(16) + bytes([kind]) + expires.to_bytes(8, "big")
    return start + os.urandom(PREKEY_RECORD_SIZE - len(start))


def envelope() -> bytes:
    return os.urandom(ENVELOPE_SIZE)


class RawClient:
    """A blocking socket with a transport, for what a well-behaved client cannot do."""

    def __init__(self, server: RunningServer | Address, secret: bytes | None = None) -> None:
        address = server if isinstance(server, Address) else server.address
        self.socket = socket.create_connection((address.host, address.port), timeout=TIMEOUT)
        self.transport = ClientConnection(
            address.key, os.urandom(32) if secret is None else secret, RANDOM
        )

    def shake_hands(self) -> None:
        self.socket.sendall(self.transport.start())
        while not self.receive():
            pass
        self.socket.sendall(self.transport.data_to_send())

    def receive(self) -> list[Event]:
        data = self.socket.recv(65_536)
        assert data, "the server closed the connection"
        return self.transport.receive(data)

    def closed_by_server(self) -> bool:
        """Wait until it is."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            pass
        return True
