"""A home server of one's own: the program cbfs-server, which the client starts beside itself,
starts again when it fails, and ends.

It is an onion service of the tor that the client uses, with its keys and its store in the folder
``server`` of the account directory. Peers reach it by Tor while the account is mounted, and try
again while it is not. Its owner reaches it at a unix socket. It ends with its standard input,
so also when the client is killed. Where its folder has a file ``clients``, it is a private server:
only the peers of that file can reach it.
"""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cbfs.problems import Backoff
from cbfs_common.errors import CbfsError, in_words
from cbfs_common.primitives import Random
from cbfs_common.profile import Address, parse_address
from cbfs_host.files import make_directory

if TYPE_CHECKING:
    from cbfs.network.tor.tor import Tor

STOP_TIMEOUT: Final = 10.0
"""Seconds that the server has to end before it is killed."""

LOG_TAIL: Final = 4_096
"""Bytes at the end of its log in which it may say why it ended."""

READ_SIZE: Final = 4_096

CLIENTS: Final = "clients"
"""The file of those who may reach it, as of ``cbfs-server --onion-clients``."""


class OwnServer:
    """Runs a home server of one's own, again and again. ``directory`` is its data directory;
    ``socket`` the path where its owner connects; ``known`` the address that peers have, None for a
    new account; ``changed`` is called whenever ``line`` has changed."""

    def __init__(
        self,
        directory: Path,
        socket: str,
        tor: "Tor",
        known: Address | None,
        random: Random,
        changed: Callable[[], None],
    ) -> None:
        self.line = "own server: it starts when Tor is connected"
        """How it is, for ``status``."""
        self._directory = directory
        self._socket = socket
        self._tor = tor
        self._backoff = Backoff(random)
        self._changed = changed
        self._address = known
        self._published = trio.Event()

    def host(self) -> str:
        """The host name of the server's address, empty while it has none."""
        return self._address.host if self._address else ""

    async def address(self) -> Address:
        """The server's address, as soon as peers can reach it there for the first time."""
        await self._published.wait()
        if self._address is None:
            raise CbfsError("your own server has no address")
        return self._address

    async def keep(self) -> None:
        """Run the server until cancelled."""
        while True:
            await self._tor.wait_up()
            try:
                why = await self._run()
            except (CbfsError, OSError) as error:
                why = in_words(error)
            wait = self._backoff.next()
            self._say(f"has ended: {why}; started again within {wait:.0f} s")
            await trio.sleep(wait)

    async def _run(self) -> str:
        """Run the server once; why it ended."""
        self._say("being published")
        make_directory(self._directory)
        log = self._directory / "log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        errors = os.open(log, flags, 0o600)
        try:
            process = await trio.lowlevel.open_process(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        finally:
            os.close(errors)
        try:
            line = await _first_line(process)
            if line:
                self._note(parse_address(line))
            await process.wait()
        finally:
            await _end(process)
        return _last_error(log)

    def _note(self, address: Address) -> None:
        """Note that the server is published at this address. Raises CbfsError when peers know it by
        another."""
        if self._address not in (None, address):
            raise CbfsError(f"{self._directory} holds other keys than peers know it by")
        self._address = address
        self._published.set()
        self._backoff.reset()
        self._say("published as an onion service")

    def _command(self) -> list[str]:
        options = ["--listen", "127.0.0.1:0", "--onion", "--tor-control", self._tor.control]
        if (self._directory / CLIENTS).exists():
            options += ["--onion-clients", str(self._directory / CLIENTS)]
        return [
            *(installed("cbfs-server"), "--data", str(self._directory)),
            *("--own", self._socket, *options),
        ]

    def _say(self, how: str) -> None:
        self.line = f"own server: {how}"
        self._changed()


async def _first_line(process: trio.Process) -> str:
    """What the server prints first, its address; empty when it ends before."""
    said = b""
    while process.stdout is not None and not said.endswith(b"\n"):
        more = await process.stdout.receive_some(READ_SIZE)
        if not more:
            return ""
        said += more
    return said.decode("utf-8", "replace").strip()


async def _end(process: trio.Process) -> None:
    with trio.CancelScope(shield=True):
        if process.stdin is not None:
            await process.stdin.aclose()
        with trio.move_on_after(STOP_TIMEOUT):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


def _last_error(log: Path) -> str:
    """The reason that a server gave before it ended."""
    text = log.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace")
    errors = [line for line in text.splitlines() if line.startswith("cbfs: error: ")]
    return errors[-1].removeprefix("cbfs: error: ") if errors else "it was killed"


def installed(name: str) -> str:
    """The path of the program that was installed together with this one. Raises CbfsError."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise CbfsError(f"{name} is not installed", "./run demo installs it")
    return found
