"""Connections through Tor's SOCKS port, and its refusals in words.

Names are never resolved here: they go to tor as they are. There is no other way out than the
SOCKS port: whatever fails, fails.
"""

import ipaddress
import re
from typing import Final, Protocol

import trio
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.trio import Proxy

from cbfs.network.dial import DialError, NotAllowed
from cbfs.network.tor.circuits import Lease
from cbfs_common.onion import is_onion_host
from cbfs_host.acknowledging import acknowledge

DIAL_TIMEOUT: Final = 30.0
"""Seconds for one connection. Usual are 3 to 8. A service that ends or gives up while it is being
met says nothing, and tor would wait for it four times as long (SocksTimeout); what was learnt of
it is kept, so that a new try is quicker and finds where it is now."""

REPLIES: Final = {
    0x01: (
        "Tor could not connect to {}",
        "tor found no circuit that reaches it; cbfs tries again",
    ),
    0x02: ("no exit of the Tor network connects to {}", "is the port right? exits refuse some"),
    0x03: ("the Tor network does not reach {}", "is this machine online?"),
    0x04: ("Tor cannot reach {}", "is the address right? is the server running?"),
    0x05: ("{} refuses the connection", "is the server running there?"),
    0x06: ("{} did not answer in time", "is the server running? cbfs tries again"),
    0x07: ("Tor refuses to connect to {}", "is the address right?"),
    0x08: ("Tor refuses the kind of address that {} is", "is the address right?"),
    0xF0: ("{} is not published: the onion service is down or new", "is the server running?"),
    0xF1: ("what is published about {} is not valid", "its operator should restart tor"),
    0xF2: ("{} is published and does not answer", "the server may be down; cbfs tries again"),
    0xF3: ("no meeting point with {} could be made", "cbfs tries again"),
    0xF4: (
        "{} is a private server, and you have no key for it",
        "make one: cbfs onion-key, and ask its operator",
    ),
    0xF5: ("{} is a private server that refuses your key", "ask its operator whether it is listed"),
    0xF6: ("{} is not an onion address", "is it complete? compare it with where it came from"),
    0xF7: ("{} did not answer in time", "the server may be down; cbfs tries again"),
}
"""Replies of SOCKS (RFC 1928) and of tor's ExtendedErrors (tor(1), SocksPort)."""

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9-]+")


class Gate(Protocol):
    """What the dialer needs of a running tor."""

    async def socks(self) -> tuple[str, int]:
        """Where tor speaks SOCKS, as soon as it is connected. Raises DialError."""

    def failed(self) -> None:
        """Look whether tor is still well: a connection failed."""

    def lease(self, isolation: bytes) -> Lease:
        """Credentials for one stream."""

    def release(self, lease: Lease) -> None:
        """The stream has ended."""


class TorDialer:
    """Reaches any server, through Tor alone. A ``Dialer``."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def dial(self, host: str, port: int, isolation: bytes) -> trio.abc.Stream:
        """A connection through Tor, on a circuit that nothing of another ``isolation`` uses. Waits
        until Tor is connected; the circuit is closed with the stream. Raises DialError or
        NotAllowed."""
        host = host.lower()
        check_host(host)
        address = await self._gate.socks()
        lease = self._gate.lease(isolation)
        try:
            stream = await _connect(address, lease, host, port)
        except BaseException as error:
            self._gate.release(lease)
            if isinstance(error, DialError):
                self._gate.failed()
            raise
        return TorStream(stream, self._gate, lease)


async def _connect(
    address: tuple[str, int], lease: Lease, host: str, port: int
) -> trio.SocketStream:
    proxy = Proxy(
        ProxyType.SOCKS5, *address, username=lease.user, password=lease.password, rdns=True
    )
    shown = f"{host}:{port}"
    try:
        return trio.SocketStream(await proxy.connect(host, port, timeout=DIAL_TIMEOUT))
    except ProxyTimeoutError as error:
        raise _refusal(0x06, shown) from error
    except ProxyConnectionError as error:
        raise DialError("tor does not answer at its SOCKS port", "is tor running?") from error
    except ProxyError as error:
        raise _refusal(reply_code(error), shown) from error
    except OSError as error:
        raise DialError("tor ended the connection", "is tor running?") from error


def reply_code(error: ProxyError) -> int:
    """The code of a SOCKS refusal, 1 (general failure) when there was none. The library knows
    the codes of RFC 1928 only and has the others in its text."""
    if error.error_code is not None:
        return int(error.error_code)
    found = re.search(r"reply code: 0x([0-9a-f]{2})", str(error), re.IGNORECASE)
    return int(found[1], 16) if found else 0x01


def _refusal(code: int, shown: str) -> DialError:
    words, hint = REPLIES.get(code, REPLIES[0x01])
    return DialError(words.format(shown), hint)


class TorStream(trio.abc.HalfCloseableStream):
    """A connection through Tor; closing it closes its circuit."""

    def __init__(self, stream: trio.SocketStream, gate: Gate, lease: Lease) -> None:
        self._stream = stream
        self._gate = gate
        self._lease: Lease | None = lease

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send data through the circuit. Raises what trio's streams raise."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the circuit may be able to carry more."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Tell the other end that nothing more is sent."""
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive some of what came through the circuit; empty at its end."""
        data = await self._stream.receive_some(max_bytes)
        acknowledge(self._stream)
        return data

    async def aclose(self) -> None:
        """Close the connection. The circuit is closed a moment later."""
        try:
            await self._stream.aclose()
        finally:
            lease, self._lease = self._lease, None
            if lease is not None:
                self._gate.release(lease)


def check_host(host: str) -> None:
    """Raises NotAllowed for what Tor can never reach: no complete v3 onion address
    (rend-spec-v3 6), no IP address and no full host name."""
    if host.endswith(".onion"):
        if not is_onion_host(host):
            raise NotAllowed(
                f"{host} is not a complete onion address",
                "an onion address has 56 letters and digits; compare it with where it came from",
            )
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise NotAllowed(
                f"{host!r} is not an address that Tor can reach",
                "an address is NAME.onion, a full host name or an IP address",
            ) from None
