"""What we ask of the system for TCP connections with a tor, which are on this machine."""

import contextlib
import socket
from typing import Protocol


class _Socket(Protocol):
    """What is needed of a socket, or of a stream over one."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """As a socket's."""


def acknowledge(sock: _Socket) -> None:
    """Acknowledge now what has come. Does nothing for a socket that is not TCP.

    tor writes what comes through a circuit in pieces, and does not switch Nagle's algorithm off
    (tor 0.4.9): behind a piece that is not acknowledged yet the next one waits. The system would
    wait as well, for 40 ms, for something of ours to send along; and before a frame is whole there
    is nothing to say. Each end of a call lost these 40 ms. The acknowledgement goes to the tor on
    this machine and no further: nobody on the network sees whether there is one.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
