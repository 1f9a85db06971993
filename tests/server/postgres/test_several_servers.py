"""Two servers with one key and one database, at two addresses of one name: a client reaches the
one that is there, which has all that was left at the other."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import trio

from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, open_link, request
from cbfs_common.primitives import dh_public
from cbfs_common.wire.requests import CreateAccount, Deliver, Subscribe, decode_push
from tests.support.postgres import PostgresServer, free_ports
from tests.support.serving import RANDOM, TIMEOUT, RunningServer, envelope, running_server

HOSTS = "127.0.0.1", "127.0.0.2"


class TwoAddresses(trio.abc.HostnameResolver):
    """What the machine says when ``localhost`` has these addresses."""

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        assert host == b"localhost"
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(*kind, (each, port)) for each in HOSTS]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


class TwoServers:
    """At one port of both addresses."""

    def __init__(self, place: Path, store: str) -> None:
        (port,) = free_ports(1)
        self._places = [f"{host}:{port}" for host in HOSTS]
        self._options = "--store", store, "--public", f"localhost:{port}"
        self._data = [place / "one", place / "other"]
        self.running: dict[int, RunningServer] = {}
        self.start(0)
        self._data[1].mkdir(mode=0o700)
        copy(self._data[0] / "key", self._data[1] / "key")
        self.start(1)

    def start(self, number: int) -> None:
        """For the first time, or again."""
        data, listen = self._data[number], self._places[number]
        self.running[number] = RunningServer(data, *self._options, listen=listen)

    def kill(self, number: int) -> None:
        """At once."""
        self.running.pop(number).kill()


@contextmanager
def two_servers(place: Path, store: str) -> Iterator[TwoServers]:
    servers = TwoServers(place, store)
    try:
        yield servers
    finally:
        for number in tuple(servers.running):
            servers.kill(number)


def test_a_client_goes_to_the_other_server_while_one_is_away(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    secret = os.urandom(32)
    left: list[bytes] = []

    async def main(servers: TwoServers) -> None:
        trio.socket.set_custom_hostname_resolver(TwoAddresses())
        address = servers.running[0].address
        assert address == servers.running[1].address

        async def deliver() -> None:
            left.append(envelope())
            async with open_link(LoopbackDialer(), address, None, b"deliver", RANDOM) as link:
                await request(link, Deliver(dh_public(secret), left[-1]))

        async def takes(home: Link, number: int) -> None:
            for each in left[len(left) - number :]:
                assert decode_push(await home.pushes.receive()).envelope == each

        with trio.fail_after(TIMEOUT):
            for number in 0, 1, 0:
                async with open_link(LoopbackDialer(), address, secret, b"home", RANDOM) as home:
                    await request(home, CreateAccount())
                    await request(home, Subscribe())
                    await takes(home, len(left))
                    await deliver()
                    await takes(home, 1)
                    if 1 - number not in servers.running:
                        servers.start(1 - number)
                    servers.kill(number)
                    await home.wait_closed()
                await deliver()

    with two_servers(tmp_path, postgres_server.database()) as servers:
        trio.run(main, servers)
    assert len(left) == 6


def test_a_subscriber_is_told_what_comes_by_another_server(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Whichever of them he is connected to."""
    secret = os.urandom(32)
    left = [envelope() for _ in range(4)]

    async def main(servers: TwoServers) -> None:
        here, there = (replace(servers.running[0].address, host=host) for host in HOSTS)
        with trio.fail_after(TIMEOUT):
            async with open_link(LoopbackDialer(), here, secret, b"home", RANDOM) as home:
                await request(home, CreateAccount())
                await request(home, Subscribe())
                async with open_link(LoopbackDialer(), there, None, b"deliver", RANDOM) as link:
                    for each in left:
                        await request(link, Deliver(dh_public(secret), each))
                        assert decode_push(await home.pushes.receive()).envelope == each

    with two_servers(tmp_path, postgres_server.database()) as servers:
        trio.run(main, servers)


def test_a_server_does_not_leave_behind_the_mail_of_a_store_that_it_had(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    data, store = tmp_path / "data", postgres_server.database()
    with running_server(data) as server:
        assert server.terminate() == 0
    words = ("--data", str(data), "--listen", "127.0.0.1:0", "--store", store)
    command = [sys.executable, "-m", "cbfs_server.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 1
    assert "has a store of its own" in done.stderr
    (data / "store").rename(tmp_path / "before")
    with running_server(data, "--store", store) as again:
        assert again.address.key == server.address.key
