"""What a service and systemd tell each other: sockets that it has opened for the service, and
datagrams that say how the service is (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).

No library is asked: those for Python are not kept, or need libsystemd and a compiler. Where there
is no systemd, nothing is told and nothing was passed.
"""

import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final

import trio

from cbfs_host.complaints import HostError

FIRST: Final = 3
"""Descriptor of the first socket that is passed."""

PARTS: Final = 3
"""Of the time that the watchdog allows, one such part lies between two signs of life."""

_log = logging.getLogger(__name__)


class Manager:
    """Who is told how the service is."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Takes what ``environment`` says out of it, so that no other process believes it is
        meant. Default: of this process."""
        found = os.environ if environment is None else environment
        where = found.pop("NOTIFY_SOCKET", "")
        self._where = "\0" + where[1:] if where.startswith("@") else where
        for_us = found.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        allowed = found.pop("WATCHDOG_USEC", "")
        self.patience = int(allowed) / 1e6 if for_us and allowed.isdecimal() else 0.0
        """Seconds without a sign of life after which the service is ended; 0: never."""

    def ready(self, status: str) -> None:
        """It serves; ``status``: what ``systemctl status`` shows."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reads its settings again, until it is ``reloaded``."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """It has read its settings again."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """It ends."""
        self._tell("STOPPING=1")

    async def watch(self, progress: Callable[[], Awaitable[object]]) -> None:
        """Give signs of life until cancelled, each after ``progress`` has been made: it waits for
        the parts of the service that others wait for, and may raise no error."""
        while self.patience > 0:
            await progress()
            self._tell("WATCHDOG=1")
            await trio.sleep(self.patience / PARTS)

    def _tell(self, *lines: str) -> None:
        if not self._where:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._where)
        except OSError as error:
            _log.warning("systemd is not told how the service is: %s", error.strerror)


def passed_sockets(environment: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """The listening sockets (SOCK_STREAM, non-blocking) that the service was started with, taken
    once. Raises HostError for what is none."""
    found = os.environ if environment is None else environment
    for_us = found.pop("LISTEN_PID", "") == str(os.getpid())
    count = found.pop("LISTEN_FDS", "")
    found.pop("LISTEN_FDNAMES", None)
    if not for_us or not count.isdecimal():
        return []
    return [_passed(FIRST + number) for number in range(int(count))]


def _passed(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise _unfit(descriptor) from error
    if not listens or sock.type != socket.SOCK_STREAM:
        raise _unfit(descriptor)
    sock.setblocking(False)
    return sock


def _unfit(descriptor: int) -> HostError:
    return HostError(
        f"the descriptor {descriptor} that systemd has passed is no socket to accept on",
        "give the socket unit ListenStream=, and Accept=no",
    )
