"""A server that has a name with several addresses: through Tor as well, clients reach it while one
of them is away."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from cbfs.network.dial import HOME, DialError
from cbfs.network.tor.config import TorOptions
from cbfs.network.tor.private_network import RELAYS, PrivateTorNetwork
from tests.support.tornet import PATIENCE, echo_server, talk, tor_of

pytestmark = pytest.mark.tor

NAME = "mail.cbfs.test"
AWAY, THERE = "127.0.0.9", "127.0.0.1"
EXITS = ("authority", *RELAYS)

_ADDRESS = bytes.fromhex("c00c 0001 0001 0000003c 0004")
"""Before an IPv4 address: of the name that was asked for, for a minute."""


def answer(question: bytes, addresses: list[str]) -> bytes:
    """What a name server says (RFC 1035): the addresses of NAME, and that there is no other."""
    end = question.index(b"\0", 12)
    labels = question[12:end].lower()
    known = b"".join(bytes([len(part)]) + part.encode() for part in NAME.split("."))
    if labels != known:
        return question[:2] + bytes.fromhex("8183 0001 0000 0000 0000") + question[12 : end + 5]
    wanted = addresses if question[end + 1 : end + 3] == b"\0\1" else []
    found = b"".join(_ADDRESS + socket.inet_aton(each) for each in wanted)
    head = bytes.fromhex("8180 0001") + len(wanted).to_bytes(2, "big") + bytes(4)
    return question[:2] + head + question[12 : end + 5] + found


@asynccontextmanager
async def name_server() -> AsyncIterator[int]:
    """A port on loopback. As name servers do, it gives the addresses in another order each time."""
    addresses = [AWAY, THERE]

    async def serve(sock: trio.socket.SocketType) -> None:
        while True:
            question, who = await sock.recvfrom(512)
            await sock.sendto(answer(question, addresses), who)
            addresses.append(addresses.pop(0))

    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, sock)
            yield sock.getsockname()[1]
            nursery.cancel_scope.cancel()


@contextmanager
def exits_ask(network: PrivateTorNetwork, port: int, place: Path) -> Iterator[None]:
    """All exits of the network ask this name server meanwhile."""
    path = place / "resolv.conf"
    path.write_text(f"nameserver 127.0.0.1:{port}\n")
    for name in EXITS:
        _tell(network, name, f"SETCONF ServerDNSResolvConfFile={path}")
    try:
        yield
    finally:
        for name in EXITS:
            _tell(network, name, "RESETCONF ServerDNSResolvConfFile")


def _tell(network: PrivateTorNetwork, name: str, command: str) -> None:
    cookie = (network.directory / name / "control_auth_cookie").read_bytes().hex()
    with socket.socket(socket.AF_UNIX) as control, control.makefile("rwb") as file:
        control.connect(str(network.directory / name / "control"))
        for each in (f"AUTHENTICATE {cookie}", command):
            file.write(each.encode() + b"\r\n")
            file.flush()
            assert file.readline() == b"250 OK\r\n"


def test_a_name_is_reached_by_another_address_while_one_is_away(
    tor_network: PrivateTorNetwork, tmp_path: Path
) -> None:
    """Each try goes by another circuit, and so by an exit that may have got another address."""

    async def main() -> None:
        options = TorOptions(control=tor_network.control("client"))
        async with (
            name_server() as names,
            echo_server() as port,
            tor_of(options, tmp_path / "client") as (tor, _),
        ):
            with exits_ask(tor_network, names, tmp_path):
                refused, reached = 0, 0
                with trio.fail_after(PATIENCE):
                    while not (refused and reached):
                        try:
                            stream = await tor.dialer.dial(NAME, port, HOME)
                        except DialError:
                            refused += 1
                        else:
                            await talk(stream, os.urandom(100))
                            await stream.aclose()
                            reached += 1

    trio.run(main)
